// A tile of rows times a panel of channels in AVX-512, for any form of weights. Included by x86_avx512*.cc alone; all
// of it has internal linkage, so each file gets its own copy, compiled with its own flags.
//
// A Decoder says how blocks of 256 bytes become unsigned codes of four neighbouring k a lane:
//
//   static std::int64_t group_bytes(const Cut& cut);                               bytes of a whole group of a panel
//   // acc[r][z] += the dot products of R rows with 16 * Z channels; the group begins at 16-block first of q and has
//   // count of them
//   template <int R, int Z> static void accumulate(const std::uint8_t* weights, const std::int8_t* q,
//                                                  std::int64_t first, std::int64_t count, __m512i (&acc)[R][Z]);
//   // the same for one row and the whole panel
//   static void accumulate_row(const std::uint8_t* weights, const std::int8_t* q, std::int64_t count,
//                              __m512i (&acc)[1][kPanelRegisters]);
//   // whether f waits in memory while accumulate_row runs; as measured: P64's loop then keeps all it reads in
//   // registers, P80's does so without
//   static constexpr bool kParksRow;
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
    for (int z = 0; z < Z; ++z) dot(acc[r][z], codes[z], four);
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

// What one strip writes: R rows x Z registers of channels.
template <int Z>
struct Output {
  float* y;
  std::int64_t stride;
  __mmask16 mask[Z];  // the channels that exist
};

template <int Z>
[[nodiscard]] inline Output<Z> output_at(const MultiplyTask& task, int first) {
  Output<Z> out;
  out.y = task.y + kLanes * first;
  out.stride = task.y_stride;
#pragma GCC unroll 4
  for (int z = 0; z < Z; ++z) out.mask[z] = first_lanes(task.channels - kLanes * (first + z));
  return out;
}

// The lines are written at the end, and wait in the cache till then.
template <int R, int Z>
inline void fetch(const Output<Z>& out) {
#pragma GCC unroll 32
  for (int i = 0; i < R * Z; ++i) {
    if (out.mask[i % Z] != 0) __builtin_prefetch(out.y + i / Z * out.stride + i % Z * kLanes, 1);
  }
}

// acc = -sums of a group.
template <int R, int Z>
inline void begin(const std::int32_t* sums, __m512i (&acc)[R][Z]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const __m512i start = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_set1_epi32(sums[r]));
#pragma GCC unroll 4
    for (int z = 0; z < Z; ++z) acc[r][z] = start;
  }
}

// f += acc * scale of a group.
template <int R, int Z>
inline void add_group(const __m512i (&acc)[R][Z], const float* scale, __m512 (&f)[R][Z]) {
#pragma GCC unroll 4
  for (int z = 0; z < Z; ++z) {
    const __m512 of_channels = _mm512_load_ps(scale + kLanes * z);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) f[r][z] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[r][z]), of_channels, f[r][z]);
  }
}

// y = f * step + bias.
template <int R, int Z>
inline void store(const __m512 (&f)[R][Z], const float* steps, const float* bias, const Output<Z>& out) {
  __m512 of_channels[Z];
#pragma GCC unroll 4
  for (int z = 0; z < Z; ++z) of_channels[z] = _mm512_load_ps(bias + kLanes * z);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const __m512 step = _mm512_set1_ps(steps[r]);
#pragma GCC unroll 4
    for (int z = 0; z < Z; ++z) {
      const __m512 y = _mm512_fmadd_ps(f[r][z], step, of_channels[z]);
      _mm512_mask_storeu_ps(out.y + r * out.stride + kLanes * z, out.mask[z], y);
    }
  }
}

// R rows x registers first..first + Z - 1 of the panel.
template <class Decoder, int R, int Z>
void strip(const MultiplyTask& given, int first) {
  const MultiplyTask task = given;  // a copy, which no store to y can change
  const Cut& cut = task.cut;
  const Output<Z> out = output_at<Z>(task, first);
  fetch<R>(out);
  __m512 f[R][Z];
#pragma GCC unroll 32
  for (int i = 0; i < R * Z; ++i) f[i / Z][i % Z] = _mm512_setzero_ps();
  const std::uint8_t* weights = task.panel + 64 * first;
  const float* scale = task.scale + kLanes * first;
  const std::int64_t group_bytes = Decoder::group_bytes(cut);
  for (std::int64_t group = 0, block = 0; group < cut.groups; ++group, block += cut.group_blocks) {
    const std::int64_t left = cut.blocks - block, count = left < cut.group_blocks ? left : cut.group_blocks;
    __m512i acc[R][Z];
    begin(task.sums + group * R, acc);
    if constexpr (R == 1) {
      if constexpr (Decoder::kParksRow) __asm__("" : "+m"(f));
      Decoder::accumulate_row(weights + group * group_bytes, task.q + block * p64::kBlockWeights, count, acc);
    } else {
      Decoder::template accumulate<R, Z>(weights + group * group_bytes, task.q, block, count, acc);
    }
    add_group(acc, scale + group * p64::kPanelChannels, f);
  }
  store(f, task.step, task.bias + kLanes * first, out);
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
