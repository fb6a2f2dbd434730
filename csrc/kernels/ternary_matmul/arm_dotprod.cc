// ARMv8.2 dot product: sdot multiplies four codes with four activations a lane and adds them in int32. Lane j of a
// row's 16 activations is what field j of the weights meets.
#include "kernels/ternary_matmul/arm_tile.h"

namespace baker::ternary {
namespace {

struct Sdot {
  static constexpr int kRegisters = 4;

  template <int J, int R>
  static inline void field(const uint8x16_t (&codes)[kRegisters], const int8x16_t (&a)[R],
                           int32x4_t (&acc)[R][kRegisters]) {
#pragma GCC unroll 4
    for (int z = 0; z < kRegisters; ++z) {
      const uint8x16_t moved = J == 0 ? codes[z] : vshrq_n_u8(codes[z], J == 0 ? 1 : 2 * J);
      const int8x16_t t = vreinterpretq_s8_u8(vandq_u8(moved, vdupq_n_u8(3)));
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[r][z] = vdotq_laneq_s32(acc[r][z], t, a[r], J);
    }
  }

  template <int R>
  static void accumulate(const std::uint8_t* weights, const std::int8_t* q, std::int64_t stride, std::int64_t count,
                         int32x4_t (&acc)[R][kRegisters]) {
    for (std::int64_t block = 0; block < count; ++block, weights += p64::kBlockBytes, q += stride) {
      int8x16_t a[R];
      uint8x16_t codes[kRegisters];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) a[r] = vld1q_s8(q + r * p64::kBlockWeights);
#pragma GCC unroll 4
      for (int z = 0; z < kRegisters; ++z) codes[z] = vld1q_u8(weights + 16 * z);
      field<0>(codes, a, acc);
      field<1>(codes, a, acc);
      field<2>(codes, a, acc);
      field<3>(codes, a, acc);
    }
  }
};

}  // namespace

const Products kNeonDotprodProducts = {multiply<Sdot>};

}  // namespace baker::ternary
