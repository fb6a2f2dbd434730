// AVX2: what is done to rows of activations before the product and to tiles of the result behind it.
#include <immintrin.h>

#include "kernels/ternary_matmul/rows.h"

namespace baker::ternary {
namespace {

struct Avx2 {
  using F = __m256;
  using I = __m256i;
  using U = __m256i;
  static constexpr int kLanes = 8;

  static inline F load(const float* x) { return _mm256_loadu_ps(x); }
  static inline void store(float* x, F value) { _mm256_storeu_ps(x, value); }
  static inline F zero_f() { return _mm256_setzero_ps(); }
  static inline I zero_i() { return _mm256_setzero_si256(); }
  static inline U zero_u() { return _mm256_setzero_si256(); }
  static inline F set(float value) { return _mm256_set1_ps(value); }
  static inline F add(F a, F b) { return _mm256_add_ps(a, b); }
  static inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static inline F div(F a, F b) { return _mm256_div_ps(a, b); }
  static inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static inline F min(F a, F b) { return _mm256_min_ps(a, b); }
  static inline F abs(F x) { return _mm256_andnot_ps(set(-0.0F), x); }
  static inline F relu(F x) { return _mm256_andnot_ps(_mm256_cmp_ps(x, zero_f(), _CMP_LE_OQ), x); }
  static inline F keep_nan(F x, F y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q)); }
  static inline F shift_23(F x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 23)); }
  static inline float sqrt(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

  static inline U max_u(U a, U b) { return _mm256_max_epu32(a, b); }
  static inline U max_magnitude(U most, F x) { return max_u(most, _mm256_castps_si256(abs(x))); }
  static inline std::uint32_t top(U x) {
    __m128i most = _mm_max_epu32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0x4E));
    return static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm_max_epu32(most, _mm_shuffle_epi32(most, 0xB1))));
  }
  static inline float sum(F x) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static inline std::int32_t sum_i(I x) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
  }
  static inline void store_block(const F (&x)[2], std::int8_t* q, I& sum) {
    const I low = _mm256_cvtps_epi32(x[0]), high = _mm256_cvtps_epi32(x[1]);
    sum = _mm256_add_epi32(sum, _mm256_add_epi32(low, high));
    const I words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), bytes);
  }
};

}  // namespace

const Rows kAvx2Rows = {quantize<Avx2>, finish<Avx2>};

}  // namespace baker::ternary
