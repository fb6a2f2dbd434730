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
