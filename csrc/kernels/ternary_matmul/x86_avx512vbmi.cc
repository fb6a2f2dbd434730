// AVX-512 VNNI and VBMI on P80: a byte v = r + 81 * c4 gives up its five codes without a division.
//
//   r   = v mod 81: min(v, v - 81) twice, since what wraps around is larger
//   c0..c3 as 2-bit fields, where P64 has them: one look-up of r in a table of 128 bytes (vpermi2b)
//   c4  = (v - r) & 3: 81 is 1 modulo 4
#include "common/p80.h"
#include "kernels/ternary_matmul/x86_avx512_tile.h"

namespace baker::ternary {
namespace {

struct Table {
  alignas(64) std::uint8_t fields[128];
};

constexpr Table make_table() {
  Table table{};
  for (unsigned r = 0; r < 81; ++r) {
    table.fields[r] = static_cast<std::uint8_t>(r % 3 | (r / 3 % 3) << 2U | (r / 9 % 3) << 4U | (r / 27) << 6U);
  }
  return table;
}

constexpr Table kTable = make_table();

struct Decoded {
  __m512i fields, fifth;
};

inline Decoded decode(__m512i v) {
  const __m512i power = _mm512_set1_epi8(81);
  __m512i r = _mm512_min_epu8(v, _mm512_sub_epi8(v, power));
  r = _mm512_min_epu8(r, _mm512_sub_epi8(r, power));
  const __m512i low = codes_at(kTable.fields), high = codes_at(kTable.fields + 64);
  return {_mm512_permutex2var_epi8(low, r, high), _mm512_and_si512(_mm512_sub_epi8(v, r), _mm512_set1_epi8(3))};
}

// p80::blocks, of which this file must not bring a copy compiled with its flags.
inline std::int64_t blocks_of(std::int64_t weights) { return (weights + p80::kBlockWeights - 1) / p80::kBlockWeights; }

struct Trits {
  static constexpr bool kParksRow = false;

  static std::int64_t group_bytes(const Cut& cut) {
    return blocks_of(cut.group_blocks * p64::kBlockWeights) * p64::kBlockBytes;
  }

  // Where row 0 of a tile of R rows has its activations quad .. quad + 3: q lies in blocks of 16.
  template <int R>
  static inline const std::int8_t* quad_at(const std::int8_t* q, std::int64_t quad) {
    return q + quad / 4 * R * p64::kBlockWeights + quad % 4 * 4;
  }

  template <int R, int Z>
  static inline void accumulate(const std::uint8_t* weights, const std::int8_t* q, std::int64_t first,
                                std::int64_t count, __m512i (&acc)[R][Z]) {
    const __m512i mask = _mm512_set1_epi8(3);
    const std::int64_t blocks = blocks_of(count * p64::kBlockWeights);
    std::int64_t quad = first * 4;
    for (std::int64_t block = 0; block < blocks; ++block, weights += p64::kBlockBytes) {
      Decoded decoded[Z];
#pragma GCC unroll 4
      for (int z = 0; z < Z; ++z) decoded[z] = decode(codes_at(weights + 64 * z));
#pragma GCC unroll 5
      for (int j = 0; j <= kFields; ++j, ++quad) {
        __m512i field[Z];
#pragma GCC unroll 4
        for (int z = 0; z < Z; ++z) {
          const __m512i moved = _mm512_srli_epi32(decoded[z].fields, static_cast<unsigned>(2 * j));
          field[z] = j == kFields ? decoded[z].fifth : _mm512_and_si512(moved, mask);
        }
        dot_rows(acc, field, quad_at<R>(q, quad));
      }
    }
  }

  static inline void accumulate_row(const std::uint8_t* weights, const std::int8_t* q, std::int64_t count,
                                    __m512i (&acc)[1][kPanelRegisters]) {
    __m512i part[kPanelRegisters][kFields];
#pragma GCC unroll 16
    for (int i = 0; i < kPanelRegisters * kFields; ++i) part[i / kFields][i % kFields] = _mm512_setzero_si512();
    const std::int64_t blocks = blocks_of(count * p64::kBlockWeights);
    for (std::int64_t block = 0; block < blocks; ++block, weights += p64::kBlockBytes, q += p80::kBlockWeights) {
      __m512i four[kFields];
#pragma GCC unroll 4
      for (int j = 0; j < kFields; ++j) four[j] = broadcast(q + 4 * j);
      const __m512i last = broadcast(q + 4 * kFields);
#pragma GCC unroll 4
      for (int z = 0; z < kPanelRegisters; ++z) {
        __builtin_prefetch(weights + 64 * z + kAhead);  // runs on into the next panel; beyond the last it does no harm
        const Decoded decoded = decode(codes_at(weights + 64 * z));
        dot_fields(part[z], decoded.fields, four);
        dot(part[z][0], decoded.fifth, last);
      }
    }
#pragma GCC unroll 4
    for (int z = 0; z < kPanelRegisters; ++z) add_fields(acc[0][z], part[z]);
  }
};

}  // namespace

const Products kAvx512VbmiP80 = {multiply<Trits>};

}  // namespace baker::ternary
