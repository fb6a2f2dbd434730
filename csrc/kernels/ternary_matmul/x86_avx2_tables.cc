// AVX2, many rows: look-ups in place of products ("Four Russians"). vpmaddubsw multiplies 32 codes an instruction and
// needs an addition behind it; one addition of a table's line does the work of 64 products.
//
// A byte of P64 holds four codes of one channel, k = b, b + 4, b + 8, b + 12 of its block. For each b of a block there
// is a table of what these four make of the activations, for 16 rows at once: 81 lines of 16 int16, which stand where
// the byte itself says (256 places, of which those with a field of 3 stay empty). A channel then adds a line a byte. A
// line is at most 4 * 127 = 508, so 64 of them fit into int16 (32512). Tables are worth their making over many
// channels, hence several panels a task.
//
// Source: Arlazarov, Dinic, Kronrod and Faradzhev 1970.
#include "kernels/ternary_matmul/x86_ymm_tile.h"

namespace baker::ternary {
namespace {

constexpr int kBytes = 4;                          // of a block and channel: tables of a block
constexpr int kPassBlocks = 2;                     // blocks whose tables are in L1 together
constexpr std::int64_t kWidenBlocks = 16;          // 64 lines
constexpr int kLine = 32;                          // bytes: int16 of 16 rows
constexpr int kTableBytes = 256 * kLine + 9 * 64;  // tables begin at different sets of the cache
constexpr int kPanelChannels = static_cast<int>(p64::kPanelChannels);
constexpr int kChannels = kWidePanels * kPanelChannels;

// The state of a task: 16 rows of each channel.
struct Work {
  alignas(64) std::uint8_t tables[kPassBlocks * kBytes][kTableBytes];
  alignas(64) std::int16_t sums[kChannels][kWideRows];    // of lines
  alignas(64) std::int32_t totals[kChannels][kWideRows];  // of sums, over a group
  alignas(64) float f[kChannels][kWideRows];              // over groups
};

[[nodiscard]] inline __m256i load(const void* memory) { return _mm256_load_si256(static_cast<const __m256i*>(memory)); }

inline void store(void* memory, __m256i value) { _mm256_store_si256(static_cast<__m256i*>(memory), value); }

// k[i]: activation i of a block, int16 of 16 rows. first, second: the block in the tiles of rows 0-7 and 8-15.
inline void transpose(const std::int8_t* first, const std::int8_t* second, __m256i (&k)[p64::kBlockWeights]) {
  __m128i a[16], b[16];
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r) {
    a[r] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(first + r * p64::kBlockWeights));
    a[r + kTileRows] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(second + r * p64::kBlockWeights));
  }
#pragma GCC unroll 4
  for (int stage = 0; stage < 4; ++stage) {  // a shuffle of 256 bytes that is the transpose when done four times
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
      b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) k[i] = _mm256_cvtepi8_epi16(a[i]);
}

// x times code - 1, for a code of 0, 1 or 2.
[[nodiscard]] inline __m256i times(__m256i x, int code) {
  const __m256i zero = _mm256_setzero_si256();
  return code == 0 ? _mm256_sub_epi16(zero, x) : code == 1 ? zero : x;
}

// The lines of a byte with the codes of four activations.
inline void make_table(__m256i q0, __m256i q1, __m256i q2, __m256i q3, std::uint8_t* table) {
  __m256i low[9];
#pragma GCC unroll 9
  for (int i = 0; i < 9; ++i) low[i] = _mm256_add_epi16(times(q0, i % 3), times(q1, i / 3));
#pragma GCC unroll 9
  for (int j = 0; j < 9; ++j) {
    const __m256i high = _mm256_add_epi16(times(q2, j % 3), times(q3, j / 3));
    std::uint8_t* lines = table + (j % 3 * 16 + j / 3 * 64) * kLine;
#pragma GCC unroll 9
    for (int i = 0; i < 9; ++i) store(lines + (i % 3 + i / 3 * 4) * kLine, _mm256_add_epi16(low[i], high));
  }
}

// The four tables of a block.
void make_tables(const WideTask& task, std::int64_t block, std::uint8_t (*tables)[kTableBytes]) {
  constexpr std::int64_t kTileBlock = kTileRows * p64::kBlockWeights;
  __m256i k[p64::kBlockWeights];
  transpose(task.q[0] + block * kTileBlock, task.q[1] + block * kTileBlock, k);
#pragma GCC unroll 4
  for (int b = 0; b < kBytes; ++b) make_table(k[b], k[b + 4], k[b + 8], k[b + 12], tables[b]);
}

// sum += the lines of a block's four bytes of one channel.
inline void add_lines(__m256i& sum, const std::uint8_t* codes, const std::uint8_t (*tables)[kTableBytes]) {
  std::uint32_t word;
  __builtin_memcpy(&word, codes, sizeof(word));
  constexpr std::uint32_t kMask = 255U * kLine;
  const std::uint32_t at[kBytes] = {word << 5U & kMask, word >> 3U & kMask, word >> 11U & kMask, word >> 19U & kMask};
#pragma GCC unroll 4
  for (int b = 0; b < kBytes; ++b) {
    __asm__("vpaddw %1, %0, %0" : "+x"(sum) : "m"(*reinterpret_cast<const __m256i*>(tables[b] + at[b])));
  }
}

