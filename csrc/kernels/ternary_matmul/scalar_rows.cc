// The definition of what is done to rows: every other variant equals this one bit for bit.
#include <cmath>
#include <limits>

#include "common/p64.h"
#include "kernels/ternary_matmul/variant.h"

namespace baker::ternary {
namespace {

// Quiet NaN where a value is not finite.
float abs_max(const float* x, std::int64_t k) {
  float a = kMinAbsMax;
  for (std::int64_t i = 0; i < k; ++i) {
    if (!std::isfinite(x[i])) return std::numeric_limits<float>::quiet_NaN();
    a = std::fmax(a, std::fabs(x[i]));
  }
  return a;
}

void quantize(const QuantizeTask& task) {
  const Cut& cut = task.cut;
  for (int row = 0; row < task.rows; ++row) {
    const float* x = task.x + row * cut.k;
    const float a = abs_max(x, cut.k);
    const bool finite = std::isfinite(a);
    const float inverse = kQuantMax / a;
    task.step[row] = a / kQuantMax;
    for (std::int64_t group = 0; group < cut.groups; ++group) task.sums[group * task.rows + row] = 0;
    for (std::int64_t i = 0; i < cut.blocks * p64::kBlockWeights; ++i) {
      const std::int64_t block = i / p64::kBlockWeights;
      const float q = finite && i < cut.k ? std::rint(x[i] * inverse) : 0.0F;
      task.q[(block * task.rows + row) * p64::kBlockWeights + i % p64::kBlockWeights] = static_cast<std::int8_t>(q);
      task.sums[block / cut.group_blocks * task.rows + row] += static_cast<std::int32_t>(q);
    }
  }
}

}  // namespace

const Rows kScalarRows = {quantize};

}  // namespace baker::ternary
