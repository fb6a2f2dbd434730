// Activations of y, once for every instruction set. All of it has internal linkage: each file that includes it gets a
// copy of its own, compiled with its own flags. Only +, -, *, / and fma in one fixed order, so all copies agree to the
// bit; no libm.
//
//   act(x) = max(x, 0) - h(min(|x|, limit)) where h is what the smooth curve lies below Relu, the same on both sides:
//     Silu      h(t) = t e / (1 + e),  e = exp(-t)
//     GeluTanh  h(t) = t e / (1 + e),  e = exp(-2u),  u = sqrt(2/pi) (t + 0.044715 t^3)
//     Gelu      h(t) = t Phi(-t) = t exp(-t^2/2) m(t),  m the Mills ratio of the normal distribution over sqrt(2 pi)
//   Nothing cancels: h <= x/2 on the right, and the left is -h itself. Arguments of exp whose rounding would show
//   (t^2/2, 2u) are carried in two floats. Beyond limit h is less than half the least subnormal.
//
// Largest error against float64, every 37th float: Silu 3.2, GeluTanh 3.0, Gelu 4.6 ulp (test_activations.py).
// NaN stays the NaN it is; Relu(-0) is +0.
//
// A Lanes type V: F (kLanes floats), set, add, sub, mul, div, fma(a, b, c) = a * b + c, min, abs, relu (+0 where
// x <= 0), shift_23 (the bits moved left by 23) and keep_nan(x, y) = x where x is NaN, else y.
#pragma once

#include "kernels/ternary_matmul/variant.h"

namespace baker::ternary {
namespace {

// Adding it to a float of magnitude below 2^22 rounds that to an integer, half to even, in the low bits.
constexpr float kRounder = 12582912.0F;  // 1.5 * 2^23
constexpr float kLog2E = 1.44269502F, kLn2 = 0.693147182F, kLn2Low = -1.90465421e-09F;
// exp(r) = 1 + r + r^2 p(r) on |r| <= ln(2)/2, relative error 2^-28.
constexpr float kExp[] = {0.00139504822F, 0.00836895406F, 0.041666206F, 0.166665182F, 0.5F};
// m(t) (t + 3) as a polynomial in q = (t - 3) / (t + 3) for 0 <= t <= 15, relative error 2^-29.
constexpr float kMillsCentre = 3.0F;
constexpr float kMills[] = {5.44893483e-05F, 0.000131330715F, -0.000244730123F, -0.0010325741F,
                            0.0010247539F,   0.00696931127F,  -0.0104625132F,   -0.0472626872F,
                            0.230017707F,    -0.509332001F,   0.729083717F};
// 2 sqrt(2/pi) and that times 0.044715, each in two floats.
constexpr float kTanh1 = 1.59576917F, kTanh1Low = -4.53406805e-08F;
constexpr float kTanh3 = 0.0713548139F, kTanh3Low = 2.39883247e-09F;
constexpr float kSiluLimit = 110.0F, kGeluLimit = 15.0F, kGeluTanhLimit = 11.0F;

template <class V, int Count>
[[nodiscard]] inline typename V::F polynomial(const float (&coefficients)[Count], typename V::F x) {
  typename V::F sum = V::set(coefficients[0]);
#pragma GCC unroll 16
  for (int i = 1; i < Count; ++i) sum = V::fma(sum, x, V::set(coefficients[i]));
  return sum;
}

// fraction * 2^n
template <class V>
struct Scaled {
  typename V::F fraction, n;

