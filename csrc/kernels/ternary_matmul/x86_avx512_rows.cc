// AVX-512: what is done to rows of activations before the product and to tiles of the result behind it.
#include <immintrin.h>

#include "kernels/ternary_matmul/rows.h"

namespace baker::ternary {
namespace {

struct Avx512 {
  using F = __m512;
  using I = __m512i;
  using U = __m512i;
  static constexpr int kLanes = 16;

  static inline F load(const float* x) { return _mm512_loadu_ps(x); }
  static inline void store(float* x, F value) { _mm512_storeu_ps(x, value); }
  static inline F zero_f() { return _mm512_setzero_ps(); }
  static inline I zero_i() { return _mm512_setzero_si512(); }
  static inline U zero_u() { return _mm512_setzero_si512(); }
  static inline F set(float value) { return _mm512_set1_ps(value); }
  static inline F add(F a, F b) { return _mm512_add_ps(a, b); }
  static inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static inline F div(F a, F b) { return _mm512_div_ps(a, b); }
  static inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static inline F min(F a, F b) { return _mm512_min_ps(a, b); }
  static inline F abs(F x) { return _mm512_abs_ps(x); }
  static inline F relu(F x) { return _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(x, zero_f(), _CMP_LE_OQ), zero_f()); }
  static inline F keep_nan(F x, F y) { return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x); }
  static inline F shift_23(F x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 23)); }
  static inline float sqrt(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

  static inline U max_u(U a, U b) { return _mm512_max_epu32(a, b); }
  static inline U max_magnitude(U most, F x) { return max_u(most, _mm512_castps_si512(abs(x))); }
  static inline std::uint32_t top(U x) { return _mm512_reduce_max_epu32(x); }
  static inline float sum(F x) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static inline std::int32_t sum_i(I x) { return _mm512_reduce_add_epi32(x); }
  static inline void store_block(const F (&x)[1], std::int8_t* q, I& sum) {
    const I rounded = _mm512_cvt_roundps_epi32(x[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    sum = _mm512_add_epi32(sum, rounded);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(rounded));
  }
};

}  // namespace

const Rows kAvx512Rows = {quantize<Avx512>, finish<Avx512>};

}  // namespace baker::ternary
