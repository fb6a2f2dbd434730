// The definition: every other variant equals this one bit for bit. Also what runs where nothing faster does.
#include <cmath>

#include "common/p64.h"
#include "kernels/ternary_matmul/variant.h"

namespace baker::ternary {
namespace {

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

const Products kScalarProducts = {multiply};

}  // namespace baker::ternary
