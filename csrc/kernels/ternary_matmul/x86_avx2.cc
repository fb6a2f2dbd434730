// AVX2: vpmaddubsw multiplies unsigned codes with signed activations and adds neighbours in int16. A pair of codes is
// at most 2 * 2 * 127 = 508, so 64 pairs fit into int16 (32512) before they are widened.
//
// A row alone (M = 1) leaves every second field where it stands, times 4: 2032 a pair, 16 of which fit. One shift then
// serves two fields.
#include "kernels/ternary_matmul/x86_ymm_tile.h"

namespace baker::ternary {
namespace {

constexpr std::int64_t kPlainBlocks = 16, kPairBlocks = 8;  // 64 pairs of codes; 16 of codes times 4
constexpr int kHalf = kPanelRegisters / 2;

// acc += pairs of int16
inline void widen(__m256i& acc, __m256i pairs) {
  acc = _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

struct Pairs {
  static constexpr int kMaxRows = 8;
  static constexpr int registers(int rows) { return rows == 1 ? 8 : rows == 2 ? 4 : rows <= 4 ? 2 : 1; }

  // In int16. Written out because GCC 12 moves the sums between registers otherwise.
  static inline void dot(__m256i& sum, __m256i codes, __m256i activations) {
    __m256i pairs;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(pairs) : "x"(codes), "x"(activations));
  }

  template <int R, int Y>
  static inline void accumulate(const std::uint8_t* weights, const std::int8_t* q, std::int64_t stride,
                                std::int64_t count, __m256i (&acc)[R][Y]) {
    for (std::int64_t block = 0; block < count;) {
      const std::int64_t most = R == 1 ? kPairBlocks : kPlainBlocks;
      const std::int64_t next = count - block < most ? count : block + most;
      __asm__("" : "+m"(acc));
      if constexpr (R == 1) {
        one_row<0>(weights, q, stride, next - block, acc[0]);
        one_row<kHalf>(weights, q, stride, next - block, acc[0]);
      } else {
        several(weights, q, stride, next - block, acc);
      }
      weights += (next - block) * p64::kBlockBytes;
      q += (next - block) * stride;
      block = next;
    }
  }

 private:
  // At most kPlainBlocks blocks.
  template <int R, int Y>
  static inline void several(const std::uint8_t* weights, const std::int8_t* q, std::int64_t stride, std::int64_t count,
                             __m256i (&acc)[R][Y]) {
    __m256i sum[R][Y];
#pragma GCC unroll 8
    for (int i = 0; i < R * Y; ++i) sum[i / Y][i % Y] = _mm256_setzero_si256();
    add_blocks<Pairs>(weights, q, stride, count, sum);
#pragma GCC unroll 8
    for (int i = 0; i < R * Y; ++i) widen(acc[i / Y][i % Y], sum[i / Y][i % Y]);
  }

  // At most kPairBlocks blocks; half of the panel, from register kFirst.
  template <int kFirst>
  static inline void one_row(const std::uint8_t* weights, const std::int8_t* q, std::int64_t stride, std::int64_t count,
                             __m256i (&acc)[kPanelRegisters]) {
    const __m256i low = _mm256_set1_epi8(3), high = _mm256_set1_epi8(12);
    __m256i plain[kHalf], times4[kHalf];
#pragma GCC unroll 4
    for (int y = 0; y < kHalf; ++y) plain[y] = times4[y] = _mm256_setzero_si256();
    for (std::int64_t block = 0; block < count; ++block, weights += p64::kBlockBytes, q += stride) {
      const std::uint8_t* half_panel = weights + kRegisterBytes * kFirst;
      __builtin_prefetch(half_panel + kAhead);
      __builtin_prefetch(half_panel + kAhead + 2 * kRegisterBytes);
#pragma GCC unroll 2
      for (int pair = 0; pair < 2; ++pair) {
        const __m256i first = broadcast(q + 8 * pair), second = broadcast(q + 8 * pair + 4);
#pragma GCC unroll 4
        for (int y = 0; y < kHalf; ++y) {
          const __m256i codes = _mm256_srli_epi16(codes_at(half_panel + kRegisterBytes * y), 4 * pair);
          dot(plain[y], _mm256_and_si256(codes, low), first);
          dot(times4[y], _mm256_and_si256(codes, high), second);
        }
      }
    }
#pragma GCC unroll 4
    for (int y = 0; y < kHalf; ++y) {
      widen(acc[kFirst + y], plain[y]);
      const __m256i sum = _mm256_madd_epi16(times4[y], _mm256_set1_epi16(1));
      acc[kFirst + y] = _mm256_add_epi32(acc[kFirst + y], _mm256_srai_epi32(sum, 2));
    }
  }
};

}  // namespace

const Products kAvx2Products = {multiply<Pairs>};

}  // namespace baker::ternary
