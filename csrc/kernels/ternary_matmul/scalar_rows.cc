// The definition of what is done to rows: every other variant equals this one bit for bit.
#include <cmath>
#include <limits>

#include "common/p64.h"
#include "kernels/ternary_matmul/activations.h"
#include "kernels/ternary_matmul/variant.h"

namespace baker::ternary {
namespace {

struct Grid {
  float inverse, step;
};

// 1 / sqrt(mean of x^2 + epsilon)
float inverse_rms(const float* x, std::int64_t k, float epsilon) {
  float squares[kSquareLanes] = {};
  for (std::int64_t i = 0; i < k; ++i) squares[i % kSquareLanes] = std::fma(x[i], x[i], squares[i % kSquareLanes]);
  for (int half = kSquareLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) squares[i] += squares[i + half];
  }
  return 1.0F / std::sqrt(squares[0] / static_cast<float>(k) + epsilon);
}

// What the row is quantized from.
float value(const QuantizeTask& task, const float* x, std::int64_t i) {
  return task.gamma == nullptr ? x[i] : x[i] * task.gamma[i];
}

Grid make_grid(const QuantizeTask& task, const float* x) {
  const Grid unusable = {0.0F, std::numeric_limits<float>::quiet_NaN()};
  float a = 0.0F;
  for (std::int64_t i = 0; i < task.cut.k; ++i) {
    const float v = value(task, x, i);
    if (!std::isfinite(v)) return unusable;
    a = std::fmax(a, std::fabs(v));
  }
  const float r = task.gamma == nullptr ? 1.0F : inverse_rms(x, task.cut.k, task.epsilon);
  if (!std::isfinite(r)) return unusable;
  if (a * r < kMinAbsMax) return {kQuantMax / kMinAbsMax * r, kMinAbsMax / kQuantMax};
  return {kQuantMax / a, a / kQuantMax * r};
}

void quantize(const QuantizeTask& task) {
  const Cut& cut = task.cut;
  for (int row = 0; row < task.rows; ++row) {
    const float* x = task.x + row * cut.k;
    const Grid grid = make_grid(task, x);
    task.step[row] = grid.step;
    for (std::int64_t group = 0; group < cut.groups; ++group) task.sums[group * task.rows + row] = 0;
    for (std::int64_t i = 0; i < cut.blocks * p64::kBlockWeights; ++i) {
      const std::int64_t block = i / p64::kBlockWeights;
      const bool used = i < cut.k && !std::isnan(grid.step);
      const float q = used ? std::rint(value(task, x, i) * grid.inverse) : 0.0F;
      task.q[(block * task.rows + row) * p64::kBlockWeights + i % p64::kBlockWeights] = static_cast<std::int8_t>(q);
      task.sums[block / cut.group_blocks * task.rows + row] += static_cast<std::int32_t>(q);
    }
  }
}

// One float at a time through the formulas of activations.h.
struct One {
  using F = float;
  static constexpr int kLanes = 1;
  static F load(const float* x) { return *x; }
  static void store(float* x, F value) { *x = value; }
  static F set(float value) { return value; }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }
  static F fma(F a, F b, F c) { return std::fma(a, b, c); }
  static F min(F a, F b) { return a < b ? a : b; }
  static F abs(F x) { return std::fabs(x); }
  static F relu(F x) { return x <= 0.0F ? 0.0F : x; }
  static F keep_nan(F x, F y) { return std::isnan(x) ? x : y; }
  static F shift_23(F x) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof(bits));
    bits <<= 23U;
    __builtin_memcpy(&x, &bits, sizeof(bits));
    return x;
  }
};

}  // namespace

const Rows kScalarRows = {quantize, finish<One>};

}  // namespace baker::ternary
