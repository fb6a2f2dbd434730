// AVX-512 VNNI on P64: vpdpbusd multiplies four unsigned codes with four signed activations a lane, exactly.
//
// M = 1 needs no shifts: the field j of a byte is multiplied where it stands (times 4^j), each field has an accumulator
// of its own, and the four are brought to one scale at the end. M >= 2 unpacks a field once for all rows of the tile.
#include "kernels/ternary_matmul/x86_avx512_tile.h"

namespace baker::ternary {
namespace {

struct Bits2 {
  static constexpr bool kParksRow = true;

  static std::int64_t group_bytes(const Cut& cut) { return cut.group_blocks * p64::kBlockBytes; }

  template <int R, int Z>
  static inline void accumulate(const std::uint8_t* weights, const std::int8_t* q, std::int64_t first,
                                std::int64_t count, __m512i (&acc)[R][Z]) {
    const __m512i mask = _mm512_set1_epi8(3);
    q += first * R * p64::kBlockWeights;
    for (std::int64_t block = 0; block < count; ++block, weights += p64::kBlockBytes, q += R * p64::kBlockWeights) {
#pragma GCC unroll 4
      for (int j = 0; j < kFields; ++j) {
        __m512i field[Z];
#pragma GCC unroll 4
        for (int z = 0; z < Z; ++z) {
          field[z] =
              _mm512_and_si512(_mm512_srli_epi32(codes_at(weights + 64 * z), static_cast<unsigned>(2 * j)), mask);
        }
        dot_rows(acc, field, q + 4 * j);
      }
    }
  }

  static inline void accumulate_row(const std::uint8_t* weights, const std::int8_t* q, std::int64_t count,
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
        dot_fields(part[z], codes_at(weights + 64 * z), four);
      }
    }
#pragma GCC unroll 4
    for (int z = 0; z < kPanelRegisters; ++z) add_fields(acc[0][z], part[z]);
  }
};

}  // namespace

const Products kAvx512VnniProducts = {multiply<Bits2>};

}  // namespace baker::ternary
