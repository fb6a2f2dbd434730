// What the two NEON variants share: everything but the dot product. Included by arm_*.cc alone; all of it has internal
// linkage, so each file gets its own copy, compiled with its own flags.
//
// A Dot type says how wide a strip is and how it accumulates:
//
//   static constexpr int kRegisters;                  int32x4 accumulators of channels in a strip
//   template <int R> static void accumulate(const std::uint8_t* weights, const std::int8_t* q, std::int64_t stride,
//                                           std::int64_t count, int32x4_t (&acc)[R][kRegisters]);
#pragma once

#include <arm_neon.h>

#include "common/p64.h"
#include "kernels/ternary_matmul/variant.h"

namespace baker::ternary {
namespace {

constexpr int kLanes = 4;   // channels in a register
constexpr int kFields = 4;  // codes in a byte
constexpr int kMaxRows = 4;
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

inline void store(float32x4_t y, std::int64_t count, float* out) {
  if (count >= kLanes) {
    vst1q_f32(out, y);
    return;
  }
  float lanes[kLanes];
  vst1q_f32(lanes, y);
  for (std::int64_t i = 0; i < count; ++i) out[i] = lanes[i];
}

// Rows row..row + R - 1 of the tile x a strip of channels that begins at register first of the panel.
template <class Dot, int R>
void strip(const MultiplyTask& task, int row, int first) {
  constexpr int kWide = Dot::kRegisters;
  const Cut& cut = task.cut;
  const std::int64_t stride = task.rows * p64::kBlockWeights;
  const std::uint8_t* weights = task.panel + 16 * first;
  const std::int8_t* q = task.q + row * p64::kBlockWeights;
  float32x4_t f[R][kWide];
#pragma GCC unroll 16
  for (int i = 0; i < R * kWide; ++i) f[i / kWide][i % kWide] = vdupq_n_f32(0.0F);
  for (std::int64_t group = 0, block = 0; group < cut.groups; ++group, block += cut.group_blocks) {
    const std::int64_t left = cut.blocks - block, count = left < cut.group_blocks ? left : cut.group_blocks;
    int32x4_t acc[R][kWide];
#pragma GCC unroll 16
    for (int i = 0; i < R * kWide; ++i) {
      acc[i / kWide][i % kWide] = vdupq_n_s32(-task.sums[group * task.rows + row + i / kWide]);
    }
    Dot::template accumulate<R>(weights + block * p64::kBlockBytes, q + block * stride, stride, count, acc);
    const float* scale = task.scale + group * p64::kPanelChannels + kLanes * first;
#pragma GCC unroll 16
    for (int i = 0; i < R * kWide; ++i) {
      const int r = i / kWide, z = i % kWide;
      f[r][z] = vfmaq_f32(f[r][z], vcvtq_f32_s32(acc[r][z]), vld1q_f32(scale + kLanes * z));
    }
  }
  for (int i = 0; i < R * kWide; ++i) {
    const int r = row + i / kWide, channel = kLanes * (first + i % kWide);
    const float32x4_t bias = vld1q_f32(task.bias + channel);
    store(vfmaq_f32(bias, f[i / kWide][i % kWide], vdupq_n_f32(task.step[r])), task.channels - channel,
          task.y + r * task.y_stride + channel);
  }
}

template <class Dot, int R>
void rows(const MultiplyTask& task, int row) {
  for (int first = 0; first * kLanes < task.channels; first += Dot::kRegisters) strip<Dot, R>(task, row, first);
}

template <class Dot>
void multiply(const MultiplyTask& task) {
  constexpr void (*kByRows[kMaxRows])(const MultiplyTask&, int) = {rows<Dot, 1>, rows<Dot, 2>, rows<Dot, 3>,
                                                                   rows<Dot, 4>};
  for (int row = 0; row < task.rows; row += kMaxRows) {
    const int left = task.rows - row;
    kByRows[(left < kMaxRows ? left : kMaxRows) - 1](task, row);
  }
}

}  // namespace
}  // namespace baker::ternary