// sums (kFirst: from zero) += the lines of kCount blocks, for all channels.
template <int kCount, bool kFirst>
void look_up(const WideTask& task, std::int64_t block, Work& work) {
  for (int p = 0; p < task.count; ++p) {
    const std::uint8_t* codes = task.panels[p].codes + block * p64::kBlockBytes;
    std::int16_t (*sums)[kWideRows] = work.sums + p * kPanelChannels;
    const std::uint8_t* next = codes + kCount * p64::kBlockBytes;  // what the next pass reads of this panel
    for (int line = 0; line < kCount * 4; ++line) __builtin_prefetch(next + 64 * line);
    for (int channel = 0; channel < kPanelChannels; ++channel, codes += kBytes) {
      __m256i sum = kFirst ? _mm256_setzero_si256() : load(sums[channel]);
#pragma GCC unroll 2
      for (int i = 0; i < kCount; ++i) add_lines(sum, codes + i * p64::kBlockBytes, work.tables + i * kBytes);
      store(sums[channel], sum);
    }
  }
}

// Looks up blocks first..last - 1, of which sums can hold the lines.
void pass(const WideTask& task, std::int64_t first, std::int64_t last, Work& work) {
  for (std::int64_t block = first; block < last; block += kPassBlocks) {
    const bool pair = block + 1 < last;
    make_tables(task, block, work.tables);
    if (pair) make_tables(task, block + 1, work.tables + kBytes);
    if (block == first) {
      pair ? look_up<2, true>(task, block, work) : look_up<1, true>(task, block, work);
    } else {
      pair ? look_up<2, false>(task, block, work) : look_up<1, false>(task, block, work);
    }
  }
}

// totals += sums; at the end of a group f += totals * scale, for all channels.
void settle(const WideTask& task, std::int64_t group, bool begins, bool ends, Work& work) {
  for (int channel = 0; channel < task.count * kPanelChannels; ++channel) {
    const WidePanel& panel = task.panels[channel / kPanelChannels];
    const __m256 scale = _mm256_set1_ps(panel.scale[group * kPanelChannels + channel % kPanelChannels]);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const auto* sums = reinterpret_cast<const __m128i*>(work.sums[channel] + kTileRows * half);
      std::int32_t* totals = work.totals[channel] + kTileRows * half;
      float* f = work.f[channel] + kTileRows * half;
      __m256i total = _mm256_cvtepi16_epi32(_mm_load_si128(sums));
      if (!begins) total = _mm256_add_epi32(total, load(totals));
      if (!ends) {
        store(totals, total);
        continue;
      }
      const __m256 before = group == 0 ? _mm256_setzero_ps() : _mm256_load_ps(f);
      _mm256_store_ps(f, _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), scale, before));
    }
  }
}

// Rows of 8 channels from channels of 8 rows.
inline void transpose(__m256 (&x)[8]) {
  __m256 a[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    x[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    x[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xEE);
    x[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    x[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x20);
    a[i + 4] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x31);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) x[i] = a[i];
}

// y = f * step + bias for channels first..first + 7 of a panel, 8 rows from row.
void write(const WideTask& task, const WidePanel& panel, int first, int row, const float (*f)[kWideRows]) {
  const __m256 step = _mm256_loadu_ps(task.step + row);
  __m256 y[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    y[i] = _mm256_fmadd_ps(_mm256_load_ps(f[i] + row), step, _mm256_set1_ps(panel.bias[first + i]));
  }
  transpose(y);
  const __m256i mask = first_lanes(panel.channels - first);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) _mm256_maskstore_ps(panel.y + (row + i) * panel.stride + first, mask, y[i]);
}

void multiply(const WideTask& task) {
  Work work;  // some 230 KB
  const Cut& cut = task.cut;
  for (std::int64_t group = 0, block = 0; group < cut.groups; ++group) {
    const std::int64_t begin = block, left = cut.blocks - block;
    const std::int64_t end = block + (left < cut.group_blocks ? left : cut.group_blocks);
    while (block < end) {
      const std::int64_t next = end - block < kWidenBlocks ? end : block + kWidenBlocks;
      pass(task, block, next, work);
      settle(task, group, block == begin, next == end, work);
      block = next;
    }
  }
  for (int p = 0; p < task.count; ++p) {
    for (int first = 0; first < task.panels[p].channels; first += 8) {
      const float (*f)[kWideRows] = work.f + p * kPanelChannels + first;
      write(task, task.panels[p], first, 0, f);
      write(task, task.panels[p], first, kTileRows, f);
    }
  }
}

}  // namespace

const WideProducts kAvx2Tables = {multiply};

}  // namespace baker::ternary
