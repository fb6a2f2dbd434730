// A tile of rows times a panel of channels in AVX-512, for any form of weights. Included by x86_avx512*.cc alone; all
// of it has internal linkage, so each file gets its own copy, compiled with its own flags.
//
// A Decoder says how blocks of 256 bytes become unsigned codes of four neighbouring k a lane:
//
//   static std::int64_t group_bytes(const Cut& cut);                               bytes of a whole group of a panel
//   // acc[r][z] += the dot products of R rows with 16 * Z channels; the group begins at 16-block first of q and has
//   count template <int R, int Z> static void accumulate(const std::uint8_t* weights, const std::int8_t* q,
//   std::int64_t first,
//                                                  std::int64_t count, __m512i (&acc)[R][Z]);
//   // the same for one row and the whole panel
//   static void accumulate_row(const std::uint8_t* weights, const std::int8_t* q, std::int64_t count,
//                              __m512i (&acc)[1][kPanelRegisters]);
#pragma once

#include <immintrin.h>

#include "common/p64.h"
#include "kernels/ternary_matmul/variant.h"

namespace baker::ternary {
namespace {

constexpr int kLanes = 16;  // channels in a register
constexpr int kFields = 4;  // 2-bit codes in a byte
constexpr int kPanelRegisters = 4;
constexpr std::int64_t kAhead = 8192;  // bytes: what hides DRAM's latency behind the products of a GEMV

[[nodiscard]] inline __m512i codes_at(const std::uint8_t* weights) { return _mm512_load_si512(weights); }

// Four activations in every lane.
[[nodiscard]] inline __m512i broadcast(const std::int8_t* q) {
  std::int32_t four;
  __builtin_memcpy(&four, q, sizeof(four));
  return _mm512_set1_epi32(four);
}

[[nodiscard]] inline __mmask16 first_lanes(std::int64_t count) {
  if (count >= kLanes) return 0xFFFF;
  return count <= 0 ? __mmask16{0} : static_cast<__mmask16>((1U << static_cast<unsigned>(count)) - 1U);
}

// sum += codes . activations. Written out because GCC 12 copies the accumulators of the intrinsic to and fro and spills
// them: in a GEMV that took a third of the speed.
inline void dot(__m512i& sum, __m512i codes, __m512i activations) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(activations));
}

// acc[r][z] += codes[z] . four activations of row r, of a tile whose row 0 has them at q.
template <int R, int Z>
inline void dot_rows(__m512i (&acc)[R][Z], const __m512i (&codes)[Z], const std::int8_t* q) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const __m512i four = broadcast(q + r * p64::kBlockWeights);
#pragma GCC unroll 4
    for (int z = 0; z < Z; ++z) acc[r][z] = _mm512_dpbusd_epi32(acc[r][z], codes[z], four);
  }
}

// part[z][j] += field j of codes, multiplied where it stands (times 4^j), with activations[j].
inline void dot_fields(__m512i (&part)[kFields], __m512i codes, const __m512i (&activations)[kFields]) {
#pragma GCC unroll 4
  for (int j = 0; j < kFields; ++j) {
    dot(part[j], _mm512_and_si512(codes, _mm512_set1_epi8(static_cast<char>(3U << (2 * j)))), activations[j]);
  }
}

// acc += the parts brought to one scale: part j is a multiple of 4^j, so the shift is exact.
inline void add_fields(__m512i& acc, const __m512i (&part)[kFields]) {
#pragma GCC unroll 4
  for (int j = 0; j < kFields; ++j) {
    acc = _mm512_add_epi32(acc, _mm512_srai_epi32(part[j], static_cast<unsigned>(2 * j)));
  }
}

// R rows x registers first..first + Z - 1 of the panel.
template <class Decoder, int R, int Z>
void strip(const MultiplyTask& task, int first) {
  const Cut& cut = task.cut;
  const std::uint8_t* weights = task.panel + 64 * first;
  __m512 f[R][Z];
#pragma GCC unroll 32
  for (int i = 0; i < R * Z; ++i) {
    f[i / Z][i % Z] = _mm512_setzero_ps();
    const int channel = kLanes * (first + i % Z);
    if (channel < task.channels) __builtin_prefetch(task.y + i / Z * task.y_stride + channel, 1);  // written at the end
  }
  const std::int64_t group_bytes = Decoder::group_bytes(cut);
  for (std::int64_t group = 0, block = 0; group < cut.groups; ++group, block += cut.group_blocks) {
    const std::int64_t left = cut.blocks - block, count = left < cut.group_blocks ? left : cut.group_blocks;
    __m512i acc[R][Z];
#pragma GCC unroll 32
    for (int i = 0; i < R * Z; ++i) acc[i / Z][i % Z] = _mm512_set1_epi32(-task.sums[group * R + i / Z]);
    if constexpr (R == 1) {
      Decoder::accumulate_row(weights + group * group_bytes, task.q + block * p64::kBlockWeights, count, acc);
    } else {
      Decoder::template accumulate<R, Z>(weights + group * group_bytes, task.q, block, count, acc);
    }
    const float* scale = task.scale + group * p64::kPanelChannels + kLanes * first;
#pragma GCC unroll 32
    for (int i = 0; i < R * Z; ++i) {
      const int r = i / Z, z = i % Z;
      f[r][z] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[r][z]), _mm512_load_ps(scale + kLanes * z), f[r][z]);
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < R * Z; ++i) {
    const int r = i / Z, channel = kLanes * (first + i % Z);
    const __m512 y = _mm512_fmadd_ps(f[r][i % Z], _mm512_set1_ps(task.step[r]), _mm512_load_ps(task.bias + channel));
    _mm512_mask_storeu_ps(task.y + r * task.y_stride + channel, first_lanes(task.channels - channel), y);
  }
}

// Few rows take the whole panel at once (two registers would wait for vpdpbusd's latency); more rows take half of it,
// so that the accumulators stay in registers: 8 x 2.
template <class Decoder, int R>
void panel(const MultiplyTask& task) {
  if constexpr (R <= 4) {
    strip<Decoder, R, 4>(task, 0);
  } else {
    strip<Decoder, R, 2>(task, 0);
    if (task.channels > 2 * kLanes) strip<Decoder, R, 2>(task, 2);
  }
}

template <class Decoder>
void multiply(const MultiplyTask& task) {
  constexpr void (*kByRows[kTileRows])(const MultiplyTask&) = {panel<Decoder, 1>, panel<Decoder, 2>, panel<Decoder, 3>,
                                                               panel<Decoder, 4>, panel<Decoder, 5>, panel<Decoder, 6>,
                                                               panel<Decoder, 7>, panel<Decoder, 8>};
  kByRows[task.rows - 1](task);
}

}  // namespace
}  // namespace baker::ternary
