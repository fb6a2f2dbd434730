// The definition: every other variant equals this one bit for bit. Also what runs where nothing faster does.
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

// Sum of (t + 1) * q over blocks first..last-1 of one channel. word: the channel's 4 bytes in the first block of its
// panel.
std::int32_t dot(const MultiplyTask& task, const std::uint8_t* word, int row, std::int64_t first, std::int64_t last) {
  std::int32_t sum = 0;
  for (std::int64_t block = first; block < last; ++block) {
    const std::uint8_t* codes = word + block * p64::kBlockBytes;
    const std::int8_t* q = task.q + (block * task.rows + row) * p64::kBlockWeights;
    for (int i = 0; i < p64::kBlockWeights; ++i) sum += ((codes[i % 4] >> (2 * (i / 4))) & 3) * q[i];
  }
  return sum;
}

void multiply(const MultiplyTask& task) {
  const Cut& cut = task.cut;
  for (int row = 0; row < task.rows; ++row) {
    for (int channel = 0; channel < task.channels; ++channel) {
      float f = 0.0F;
      for (std::int64_t group = 0; group < cut.groups; ++group) {
        const std::int64_t first = group * cut.group_blocks;
        const std::int64_t last = first + cut.group_blocks < cut.blocks ? first + cut.group_blocks : cut.blocks;
        const std::int32_t acc =
            dot(task, task.panel + 4 * channel, row, first, last) - task.sums[group * task.rows + row];
        f = std::fma(static_cast<float>(acc), task.scale[group * p64::kPanelChannels + channel], f);
      }
      task.y[row * task.y_stride + channel] = std::fma(f, task.step[row], task.bias[channel]);
    }
  }
}

}  // namespace

const Variant kScalar = {"scalar", quantize, multiply};

}  // namespace baker::ternary
