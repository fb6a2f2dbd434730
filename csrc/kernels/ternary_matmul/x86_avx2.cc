// AVX2: vpmaddubsw multiplies unsigned codes with signed activations and adds neighbours in int16. A pair is at most
// 2 * 2 * 127 = 508, so 64 pairs fit into int16 (32512) before they are widened: 16 blocks of 4 fields.
#include <immintrin.h>

#include "common/p64.h"
#include "kernels/ternary_matmul/variant.h"

namespace baker::ternary {
namespace {

constexpr int kLanes = 8;   // channels in a register
constexpr int kFields = 4;  // codes in a byte
constexpr int kMaxRows = 4;
constexpr std::int64_t kWidenBlocks = 16;

inline __m256i load(const void* memory) { return _mm256_loadu_si256(static_cast<const __m256i*>(memory)); }

// Four activations in every lane.
inline __m256i broadcast(const std::int8_t* q) {
  std::int32_t four;
  __builtin_memcpy(&four, q, sizeof(four));
  return _mm256_set1_epi32(four);
}

// Lanes 0..count-1 are all ones.
inline __m256i first_lanes(std::int64_t count) {
  const int limit = count > kLanes ? kLanes : static_cast<int>(count);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(limit), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// acc[r][y] += the dot products of R rows with 8 * Y channels over at most kWidenBlocks blocks; stride: bytes of q a
// block.
template <int R, int Y>
inline void accumulate(const std::uint8_t* weights, const std::int8_t* q, std::int64_t stride, std::int64_t count,
                       __m256i (&acc)[R][Y]) {
  const __m256i mask = _mm256_set1_epi8(3);
  __m256i pairs[R][Y];
#pragma GCC unroll 8
  for (int i = 0; i < R * Y; ++i) pairs[i / Y][i % Y] = _mm256_setzero_si256();
  for (std::int64_t block = 0; block < count; ++block, weights += p64::kBlockBytes, q += stride) {
#pragma GCC unroll 4
    for (int j = 0; j < kFields; ++j) {
      __m256i field[Y];
#pragma GCC unroll 8
      for (int y = 0; y < Y; ++y) field[y] = _mm256_and_si256(_mm256_srli_epi32(load(weights + 32 * y), 2 * j), mask);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m256i four = broadcast(q + r * p64::kBlockWeights + 4 * j);
#pragma GCC unroll 8
        for (int y = 0; y < Y; ++y) {
          pairs[r][y] = _mm256_add_epi16(pairs[r][y], _mm256_maddubs_epi16(field[y], four));
        }
      }
    }
  }
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
  for (int i = 0; i < R * Y; ++i) {
    acc[i / Y][i % Y] = _mm256_add_epi32(acc[i / Y][i % Y], _mm256_madd_epi16(pairs[i / Y][i % Y], ones));
  }
}

// Rows row..row + R - 1 of the tile x registers first..first + Y - 1 of the panel.
template <int R, int Y>
void strip(const MultiplyTask& task, int row, int first) {
  const Cut& cut = task.cut;
  const std::int64_t stride = task.rows * p64::kBlockWeights;
  const std::uint8_t* weights = task.panel + 32 * first;
  const std::int8_t* q = task.q + row * p64::kBlockWeights;
  __m256 f[R][Y];
#pragma GCC unroll 8
  for (int i = 0; i < R * Y; ++i) f[i / Y][i % Y] = _mm256_setzero_ps();
  for (std::int64_t group = 0, block = 0; group < cut.groups; ++group) {
    const std::int64_t end = block + cut.group_blocks, last = end < cut.blocks ? end : cut.blocks;
    __m256i acc[R][Y];
#pragma GCC unroll 8
    for (int i = 0; i < R * Y; ++i) acc[i / Y][i % Y] = _mm256_set1_epi32(-task.sums[group * task.rows + row + i / Y]);
    while (block < last) {
      const std::int64_t count = last - block < kWidenBlocks ? last - block : kWidenBlocks;
      accumulate<R, Y>(weights + block * p64::kBlockBytes, q + block * stride, stride, count, acc);
      block += count;
    }
    const float* scale = task.scale + group * p64::kPanelChannels + kLanes * first;
#pragma GCC unroll 8
    for (int i = 0; i < R * Y; ++i) {
      const int r = i / Y, y = i % Y;
      f[r][y] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[r][y]), _mm256_load_ps(scale + kLanes * y), f[r][y]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < R * Y; ++i) {
    const int r = row + i / Y, channel = kLanes * (first + i % Y);
    const __m256 y =
        _mm256_fmadd_ps(f[i / Y][i % Y], _mm256_set1_ps(task.step[r]), _mm256_load_ps(task.bias + channel));
    _mm256_maskstore_ps(task.y + r * task.y_stride + channel, first_lanes(task.channels - channel), y);
  }
}

// R rows of the tile over all channels. One row leaves room for eight registers of channels, more rows for two.
template <int R>
void rows(const MultiplyTask& task, int row) {
  constexpr int kRegisters = R == 1 ? 8 : R == 2 ? 4 : 2;
  for (int first = 0; first * kLanes < task.channels; first += kRegisters) strip<R, kRegisters>(task, row, first);
}

void multiply(const MultiplyTask& task) {
  constexpr void (*kByRows[kMaxRows])(const MultiplyTask&, int) = {rows<1>, rows<2>, rows<3>, rows<4>};
  for (int row = 0; row < task.rows; row += kMaxRows) {
    const int left = task.rows - row;
    kByRows[(left < kMaxRows ? left : kMaxRows) - 1](task, row);
  }
}

}  // namespace

const Products kAvx2Products = {multiply};

}  // namespace baker::ternary