  // In two steps, so that a result below the normal range is rounded once. -250 <= n <= 0.
  [[nodiscard]] typename V::F times(typename V::F value) const {
    const auto rounder = V::set(kRounder), biased = V::set(kRounder + 127.0F);
    const auto half = V::sub(V::fma(n, V::set(0.5F), rounder), rounder);
    const auto first = V::mul(value, V::shift_23(V::add(half, biased)));
    return V::mul(first, V::shift_23(V::add(V::sub(n, half), biased)));
  }
};

// exp(x + low), low far below x.
template <class V>
[[nodiscard]] inline Scaled<V> exponential(typename V::F x, typename V::F low) {
  const auto rounder = V::set(kRounder);
  const auto n = V::sub(V::fma(x, V::set(kLog2E), rounder), rounder);
  const auto r = V::add(V::fma(n, V::set(-kLn2Low), V::fma(n, V::set(-kLn2), x)), low);
  const auto tail = V::fma(V::mul(r, r), polynomial<V>(kExp, r), r);
  return {V::add(V::set(1.0F), tail), n};
}

// t e / (1 + e) for e = exp(x + low)
template <class V>
[[nodiscard]] inline typename V::F logistic_tail(typename V::F t, typename V::F x, typename V::F low) {
  const Scaled<V> e = exponential<V>(x, low);
  return e.times(V::div(V::mul(t, e.fraction), V::add(V::set(1.0F), e.times(e.fraction))));
}

template <class V>
[[nodiscard]] inline typename V::F silu_tail(typename V::F t) {
  return logistic_tail<V>(t, V::mul(t, V::set(-1.0F)), V::set(0.0F));
}

// 2u = t (c1 + c3 t^2), each product and sum with its rounding error behind it.
template <class V>
[[nodiscard]] inline typename V::F gelu_tanh_tail(typename V::F t) {
  const auto minus = V::set(-1.0F), c1 = V::set(kTanh1), c3 = V::set(kTanh3);
  const auto square = V::mul(t, t), square_low = V::fma(t, t, V::mul(square, minus));
  const auto cubic = V::mul(c3, square);
  const auto cubic_low =
      V::fma(c3, square_low, V::fma(V::set(kTanh3Low), square, V::fma(c3, square, V::mul(cubic, minus))));
  const auto sum = V::add(c1, cubic), back = V::sub(sum, c1);
  const auto lost = V::add(V::sub(c1, V::sub(sum, back)), V::sub(cubic, back));
  const auto sum_low = V::add(lost, V::add(cubic_low, V::set(kTanh1Low)));
  const auto u = V::mul(t, sum), u_low = V::fma(t, sum_low, V::fma(t, sum, V::mul(u, minus)));
  return logistic_tail<V>(t, V::mul(u, minus), V::mul(u_low, minus));
}

template <class V>
[[nodiscard]] inline typename V::F gelu_tail(typename V::F t) {
  const auto square = V::mul(t, t), half = V::set(-0.5F);
  const auto square_low = V::fma(t, t, V::mul(square, V::set(-1.0F)));
  const Scaled<V> e = exponential<V>(V::mul(square, half), V::mul(square_low, half));
  const auto sum = V::add(t, V::set(kMillsCentre)), below = V::div(V::set(1.0F), sum);
  const auto near = V::mul(V::sub(t, V::set(kMillsCentre)), below);
  const auto rest = V::fma(V::add(near, V::set(1.0F)), V::set(-kMillsCentre), t);  // - near t = t - 3 - near (t + 3)
  const auto q = V::fma(V::fma(V::mul(near, V::set(-1.0F)), t, rest), below, near);
  return e.times(V::div(V::mul(V::mul(t, e.fraction), polynomial<V>(kMills, q)), sum));
}

template <class V, Activation kActivation>
[[nodiscard]] inline typename V::F activated(typename V::F x) {
  if constexpr (kActivation == Activation::kNone) return x;
  const auto above = V::relu(x);
  if constexpr (kActivation == Activation::kRelu) return above;
  const auto t = V::abs(x);
  if constexpr (kActivation == Activation::kGelu) {
    return V::keep_nan(x, V::sub(above, gelu_tail<V>(V::min(t, V::set(kGeluLimit)))));
  } else if constexpr (kActivation == Activation::kGeluTanh) {
    return V::keep_nan(x, V::sub(above, gelu_tanh_tail<V>(V::min(t, V::set(kGeluTanhLimit)))));
  } else {
    return V::keep_nan(x, V::sub(above, silu_tail<V>(V::min(t, V::set(kSiluLimit)))));
  }
}

// The columns of a tile that fill whole registers come from y itself, the rest through a copy of kLanes.
template <class V, Activation kActivation>
void finish_with(const FinishTask& task) {
  for (int row = 0; row < task.rows; ++row) {
    const std::int64_t begin = row * task.stride;
    for (int channel = 0; channel < task.channels; channel += V::kLanes) {
      float* y = task.y + begin + channel;
      const float* residual = task.residual == nullptr ? nullptr : task.residual + begin + channel;
      const int left = task.channels - channel, count = left < V::kLanes ? left : V::kLanes;
      const bool whole = V::kLanes == 1 || count == V::kLanes;  // one lane is known to be: no copy is even compiled
      float in[V::kLanes] = {}, more[V::kLanes] = {};
      if (!whole) __builtin_memcpy(in, y, static_cast<unsigned>(count) * sizeof(float));
      if (!whole && residual != nullptr) __builtin_memcpy(more, residual, static_cast<unsigned>(count) * sizeof(float));
      auto out = activated<V, kActivation>(V::load(whole ? y : in));
      if (residual != nullptr) out = V::add(out, V::load(whole ? residual : more));
      V::store(whole ? y : in, out);
      if (!whole) __builtin_memcpy(y, in, static_cast<unsigned>(count) * sizeof(float));
    }
  }
}

template <class V>
void finish(const FinishTask& task) {
  switch (task.activation) {
    case Activation::kNone:
      return finish_with<V, Activation::kNone>(task);
    case Activation::kRelu:
      return finish_with<V, Activation::kRelu>(task);
    case Activation::kGelu:
      return finish_with<V, Activation::kGelu>(task);
    case Activation::kGeluTanh:
      return finish_with<V, Activation::kGeluTanh>(task);
    case Activation::kSilu:
      return finish_with<V, Activation::kSilu>(task);
  }
}

}  // namespace
}  // namespace baker::ternary
