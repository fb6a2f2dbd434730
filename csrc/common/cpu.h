// What the CPU that runs this process can do, as far as kernels are chosen by it.
#pragma once

namespace baker {

struct CpuFeatures {
  bool avx2 = false;         // AVX2 and FMA
  bool avx_vnni = false;     // the same and AVX-VNNI
  bool avx512_vnni = false;  // AVX-512 F, BW, DQ, VL and VNNI
  bool avx512_vbmi = false;  // the same and VBMI
  bool neon = false;         // any AArch64
  bool neon_dotprod = false;
};

// Asked of the CPU and the operating system once; later calls return the same object.
[[nodiscard]] const CpuFeatures& cpu_features() noexcept;

}  // namespace baker
