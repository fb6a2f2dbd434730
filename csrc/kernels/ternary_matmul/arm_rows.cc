// NEON: what is done to rows of activations before the product and to tiles of the result behind it.
#include <arm_neon.h>

#include "kernels/ternary_matmul/rows.h"

namespace baker::ternary {
namespace {

struct Neon {
  using F = float32x4_t;
  using I = int32x4_t;
  using U = uint32x4_t;
  static constexpr int kLanes = 4;

  static inline F load(const float* x) { return vld1q_f32(x); }
  static inline void store(float* x, F value) { vst1q_f32(x, value); }
  static inline F zero_f() { return vdupq_n_f32(0.0F); }
  static inline I zero_i() { return vdupq_n_s32(0); }
  static inline U zero_u() { return vdupq_n_u32(0); }
  static inline F set(float value) { return vdupq_n_f32(value); }
  static inline F add(F a, F b) { return vaddq_f32(a, b); }
  static inline F sub(F a, F b) { return vsubq_f32(a, b); }
  static inline F mul(F a, F b) { return vmulq_f32(a, b); }
  static inline F div(F a, F b) { return vdivq_f32(a, b); }
  static inline F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static inline F min(F a, F b) { return vminq_f32(a, b); }
  static inline F abs(F x) { return vabsq_f32(x); }
  static inline F relu(F x) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(x), vcleq_f32(x, zero_f())));
  }
  static inline F keep_nan(F x, F y) { return vbslq_f32(vceqq_f32(x, x), y, x); }
  static inline F shift_23(F x) { return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(x), 23)); }
  static inline float sqrt(float x) { return vgetq_lane_f32(vsqrtq_f32(set(x)), 0); }

  static inline U max_u(U a, U b) { return vmaxq_u32(a, b); }
  static inline U max_magnitude(U most, F x) { return max_u(most, vreinterpretq_u32_f32(abs(x))); }
  static inline std::uint32_t top(U x) { return vmaxvq_u32(x); }
  static inline float sum(F x) {
    const float32x2_t two = vadd_f32(vget_low_f32(x), vget_high_f32(x));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
  }
  static inline std::int32_t sum_i(I x) { return vaddvq_s32(x); }
  static inline void store_block(const F (&x)[4], std::int8_t* q, I& sum) {
    I part[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      part[i] = vcvtnq_s32_f32(x[i]);
      sum = vaddq_s32(sum, part[i]);
    }
    const int16x8_t low = vcombine_s16(vmovn_s32(part[0]), vmovn_s32(part[1]));
    const int16x8_t high = vcombine_s16(vmovn_s32(part[2]), vmovn_s32(part[3]));
    vst1q_s8(q, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
  }
};

}  // namespace

const Rows kNeonRows = {quantize<Neon>, finish<Neon>};

}  // namespace baker::ternary
