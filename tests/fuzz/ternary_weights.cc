// libFuzzer: any layer from a file, then a run of every variant this CPU has, in every layout, against scalar.
//
// Weights either throws std::invalid_argument or packs; codes that first_bad_row lets pass are packed. Arrays have
// exactly the size that the contract promises, so that a sanitizer sees a read or a write beyond it.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "common/p64.h"
#include "common/trits.h"
#include "kernels/ternary_matmul/ternary_matmul.h"

namespace {

using namespace baker;
using namespace baker::ternary;

struct Input {
  std::vector<std::uint8_t> codes;
  std::vector<float> scale, bias, gamma, x, residual;
  std::int64_t m = 0, n = 0;
  Layer layer;
};

// Any bits, now and then; else a number of ordinary size.
std::vector<float> floats(FuzzedDataProvider& data, std::int64_t count) {
  std::vector<float> out(static_cast<std::size_t>(count));
  const bool any = data.ConsumeBool();
  std::uint32_t state = data.ConsumeIntegral<std::uint32_t>();
  for (float& value : out) {
    state = state * 1664525U + 1013904223U;  // Numerical Recipes' generator: one word of input fills an array
    value = (static_cast<float>(state >> 8) / 8388608.0F) - 1.0F;
    if (any && data.remaining_bytes() >= 4) {
      const auto bits = data.ConsumeIntegral<std::uint32_t>();
      std::memcpy(&value, &bits, sizeof(value));
    }
  }
  return out;
}

// Sound codes with some bytes of the input among them: such a layer is accepted about as often as it is refused.
std::vector<std::uint8_t> codes(FuzzedDataProvider& data, std::int64_t n, std::int64_t k, bool base3) {
  const std::int64_t width = base3 ? trits::row_bytes(k) : p64::row_bytes(k);
  std::vector<std::uint8_t> out(static_cast<std::size_t>(n * width), base3 ? 121 : 0x55);
  const int changes = data.ConsumeIntegralInRange(0, 40);
  for (int i = 0; i < changes && !out.empty(); ++i) {
    out[data.ConsumeIntegralInRange<std::size_t>(0, out.size() - 1)] = data.ConsumeIntegral<std::uint8_t>();
  }
  return out;
}

void add_options(FuzzedDataProvider& data, Input& made) {
  Layer& layer = made.layer;
  if (data.ConsumeBool()) {
    made.bias = floats(data, made.n);
    layer.bias = {made.bias.data(), {made.n}};
  }
  if (data.ConsumeBool()) {
    made.gamma = floats(data, layer.k);
    layer.gamma = {made.gamma.data(), {layer.k}};
    layer.epsilon = data.ConsumeFloatingPoint<float>();
  }
  layer.activation = static_cast<Activation>(data.ConsumeIntegralInRange(0, 4));
  const int splits = data.ConsumeIntegralInRange(0, 18);
  std::int64_t left = made.n;
  for (int i = 0; i < splits && left > 0; ++i) {
    layer.splits.push_back(i + 1 == splits ? left : data.ConsumeIntegralInRange<std::int64_t>(-1, left + 1));
    left -= layer.splits.back();
  }
}

Input make_input(FuzzedDataProvider& data) {
  Input made;
  Layer& layer = made.layer;
  layer.k = data.ConsumeIntegralInRange<std::int64_t>(1, 400);
  made.n = data.ConsumeIntegralInRange<std::int64_t>(1, 200);
  made.m = data.ConsumeIntegralInRange<std::int64_t>(0, 20);
  layer.group = data.ConsumeBool() ? 0 : data.ConsumeIntegralInRange<std::int64_t>(0, 30) * 16;
  layer.weights_per_byte = data.ConsumeBool() ? 4 : 5;
  made.codes = codes(data, made.n, layer.k, layer.weights_per_byte == 5);
  const std::int64_t width = layer.weights_per_byte == 5 ? trits::row_bytes(layer.k) : p64::row_bytes(layer.k);
  layer.codes = {made.codes.data(), {made.n, width}};
  const std::int64_t groups = layer.group == 0 ? 1 : (layer.k + layer.group - 1) / layer.group;
  const bool one = layer.group == 0 && data.ConsumeBool();
  made.scale = floats(data, one ? 1 : made.n * groups);
  layer.scale = {made.scale.data(), {made.n, groups}};
  if (layer.group == 0) layer.scale.shape = {one ? 1 : made.n};
  add_options(data, made);
  made.x = floats(data, made.m * layer.k);
  return made;
}

std::vector<float> multiply(const Variant& variant, const Weights& weights, const Input& made) {
  std::vector<float> y(static_cast<std::size_t>(made.m * made.n), -1.0F);
  const auto scratch = make_buffer<std::uint8_t>(scratch_bytes(weights, made.m));
  std::vector<float*> outputs;
  std::int64_t begin = 0;
  for (const std::int64_t split : weights.splits()) {
    outputs.push_back(y.data() + begin);
    begin += made.m * split;
  }
  const float* residual = made.residual.empty() ? nullptr : made.residual.data();
  run(variant, weights, {made.x.data(), made.m, residual, outputs.data()}, scratch.get(), serial_executor());
  return y;
}

// The bits; of a NaN only that it is one.
bool same(float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0 || (a != a && b != b); }  // NOLINT

void check(const Variant& variant, const Weights& weights, const Input& made, const std::vector<float>& want) {
  const std::vector<float> got = multiply(variant, weights, made);
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (same(got[i], want[i])) continue;
    std::fprintf(stderr, "%s, layout %d: y[%zu] is %g, scalar %g; M = %lld, N = %lld, K = %lld\n", variant.isa,
                 static_cast<int>(weights.layout()), i, static_cast<double>(got[i]), static_cast<double>(want[i]),
                 static_cast<long long>(made.m), static_cast<long long>(made.n), static_cast<long long>(made.layer.k));
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  FuzzedDataProvider data(bytes, size);
  Input made = make_input(data);
  std::vector<float> want;
  for (const Layout layout : {Layout::kP64, Layout::kP80}) {
    made.layer.layout = layout;
    try {
      const Weights weights(made.layer);
      if (want.empty() && weights.splits().size() == 1 && data.ConsumeBool()) {
        made.residual = floats(data, made.m * made.n);
      }
      const std::vector<const Variant*> variants = available_variants();
      if (layout == Layout::kP64) want = multiply(*variants.back(), weights, made);
      for (const Variant* variant : variants) {
        const bool able = layout == Layout::kP64 || variant->p80.multiply != nullptr;
        if (able) check(*variant, weights, made, want);
      }
    } catch (const std::invalid_argument&) {
      return 0;  // refused, as it may be; anything else that is thrown is a finding
    }
  }
  return 0;
}
