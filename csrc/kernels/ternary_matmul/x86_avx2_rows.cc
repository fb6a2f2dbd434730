// AVX2: what is done to rows of activations before the product and to tiles of the result behind it.
#include <immintrin.h>

#include "common/p64.h"
#include "kernels/ternary_matmul/variant.h"

namespace baker::ternary {
namespace {

constexpr int kLanes = 8;
constexpr std::uint32_t kLargestFinite = 0x7F7FFFFF;

inline std::int32_t sum_of(__m256i lanes) {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1)));
}

// Lanes 0..count-1 are all ones.
inline __m256i first_lanes(std::int64_t count) {
  const int limit = count > kLanes ? kLanes : static_cast<int>(count);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(limit), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// The largest bit pattern of |x|: for floats that is the largest |x|, and it shows Inf and NaN.
std::uint32_t abs_max_bits(const float* x, std::int64_t k) {
  const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
  __m256i most = _mm256_setzero_si256();
  for (std::int64_t i = 0; i < k; i += kLanes) {
    const __m256i bits = _mm256_castps_si256(_mm256_maskload_ps(x + i, first_lanes(k - i)));
    most = _mm256_max_epu32(most, _mm256_and_si256(bits, magnitude));
  }
  std::uint32_t lanes[kLanes], largest = 0;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), most);
  for (const std::uint32_t lane : lanes) largest = lane > largest ? lane : largest;
  return largest;
}

// rint(x * inverse) of 8 values, zero beyond count.
inline __m256i rounded(const float* x, std::int64_t count, __m256 inverse) {
  if (count <= 0) return _mm256_setzero_si256();
  return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_maskload_ps(x, first_lanes(count)), inverse));
}

// The 16 values of a block as int8.
inline void store_block(__m256i low, __m256i high, std::int8_t* q) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), bytes);
}

void quantize_row(const QuantizeTask& task, int row) {
  const Cut& cut = task.cut;
  const float* x = task.x + row * cut.k;
  const std::uint32_t bits = abs_max_bits(x, cut.k);
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof(largest));
  const bool finite = bits <= kLargestFinite;
  const float a = !finite ? __builtin_nanf("") : largest > kMinAbsMax ? largest : kMinAbsMax;
  const __m256 inverse = _mm256_set1_ps(kQuantMax / a);
  const std::int64_t usable = finite ? cut.k : 0;
  task.step[row] = a / kQuantMax;
  std::int8_t* q = task.q + row * p64::kBlockWeights;
  for (std::int64_t group = 0, block = 0; group < cut.groups; ++group) {
    const std::int64_t end = block + cut.group_blocks, last = end < cut.blocks ? end : cut.blocks;
    __m256i sum = _mm256_setzero_si256();
    for (; block < last; ++block, q += task.rows * p64::kBlockWeights) {
      const std::int64_t at = block * p64::kBlockWeights;
      const __m256i low = rounded(x + at, usable - at, inverse);
      const __m256i high = rounded(x + at + kLanes, usable - at - kLanes, inverse);
      sum = _mm256_add_epi32(sum, _mm256_add_epi32(low, high));
      store_block(low, high, q);
    }
    task.sums[group * task.rows + row] = sum_of(sum);
  }
}

void quantize(const QuantizeTask& task) {
  for (int row = 0; row < task.rows; ++row) quantize_row(task, row);
}

}  // namespace

const Rows kAvx2Rows = {quantize};

}  // namespace baker::ternary
