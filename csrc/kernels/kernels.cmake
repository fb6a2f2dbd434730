# The kernels as one static library. An ISA's flags go to that ISA's file alone, and such a file includes no STL:
# an inline function compiled with AVX flags could be the copy that the linker keeps for everyone.
include(CheckCXXSourceCompiles)
check_cxx_source_compiles("#if !defined(__x86_64__)\n#error\n#endif\nint main() {}" BAKER_X86_64)
check_cxx_source_compiles("#if !defined(__aarch64__)\n#error\n#endif\nint main() {}" BAKER_AARCH64)

set(TERNARY csrc/kernels/ternary_matmul)
add_library(baker_kernels STATIC
  csrc/common/cpu.cc
  csrc/common/p64.cc
  ${TERNARY}/weights.cc
  ${TERNARY}/run.cc
  ${TERNARY}/dispatch.cc
  ${TERNARY}/scalar.cc)
target_link_libraries(baker_kernels PRIVATE baker_flags)
target_include_directories(baker_kernels PUBLIC csrc)

if(BAKER_X86_64)
  target_sources(baker_kernels PRIVATE ${TERNARY}/x86_avx2.cc ${TERNARY}/x86_avx512vnni.cc)
  set_source_files_properties(${TERNARY}/x86_avx2.cc PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma")
  # GCC before 13 warns about its own AVX-512 header (GCC bug 105593).
  set_source_files_properties(${TERNARY}/x86_avx512vnni.cc PROPERTIES COMPILE_OPTIONS
    "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512vnni;-mfma;$<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>")
elseif(BAKER_AARCH64)
  target_sources(baker_kernels PRIVATE ${TERNARY}/arm_neon.cc ${TERNARY}/arm_dotprod.cc)
  set_source_files_properties(${TERNARY}/arm_dotprod.cc PROPERTIES COMPILE_OPTIONS "-march=armv8.2-a+dotprod")
endif()
