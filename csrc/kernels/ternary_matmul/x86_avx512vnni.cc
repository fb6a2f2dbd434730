// AVX-512 VNNI: vpdpbusd multiplies four unsigned codes with four signed activations a lane, exactly.
//
// M = 1 needs no shifts: the field j of a byte is multiplied where it stands (times 4^j), each field has an accumulator
// of its own, and the four are brought to one scale at the end. M >= 2 unpacks a field once for all rows of the tile.
#include <immintrin.h>

#include "common/p64.h"
#include "kernels/ternary_matmul/variant.h"

namespace baker::ternary {
namespace {

constexpr int kLanes = 16;  // channels in a register
constexpr int kFields = 4;  // codes in a byte
constexpr int kPanelRegisters = 4;
// Bytes that a GEMV asks for ahead of its stream. Weights in DRAM (Zen 5): 31 GB/s without, 34 at 2 KiB, 37 at 4, 38
// at 8.
constexpr int kAhead = 8192;

inline __m512i codes_at(const std::uint8_t* weights) { return _mm512_load_si512(weights); }

// Four activations in every lane.
inline __m512i broadcast(const std::int8_t* q) {
  std::int32_t four;
  __builtin_memcpy(&four, q, sizeof(four));
  return _mm512_set1_epi32(four);
}

inline __mmask16 first_lanes(std::int64_t count) {
  if (count >= kLanes) return 0xFFFF;
  return count <= 0 ? __mmask16{0} : static_cast<__mmask16>((1U << static_cast<unsigned>(count)) - 1U);
}

// sum += codes . activations. Written out because GCC 12 copies the accumulators of the intrinsic to and fro and spills
// them: in a GEMV that took a third of the speed.
inline void dot(__m512i& sum, __m512i codes, __m512i activations) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(activations));
}

// acc[r][z] += the dot products of R rows with 16 * Z channels over count blocks.
template <int R, int Z>
inline void accumulate(const std::uint8_t* weights, const std::int8_t* q, std::int64_t count, __m512i (&acc)[R][Z]) {
  const __m512i mask = _mm512_set1_epi8(3);
  for (std::int64_t block = 0; block < count; ++block, weights += p64::kBlockBytes, q += R * p64::kBlockWeights) {
#pragma GCC unroll 4
    for (int j = 0; j < kFields; ++j) {
      __m512i field[Z];
#pragma GCC unroll 4
      for (int z = 0; z < Z; ++z) {
        field[z] = _mm512_and_si512(_mm512_srli_epi32(codes_at(weights + 64 * z), static_cast<unsigned>(2 * j)), mask);
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512i four = broadcast(q + r * p64::kBlockWeights + 4 * j);
#pragma GCC unroll 4
        for (int z = 0; z < Z; ++z) acc[r][z] = _mm512_dpbusd_epi32(acc[r][z], field[z], four);
      }
    }
  }
}

// The same for one row and the whole panel, without a shift in the loop.
inline void accumulate_row(const std::uint8_t* weights, const std::int8_t* q, std::int64_t count,
                           __m512i (&acc)[1][kPanelRegisters]) {
  __m512i part[kPanelRegisters][kFields];
#pragma GCC unroll 16
  for (int i = 0; i < kPanelRegisters * kFields; ++i) part[i / kFields][i % kFields] = _mm512_setzero_si512();
  for (std::int64_t block = 0; block < count; ++block, weights += p64::kBlockBytes, q += p64::kBlockWeights) {
    __m512i four[kFields];
#pragma GCC unroll 4
    for (int j = 0; j < kFields; ++j) four[j] = broadcast(q + 4 * j);
#pragma GCC unroll 4
    for (int z = 0; z < kPanelRegisters; ++z) {
      __builtin_prefetch(weights + 64 * z + kAhead);  // runs on into the next panel; beyond the last it does no harm
      const __m512i codes = codes_at(weights + 64 * z);
#pragma GCC unroll 4
      for (int j = 0; j < kFields; ++j) {
        const __m512i field = _mm512_and_si512(codes, _mm512_set1_epi8(static_cast<char>(3U << (2 * j))));
        dot(part[z][j], field, four[j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kPanelRegisters * kFields; ++i) {  // part[z][j] is a multiple of 4^j: the shift is exact
    const int z = i / kFields, j = i % kFields;
    acc[0][z] = _mm512_add_epi32(acc[0][z], _mm512_srai_epi32(part[z][j], static_cast<unsigned>(2 * j)));
  }
}

// R rows x registers first..first + Z - 1 of the panel.
template <int R, int Z>
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
  for (std::int64_t group = 0, block = 0; group < cut.groups; ++group, block += cut.group_blocks) {
    const std::int64_t left = cut.blocks - block, count = left < cut.group_blocks ? left : cut.group_blocks;
    __m512i acc[R][Z];
#pragma GCC unroll 32
    for (int i = 0; i < R * Z; ++i) acc[i / Z][i % Z] = _mm512_set1_epi32(-task.sums[group * R + i / Z]);
    if constexpr (R == 1) {
      accumulate_row(weights + block * p64::kBlockBytes, task.q + block * p64::kBlockWeights, count, acc);
    } else {
      accumulate<R, Z>(weights + block * p64::kBlockBytes, task.q + block * R * p64::kBlockWeights, count, acc);
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
template <int R>
void panel(const MultiplyTask& task) {
  if constexpr (R <= 4) {
    strip<R, 4>(task, 0);
  } else {
    strip<R, 2>(task, 0);
    if (task.channels > 2 * kLanes) strip<R, 2>(task, 2);
  }
}

void multiply(const MultiplyTask& task) {
  constexpr void (*kByRows[kTileRows])(const MultiplyTask&) = {panel<1>, panel<2>, panel<3>, panel<4>,
                                                               panel<5>, panel<6>, panel<7>, panel<8>};
  kByRows[task.rows - 1](task);
}

}  // namespace

const Products kAvx512VnniProducts = {multiply};

}  // namespace baker::ternary
