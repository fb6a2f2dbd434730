// The row kernels of every instruction set but scalar (scalar_rows.cc is the definition): abs-max, RMSNorm, int8. All
// of it has internal linkage: each file that includes it gets a copy of its own, compiled with its own flags.
//
// A Lanes type V has what activations.h asks for, and
//   static constexpr int kLanes;              floats in a register: 4, 8 or 16
//   F, I, U                                   registers of float, int32 and uint32
//   F load(const float*); F zero_f(); I zero_i(); U zero_u();
//   U max_magnitude(U most, F x)              the larger of most and the bits of |x|: for floats that is the larger
//                                             |x|, and it shows Inf and NaN
//   U max_u(U, U); std::uint32_t top(U)       of registers; of the lanes
//   float sum(F)                              by halves: lane j += lane j + half, until one is left
//   float sqrt(float)
//   void store_block(const F (&x)[16 / kLanes], std::int8_t* q, I& sum)   rint to int8; sum += the values
//   std::int32_t sum_i(I)
#pragma once

#include "common/p64.h"
#include "kernels/ternary_matmul/activations.h"
#include "kernels/ternary_matmul/variant.h"

namespace baker::ternary {
namespace {

constexpr int kBlock = static_cast<int>(p64::kBlockWeights);

// What a pass over a row finds.
struct Survey {
  std::uint32_t largest;  // bits of max|v|
  float squares;          // sum of x^2, in the order of variant.h
};

template <class V, bool kNorm>
struct Surveyor {
  static constexpr int kRegisters = kSquareLanes / V::kLanes;
  static constexpr int kMost = 4;
  typename V::F squares[kRegisters];
  typename V::U most[kMost];

  // kSquareLanes values.
  inline void add(const float* x, const float* gamma) {
#pragma GCC unroll 16
    for (int i = 0; i < kRegisters; ++i) {
      auto v = V::load(x + i * V::kLanes);
      if constexpr (kNorm) {
        squares[i] = V::fma(v, v, squares[i]);
        v = V::mul(v, V::load(gamma + i * V::kLanes));
      }
      most[i % kMost] = V::max_magnitude(most[i % kMost], v);
    }
  }

  [[nodiscard]] inline Survey done() {
#pragma GCC unroll 4
    for (int half = kRegisters / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) squares[i] = V::add(squares[i], squares[i + half]);
    }
    const auto largest = V::max_u(V::max_u(most[0], most[1]), V::max_u(most[2], most[3]));
    return {V::top(largest), kNorm ? V::sum(squares[0]) : 0.0F};
  }
};

template <class V, bool kNorm>
[[nodiscard]] Survey survey(const float* x, const float* gamma, std::int64_t k) {
  Surveyor<V, kNorm> all;
#pragma GCC unroll 16
  for (auto& sum : all.squares) sum = V::zero_f();
#pragma GCC unroll 4
  for (auto& most : all.most) most = V::zero_u();
  std::int64_t i = 0;
  for (; i + kSquareLanes <= k; i += kSquareLanes) all.add(x + i, gamma + i);
  if (i < k) {
    float rest[kSquareLanes] = {}, weights[kSquareLanes] = {};
    const auto bytes = static_cast<unsigned long>(k - i) * sizeof(float);
    __builtin_memcpy(rest, x + i, bytes);
    if constexpr (kNorm) __builtin_memcpy(weights, gamma + i, bytes);
    all.add(rest, weights);
  }
  return all.done();
}

// q = rint(v * inverse), v is about q * step. An unusable row: {0, NaN}.
struct Grid {
  float inverse, step;
};

template <class V, bool kNorm>
[[nodiscard]] inline Grid make_grid(const Survey& found, std::int64_t k, float epsilon) {
  constexpr std::uint32_t kLargestFinite = 0x7F7FFFFF;
  float a;
  __builtin_memcpy(&a, &found.largest, sizeof(a));
  const float r = kNorm ? 1.0F / V::sqrt(found.squares / static_cast<float>(k) + epsilon) : 1.0F;
  std::uint32_t r_bits;
  __builtin_memcpy(&r_bits, &r, sizeof(r_bits));
  if (found.largest > kLargestFinite || r_bits > kLargestFinite) return {0.0F, __builtin_nanf("")};
  if (a * r < kMinAbsMax) return {kQuantMax / kMinAbsMax * r, kMinAbsMax / kQuantMax};
  return {kQuantMax / a, a / kQuantMax * r};
}

// One block of 16.
template <class V, bool kNorm>
inline void quantize_block(const float* x, const float* gamma, typename V::F inverse, std::int8_t* q,
                           typename V::I& sum) {
  constexpr int kParts = kBlock / V::kLanes;
  typename V::F part[kParts];
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    part[i] = V::load(x + i * V::kLanes);
    if constexpr (kNorm) part[i] = V::mul(part[i], V::load(gamma + i * V::kLanes));
    part[i] = V::mul(part[i], inverse);
  }
  V::store_block(part, q, sum);
}

template <class V, bool kNorm>
void quantize_row(const QuantizeTask& task, int row) {
  const Cut& cut = task.cut;
  const float* x = task.x + row * cut.k;
  const float* gamma = kNorm ? task.gamma : x;
  const Grid grid = make_grid<V, kNorm>(survey<V, kNorm>(x, gamma, cut.k), cut.k, task.epsilon);
  task.step[row] = grid.step;
  const std::int64_t stride = task.rows * p64::kBlockWeights, whole = cut.k / kBlock;
  const bool usable = grid.step == grid.step;
  const auto inverse = V::set(grid.inverse);
  std::int8_t* q = task.q + row * p64::kBlockWeights;
  for (std::int64_t group = 0, block = 0; group < cut.groups; ++group) {
    const std::int64_t end = block + cut.group_blocks, last = end < cut.blocks ? end : cut.blocks;
    auto sum = V::zero_i();
    for (; usable && block < last && block < whole; ++block, q += stride) {
      quantize_block<V, kNorm>(x + block * kBlock, gamma + block * kBlock, inverse, q, sum);
    }
    for (; block < last; ++block, q += stride) {  // the row's last block, and all of an unusable row
      float rest[kBlock] = {}, weights[kBlock] = {};
      const auto bytes = static_cast<unsigned long>(usable ? cut.k - block * kBlock : 0) * sizeof(float);
      __builtin_memcpy(rest, x + block * kBlock, bytes);
      if constexpr (kNorm) __builtin_memcpy(weights, gamma + block * kBlock, bytes);
      quantize_block<V, kNorm>(rest, weights, inverse, q, sum);
    }
    task.sums[group * task.rows + row] = V::sum_i(sum);
  }
}

template <class V>
void quantize(const QuantizeTask& task) {
  for (int row = 0; row < task.rows; ++row) {
    if (task.gamma == nullptr) {
      quantize_row<V, false>(task, row);
    } else {
      quantize_row<V, true>(task, row);
    }
  }
}

}  // namespace
}  // namespace baker::ternary
