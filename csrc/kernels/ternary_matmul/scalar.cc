// The definition: every other variant equals this one bit for bit. Also what runs where nothing faster does.
#include <cmath>

#include "common/p64.h"
#include "common/p80.h"
#include "kernels/ternary_matmul/variant.h"

namespace baker::ternary {
namespace {

// Sum of (t + 1) * q over blocks first..last-1 of one channel. word: the channel's 4 bytes in the first block of
// them.
std::int32_t dot(const MultiplyTask& task, const std::uint8_t* word, int row, std::int64_t first, std::int64_t last) {
  std::int32_t sum = 0;
  for (std::int64_t block = first; block < last; ++block) {
    const std::uint8_t* codes = word + (block - first) * p64::kBlockBytes;
    const std::int8_t* q = task.q + (block * task.rows + row) * p64::kBlockWeights;
    for (int i = 0; i < p64::kBlockWeights; ++i) sum += ((codes[i % 4] >> (2 * (i / 4))) & 3) * q[i];
  }
  return sum;
}

// The same on P80. word: the channel's 4 bytes in the first block of the group.
std::int32_t dot_p80(const MultiplyTask& task, const std::uint8_t* word, int row, std::int64_t first,
                     std::int64_t last) {
  std::int32_t sum = 0;
  for (std::int64_t i = 0; i < (last - first) * p64::kBlockWeights; ++i) {
    constexpr int kPowers[] = {1, 3, 9, 27, 81};
    const std::int64_t in_block = i % p80::kBlockWeights, k = first * p64::kBlockWeights + i;
    const int byte = word[i / p80::kBlockWeights * p64::kBlockBytes + in_block % 4];
    const std::int64_t at = (k / p64::kBlockWeights * task.rows + row) * p64::kBlockWeights + k % p64::kBlockWeights;
    sum += byte / kPowers[in_block / 4] % 3 * task.q[at];
  }
  return sum;
}

// Bytes from the first block of a group to that of the next.
std::int64_t group_bytes(const Cut& cut, Layout layout) {
  const std::int64_t weights = cut.group_blocks * p64::kBlockWeights;
  return (layout == Layout::kP80 ? p80::blocks(weights) : cut.group_blocks) * p64::kBlockBytes;
}

template <Layout kLayout>
void multiply(const MultiplyTask& task) {
  const Cut& cut = task.cut;
  for (int row = 0; row < task.rows; ++row) {
    for (int channel = 0; channel < task.channels; ++channel) {
      float f = 0.0F;
      for (std::int64_t group = 0; group < cut.groups; ++group) {
        const std::int64_t first = group * cut.group_blocks;
        const std::int64_t last = first + cut.group_blocks < cut.blocks ? first + cut.group_blocks : cut.blocks;
        const std::uint8_t* word = task.panel + group * group_bytes(cut, kLayout) + 4 * channel;
        const std::int32_t sum =
            kLayout == Layout::kP80 ? dot_p80(task, word, row, first, last) : dot(task, word, row, first, last);
        const std::int32_t acc = sum - task.sums[group * task.rows + row];
        f = std::fma(static_cast<float>(acc), task.scale[group * p64::kPanelChannels + channel], f);
      }
      task.y[row * task.y_stride + channel] = std::fma(f, task.step[row], task.bias[channel]);
    }
  }
}

}  // namespace

const Products kScalarProducts = {multiply<Layout::kP64>};
const Products kScalarP80 = {multiply<Layout::kP80>};

}  // namespace baker::ternary
