// NEON: what is done to rows of activations before the product and to tiles of the result behind it.
#include <arm_neon.h>

#include "common/p64.h"
#include "kernels/ternary_matmul/variant.h"

namespace baker::ternary {
namespace {

constexpr int kLanes = 4;
constexpr std::uint32_t kLargestFinite = 0x7F7FFFFF;

// The largest bit pattern of |x|: for floats that is the largest |x|, and it shows Inf and NaN.
std::uint32_t abs_max_bits(const float* x, std::int64_t k) {
  constexpr std::uint32_t kMagnitude = 0x7FFFFFFF;
  uint32x4_t most = vdupq_n_u32(0);
  std::int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) {
    most = vmaxq_u32(most, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), vdupq_n_u32(kMagnitude)));
  }
  std::uint32_t largest = vmaxvq_u32(most);
  for (; i < k; ++i) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof(bits));
    bits &= kMagnitude;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

// rint(x * inverse) of the 16 values of a block; their sum is added to sum.
inline int8x16_t quantized(const float* x, float32x4_t inverse, int32x4_t& sum) {
  int32x4_t part[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    part[i] = vcvtnq_s32_f32(vmulq_f32(vld1q_f32(x + kLanes * i), inverse));
    sum = vaddq_s32(sum, part[i]);
  }
  const int16x8_t low = vcombine_s16(vmovn_s32(part[0]), vmovn_s32(part[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(part[2]), vmovn_s32(part[3]));
  return vcombine_s8(vmovn_s16(low), vmovn_s16(high));
}

void quantize_row(const QuantizeTask& task, int row) {
  const Cut& cut = task.cut;
  const float* x = task.x + row * cut.k;
  const std::uint32_t bits = abs_max_bits(x, cut.k);
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof(largest));
  const bool finite = bits <= kLargestFinite;
  const float a = !finite ? __builtin_nanf("") : largest > kMinAbsMax ? largest : kMinAbsMax;
  const float32x4_t inverse = vdupq_n_f32(kQuantMax / a);
  const std::int64_t usable = finite ? cut.k : 0;
  task.step[row] = a / kQuantMax;
  std::int8_t* q = task.q + row * p64::kBlockWeights;
  for (std::int64_t group = 0, block = 0; group < cut.groups; ++group) {
    const std::int64_t end = block + cut.group_blocks, last = end < cut.blocks ? end : cut.blocks;
    int32x4_t sum = vdupq_n_s32(0);
    for (; block < last; ++block, q += task.rows * p64::kBlockWeights) {
      const std::int64_t at = block * p64::kBlockWeights;
      float padded[p64::kBlockWeights] = {};
      for (std::int64_t i = at; i < usable && usable < at + p64::kBlockWeights; ++i) padded[i - at] = x[i];
      const bool whole = at + p64::kBlockWeights <= usable;
      vst1q_s8(q, quantized(whole ? x + at : padded, inverse, sum));
    }
    task.sums[group * task.rows + row] = vaddvq_s32(sum);
  }
}

void quantize(const QuantizeTask& task) {
  for (int row = 0; row < task.rows; ++row) quantize_row(task, row);
}

}  // namespace

const Rows kNeonRows = {quantize};

}  // namespace baker::ternary
