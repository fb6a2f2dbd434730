# The kernels as one static library. An ISA's flags go to that ISA's file alone, and such a file includes no STL:
# an inline function compiled with AVX flags could be the copy that the linker keeps for everyone.
include(CheckCXXSourceCompiles)
check_cxx_source_compiles("#if !defined(__x86_64__)\n#error\n#endif\nint main() {}" BAKER_X86_64)
check_cxx_source_compiles("#if !defined(__aarch64__)\n#error\n#endif\nint main() {}" BAKER_AARCH64)

if(BAKER_X86_64)  # GCC 11, Clang 12 and their assemblers; without them this one variant is left out
  set(CMAKE_REQUIRED_FLAGS -mavxvnni)
  check_cxx_source_compiles("#include <immintrin.h>
    int main() { __asm__(\"%{vex%} vpdpbusd %%ymm0, %%ymm0, %%ymm0\" : :); }" BAKER_AVXVNNI)
  unset(CMAKE_REQUIRED_FLAGS)
endif()

set(TERNARY csrc/kernels/ternary_matmul)
add_library(baker_kernels STATIC
  csrc/common/cpu.cc
  csrc/common/p64.cc
  csrc/common/p80.cc
  csrc/common/shared_bytes.cc
  csrc/common/trits.cc
  ${TERNARY}/activation.cc
  ${TERNARY}/weights.cc
  ${TERNARY}/layout.cc
  ${TERNARY}/run.cc
  ${TERNARY}/dispatch.cc
  ${TERNARY}/scalar.cc
  ${TERNARY}/scalar_rows.cc)
target_link_libraries(baker_kernels PRIVATE baker_flags)
target_include_directories(baker_kernels PUBLIC csrc)

set(AVX2 -mavx2 -mfma)
set(AVXVNNI ${AVX2} -mavxvnni)
set(AVX512_VNNI -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # GCC before 13 warns about its own AVX-512 header (GCC bug 105593)
  list(APPEND AVX512_VNNI -Wno-maybe-uninitialized)
endif()

set(AVX512_VBMI ${AVX512_VNNI} -mavx512vbmi)

# isa_sources(FLAGS_VARIABLE FILE...): files of this folder that one instruction set's flags go to.
function(isa_sources FLAGS)
  list(TRANSFORM ARGN PREPEND ${TERNARY}/)
  target_sources(baker_kernels PRIVATE ${ARGN})
  set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS "${${FLAGS}}")
endfunction()

if(BAKER_X86_64)
  isa_sources(AVX2 x86_avx2.cc x86_avx2_rows.cc x86_avx2_tables.cc)
  if(BAKER_AVXVNNI)
    isa_sources(AVXVNNI x86_avxvnni.cc)
    set_source_files_properties(${TERNARY}/dispatch.cc PROPERTIES COMPILE_DEFINITIONS BAKER_AVXVNNI)
  endif()
  isa_sources(AVX512_VBMI x86_avx512vbmi.cc)
  isa_sources(AVX512_VNNI x86_avx512vnni.cc x86_avx512_rows.cc)
elseif(BAKER_AARCH64)
  set(NEON "")
  set(NEON_DOTPROD -march=armv8.2-a+dotprod)
  isa_sources(NEON arm_neon.cc arm_rows.cc)
  isa_sources(NEON_DOTPROD arm_dotprod.cc)
endif()
