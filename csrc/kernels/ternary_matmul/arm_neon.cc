// Any AArch64: smlal adds products of codes and activations in int16. One is at most 2 * 127 = 254, so 128 of them fit
// (32512) before they are widened: 32 blocks of 4 fields.
#include "kernels/ternary_matmul/arm_tile.h"

namespace baker::ternary {
namespace {

constexpr std::int64_t kWidenBlocks = 32;

struct Smlal {
  static constexpr int kRegisters = 2;

  // At most kWidenBlocks blocks.
  template <int R>
  static void accumulate_short(const std::uint8_t* weights, const std::int8_t* q, std::int64_t stride,
                               std::int64_t count, int32x4_t (&acc)[R][kRegisters]) {
    int16x8_t low[R][kRegisters], high[R][kRegisters];
#pragma GCC unroll 8
    for (int i = 0; i < R * kRegisters; ++i) {
      low[i / kRegisters][i % kRegisters] = high[i / kRegisters][i % kRegisters] = vdupq_n_s16(0);
    }
    for (std::int64_t block = 0; block < count; ++block, weights += p64::kBlockBytes, q += stride) {
#pragma GCC unroll 4
      for (int j = 0; j < kFields; ++j) {
        int8x16_t field[kRegisters];
        for (int z = 0; z < kRegisters; ++z) {
          const uint8x16_t moved = vshlq_u8(vld1q_u8(weights + 16 * z), vdupq_n_s8(static_cast<std::int8_t>(-2 * j)));
          field[z] = vreinterpretq_s8_u8(vandq_u8(moved, vdupq_n_u8(3)));
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          std::int32_t four;
          __builtin_memcpy(&four, q + r * p64::kBlockWeights + 4 * j, sizeof(four));
          const int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(four));
          for (int z = 0; z < kRegisters; ++z) {
            low[r][z] = vmlal_s8(low[r][z], vget_low_s8(field[z]), vget_low_s8(a));
            high[r][z] = vmlal_high_s8(high[r][z], field[z], a);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < R * kRegisters; ++i) {
      const int r = i / kRegisters, z = i % kRegisters;
      acc[r][z] = vaddq_s32(acc[r][z], vpaddq_s32(vpaddlq_s16(low[r][z]), vpaddlq_s16(high[r][z])));
    }
  }

  template <int R>
  static void accumulate(const std::uint8_t* weights, const std::int8_t* q, std::int64_t stride, std::int64_t count,
                         int32x4_t (&acc)[R][kRegisters]) {
    for (std::int64_t block = 0; block < count; block += kWidenBlocks) {
      const std::int64_t left = count - block;
      accumulate_short<R>(weights + block * p64::kBlockBytes, q + block * stride, stride,
                          left < kWidenBlocks ? left : kWidenBlocks, acc);
    }
  }
};

}  // namespace

const Products kNeonProducts = {multiply<Smlal>};

}  // namespace baker::ternary
