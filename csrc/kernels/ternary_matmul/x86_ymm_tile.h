// A tile of rows times a panel of channels in registers of 256 bits: all that AVX2 and AVX-VNNI share, which is
// everything but the dot product. Included by x86_avx2*.cc and x86_avxvnni.cc alone; all of it has internal linkage, so
// each file gets its own copy, compiled with its own flags.
//
// A Dot type says how a strip is cut and how it accumulates:
//
//   static constexpr int kMaxRows;             // rows of a strip
//   // registers of 8 channels in a strip, a divisor of 8; of a row alone all 8, so that weights are read as they lie
//   static constexpr int registers(int rows);
//   static void dot(__m256i& sum, __m256i codes, __m256i activations);  // sum += codes . activations
//   // acc[r][y] += the dot products of R rows with 8 * Y channels; the rows of q are p64::kBlockWeights apart, its
//   // blocks stride bytes
//   template <int R, int Y> static void accumulate(const std::uint8_t* weights, const std::int8_t* q,
//                                                  std::int64_t stride, std::int64_t count, __m256i (&acc)[R][Y]);
#pragma once

#include <immintrin.h>

#include "common/p64.h"
#include "kernels/ternary_matmul/variant.h"

namespace baker::ternary {
namespace {

constexpr int kLanes = 8;   // channels in a register
constexpr int kFields = 4;  // 2-bit codes in a byte
constexpr int kRegisterBytes = 32;
constexpr int kPanelRegisters = 8;
constexpr std::int64_t kAhead = 8192;  // bytes: what hides DRAM's latency behind the products of a GEMV

[[nodiscard]] inline __m256i codes_at(const std::uint8_t* weights) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(weights));
}

// Four activations in every lane.
[[nodiscard]] inline __m256i broadcast(const std::int8_t* q) {
  std::int32_t four;
  __builtin_memcpy(&four, q, sizeof(four));
  return _mm256_set1_epi32(four);
}

// Field j of every byte.
[[nodiscard]] inline __m256i field_of(__m256i codes, int j) {
  return _mm256_and_si256(_mm256_srli_epi32(codes, 2 * j), _mm256_set1_epi8(3));
}

// sum[r][y] += the dot products of R rows with 8 * Y channels, field by field.
template <class Dot, int R, int Y>
inline void add_blocks(const std::uint8_t* weights, const std::int8_t* q, std::int64_t stride, std::int64_t count,
                       __m256i (&sum)[R][Y]) {
  for (std::int64_t block = 0; block < count; ++block, weights += p64::kBlockBytes, q += stride) {
#pragma GCC unroll 4
    for (int j = 0; j < kFields; ++j) {
      __m256i field[Y];
#pragma GCC unroll 4
      for (int y = 0; y < Y; ++y) field[y] = field_of(codes_at(weights + kRegisterBytes * y), j);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m256i four = broadcast(q + r * p64::kBlockWeights + 4 * j);
#pragma GCC unroll 4
        for (int y = 0; y < Y; ++y) Dot::dot(sum[r][y], field[y], four);
      }
    }
  }
}

// Lanes 0..count-1 are all ones.
[[nodiscard]] inline __m256i first_lanes(std::int64_t count) {
  const int limit = count > kLanes ? kLanes : static_cast<int>(count);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(limit), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// y = f * step + bias for one row and one register of channels.
inline void store(const MultiplyTask& task, int row, int channel, __m256 f) {
  const __m256 y = _mm256_fmadd_ps(f, _mm256_set1_ps(task.step[row]), _mm256_load_ps(task.bias + channel));
  _mm256_maskstore_ps(task.y + row * task.y_stride + channel, first_lanes(task.channels - channel), y);
}

// Rows row..row + R - 1 of the tile x registers first..first + Y - 1 of the panel.
template <class Dot, int R, int Y>
void strip(const MultiplyTask& given, int row, int first) {
  const MultiplyTask task = given;  // a copy, which no store to y can change
  const Cut& cut = task.cut;
  const std::int64_t stride = task.rows * p64::kBlockWeights;
  const std::uint8_t* weights = task.panel + kRegisterBytes * first;
  const std::int8_t* q = task.q + row * p64::kBlockWeights;
  __m256 f[R][Y];
#pragma GCC unroll 16
  for (int i = 0; i < R * Y; ++i) f[i / Y][i % Y] = _mm256_setzero_ps();
  for (std::int64_t group = 0, block = 0; group < cut.groups; ++group, block += cut.group_blocks) {
    const std::int64_t left = cut.blocks - block, count = left < cut.group_blocks ? left : cut.group_blocks;
    __m256i acc[R][Y];
#pragma GCC unroll 16
    for (int i = 0; i < R * Y; ++i) acc[i / Y][i % Y] = _mm256_set1_epi32(-task.sums[group * task.rows + row + i / Y]);
    __asm__("" : "+m"(f));  // waits in memory, so that the products have the registers
    Dot::template accumulate<R, Y>(weights + block * p64::kBlockBytes, q + block * stride, stride, count, acc);
    const float* scale = task.scale + group * p64::kPanelChannels + kLanes * first;
#pragma GCC unroll 16
    for (int i = 0; i < R * Y; ++i) {
      const int r = i / Y, y = i % Y;
      f[r][y] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[r][y]), _mm256_load_ps(scale + kLanes * y), f[r][y]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R * Y; ++i) store(task, row + i / Y, kLanes * (first + i % Y), f[i / Y][i % Y]);
}

// R rows of the tile over all channels.
template <class Dot, int R>
void rows(const MultiplyTask& task, int row) {
  constexpr int kWide = Dot::registers(R);
  for (int first = 0; first * kLanes < task.channels; first += kWide) strip<Dot, R, kWide>(task, row, first);
}

template <class Dot>
void multiply(const MultiplyTask& task) {
  constexpr void (*kByRows[kTileRows])(const MultiplyTask&, int) = {
      rows<Dot, 1>, rows<Dot, 2>, rows<Dot, 3>, rows<Dot, 4>, rows<Dot, 5>, rows<Dot, 6>, rows<Dot, 7>, rows<Dot, 8>};
  for (int row = 0; row < task.rows; row += Dot::kMaxRows) {
    const int left = task.rows - row;
    kByRows[(left < Dot::kMaxRows ? left : Dot::kMaxRows) - 1](task, row);
  }
}

}  // namespace
}  // namespace baker::ternary
