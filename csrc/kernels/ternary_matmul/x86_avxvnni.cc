// AVX-VNNI: vpdpbusd on registers of 256 bits, for CPUs without AVX-512.
//
// A row alone (M = 1) multiplies the field j of a byte where it stands (times 4^j), with an accumulator for each field;
// the four are brought to one scale at the end. More rows share fields that are unpacked.
#include "kernels/ternary_matmul/x86_ymm_tile.h"

namespace baker::ternary {
namespace {

constexpr std::int64_t kRowBlocks = 32;  // 8 KB of a panel, which stay in L1 while the four parts of it pass

struct Quads {
  static constexpr int kMaxRows = 4;
  static constexpr int registers(int rows) { return rows == 1 ? 8 : rows == 2 ? 4 : 2; }

  // Written out because GCC 12 moves the sums between registers otherwise.
  static inline void dot(__m256i& sum, __m256i codes, __m256i activations) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(codes), "x"(activations));
  }

  template <int R, int Y>
  static inline void accumulate(const std::uint8_t* weights, const std::int8_t* q, std::int64_t stride,
                                std::int64_t count, __m256i (&acc)[R][Y]) {
    if constexpr (R > 1) return add_blocks<Quads>(weights, q, stride, count, acc);
    while (count > 0) {
      const std::int64_t blocks = count < kRowBlocks ? count : kRowBlocks;
#pragma GCC unroll 1
      for (int first = 0; first < Y; first += 2) {
        __asm__("" : "+m"(acc));
        one_row(weights + kRegisterBytes * first, q, stride, blocks, acc[0] + first);
      }
      weights += blocks * p64::kBlockBytes;
      q += blocks * stride;
      count -= blocks;
    }
  }

 private:
  // Two registers of channels.
  static inline void one_row(const std::uint8_t* weights, const std::int8_t* q, std::int64_t stride, std::int64_t count,
                             __m256i* acc) {
    __m256i part[2][kFields];
#pragma GCC unroll 8
    for (int i = 0; i < 2 * kFields; ++i) part[i / kFields][i % kFields] = _mm256_setzero_si256();
    for (std::int64_t block = 0; block < count; ++block, weights += p64::kBlockBytes, q += stride) {
      __builtin_prefetch(weights + kAhead);
#pragma GCC unroll 4
      for (int j = 0; j < kFields; ++j) {
        const __m256i four = broadcast(q + 4 * j), mask = _mm256_set1_epi8(static_cast<char>(3U << (2 * j)));
        dot(part[0][j], _mm256_and_si256(codes_at(weights), mask), four);
        dot(part[1][j], _mm256_and_si256(codes_at(weights + kRegisterBytes), mask), four);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < 2 * kFields; ++i) {
      const int y = i / kFields, j = i % kFields;
      acc[y] = _mm256_add_epi32(acc[y], _mm256_srai_epi32(part[y][j], 2 * j));
    }
  }
};

}  // namespace

const Products kAvxVnniProducts = {multiply<Quads>};

}  // namespace baker::ternary
