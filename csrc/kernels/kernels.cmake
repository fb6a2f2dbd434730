# The kernels as one static library. An ISA's flags go to that ISA's file alone, and such a file includes no STL:
# an inline function compiled with AVX flags could be the copy the linker keeps for everyone.
add_library(baker_kernels STATIC
  csrc/common/cpu.cc
  csrc/common/p64.cc
  csrc/kernels/ternary_matmul/weights.cc
  csrc/kernels/ternary_matmul/run.cc
  csrc/kernels/ternary_matmul/dispatch.cc
  csrc/kernels/ternary_matmul/scalar.cc)
target_link_libraries(baker_kernels PRIVATE baker_flags)
target_include_directories(baker_kernels PUBLIC csrc)
