// AVX-512: what is done to rows of activations before the product and to tiles of the result behind it.
#include <immintrin.h>

#include "common/p64.h"
#include "kernels/ternary_matmul/variant.h"

namespace baker::ternary {
namespace {

constexpr int kLanes = 16;
constexpr std::uint32_t kLargestFinite = 0x7F7FFFFF;

inline __mmask16 first_lanes(std::int64_t count) {
  if (count >= kLanes) return 0xFFFF;
  return count <= 0 ? __mmask16{0} : static_cast<__mmask16>((1U << static_cast<unsigned>(count)) - 1U);
}

// The largest bit pattern of |x|: for floats that is the largest |x|, and it shows Inf and NaN.
std::uint32_t abs_max_bits(const float* x, std::int64_t k) {
  const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
  __m512i most = _mm512_setzero_si512();
  for (std::int64_t i = 0; i < k; i += kLanes) {
    const __m512i bits = _mm512_castps_si512(_mm512_maskz_loadu_ps(first_lanes(k - i), x + i));
    most = _mm512_max_epu32(most, _mm512_and_si512(bits, magnitude));
  }
  return _mm512_reduce_max_epu32(most);
}

void quantize_row(const QuantizeTask& task, int row) {
  const Cut& cut = task.cut;
  const float* x = task.x + row * cut.k;
  const std::uint32_t bits = abs_max_bits(x, cut.k);
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof(largest));
  const bool finite = bits <= kLargestFinite;
  const float a = !finite ? __builtin_nanf("") : largest > kMinAbsMax ? largest : kMinAbsMax;
  const __mmask16 keep = finite ? 0xFFFF : 0;
  const __m512 inverse = _mm512_set1_ps(kQuantMax / a);
  task.step[row] = a / kQuantMax;
  std::int8_t* q = task.q + row * p64::kBlockWeights;
  for (std::int64_t group = 0, block = 0; group < cut.groups; ++group) {
    const std::int64_t end = block + cut.group_blocks, last = end < cut.blocks ? end : cut.blocks;
    __m512i sum = _mm512_setzero_si512();
    for (; block < last; ++block) {
      const std::int64_t at = block * p64::kBlockWeights;
      const auto lanes = static_cast<__mmask16>(keep & first_lanes(cut.k - at));
      const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + at), inverse);
      const __m512i rounded =
          _mm512_maskz_cvt_roundps_epi32(lanes, scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      sum = _mm512_add_epi32(sum, rounded);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(rounded));
      q += task.rows * p64::kBlockWeights;
    }
    task.sums[group * task.rows + row] = _mm512_reduce_add_epi32(sum);
  }
}

void quantize(const QuantizeTask& task) {
  for (int row = 0; row < task.rows; ++row) quantize_row(task, row);
}

}  // namespace

const Rows kAvx512Rows = {quantize};

}  // namespace baker::ternary
