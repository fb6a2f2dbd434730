// libFuzzer: the attributes of a TernaryMatMul node, of any type and value, and the layer that they make.
//
// Reading them and packing either succeed or throw std::invalid_argument with a message; nothing else may come out.
#include "ort/ternary_attributes.h"

#include <fuzzer/FuzzedDataProvider.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "common/p64.h"
#include "common/trits.h"

namespace {

using namespace baker;

constexpr std::int64_t kLargestK = 2000;  // of the layers that are built

// Each attribute is there or not, and has any of the four types; the same question has the same answer each time.
class AnyAttributes : public ort::AttributeSource {
 public:
  explicit AnyAttributes(FuzzedDataProvider& data) {
    for (Attribute& attribute : attributes_) {
      attribute.type = data.ConsumeIntegralInRange(0, 9);
      const bool small = data.ConsumeBool();
      attribute.integer =
          small ? data.ConsumeIntegralInRange<std::int64_t>(-2, 64) : data.ConsumeIntegral<std::int64_t>();
      attribute.real = data.ConsumeFloatingPoint<float>();
      const char* const known[] = {"", "Relu", "Gelu", "GeluTanh", "Silu"};
      attribute.text = small ? known[data.ConsumeIntegralInRange(0, 4)] : data.ConsumeRandomLengthString(12);
      const int count = data.ConsumeIntegralInRange(0, 20);
      for (int i = 0; i < count; ++i) attribute.integers.push_back(data.ConsumeIntegralInRange<std::int64_t>(-1, 40));
    }
  }

  [[nodiscard]] bool get(const char* name, std::int64_t& out) const override {
    return take(name, kInt, &Attribute::integer, out);
  }
  [[nodiscard]] bool get(const char* name, float& out) const override {
    return take(name, kFloat, &Attribute::real, out);
  }
  [[nodiscard]] bool get(const char* name, std::string& out) const override {
    return take(name, kString, &Attribute::text, out);
  }
  [[nodiscard]] bool get(const char* name, std::vector<std::int64_t>& out) const override {
    return take(name, kInts, &Attribute::integers, out);
  }
  [[nodiscard]] bool has(const char* name) const override { return type_of(name) != kNone; }

 private:
  enum Type { kInt, kFloat, kString, kInts, kNone };
  struct Attribute {
    int type = 0;
    std::int64_t integer = 0;
    float real = 0.0F;
    std::string text;
    std::vector<std::int64_t> integers;
  };
  static constexpr const char* kNames[] = {"K", "group", "weights_per_byte", "epsilon", "splits", "activation"};
  static constexpr Type kRight[] = {kInt, kInt, kInt, kFloat, kInts, kString};

  [[nodiscard]] static std::size_t index(const char* name) {
    for (std::size_t i = 0; i < 6; ++i) {
      if (std::strcmp(kNames[i], name) == 0) return i;
    }
    std::abort();  // an attribute that this fuzzer does not know: it would go untested
  }
  // The right type half of the time, none now and then.
  [[nodiscard]] Type type_of(const char* name) const {
    const std::size_t at = index(name);
    const int drawn = attributes_[at].type;
    return drawn < kNone ? static_cast<Type>(drawn) : drawn == kNone ? kNone : kRight[at];
  }
  template <class T>
  [[nodiscard]] bool take(const char* name, Type type, T Attribute::* member, T& out) const {
    if (type_of(name) != type) return false;
    out = attributes_[index(name)].*member;
    return true;
  }

  Attribute attributes_[6];
};

// Codes and scales that fit what the attributes say, for N channels.
void build(ternary::Layer& layer, std::int64_t n) {
  if (layer.k > kLargestK) return;
  const bool base3 = layer.weights_per_byte == 5;
  const std::int64_t k = layer.k < 1 ? 1 : layer.k;
  const std::int64_t width = base3 ? trits::row_bytes(k) : p64::row_bytes(k);
  const std::int64_t groups = layer.group < 1 ? 1 : 1 + (k - 1) / layer.group;
  const std::vector<std::uint8_t> codes(static_cast<std::size_t>(n * width), base3 ? 121 : 0x55);
  const std::vector<float> scale(static_cast<std::size_t>(n * groups), 1.0F), gamma(static_cast<std::size_t>(k), 1.0F);
  layer.codes = {codes.data(), {n, width}};
  layer.scale = {scale.data(), {n, groups}};
  if (layer.group == 0) layer.scale.shape = {n};
  layer.gamma = {gamma.data(), {k}};
  const ternary::Weights weights(layer);
  if (weights.n() != n || weights.cut().k != layer.k) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  FuzzedDataProvider data(bytes, size);
  const auto n = data.ConsumeIntegralInRange<std::int64_t>(1, 150);
  const AnyAttributes attributes(data);
  try {
    ternary::Layer layer = ort::read_ternary_attributes(attributes);
    build(layer, n);
  } catch (const std::invalid_argument& error) {
    if (*error.what() == '\0') std::abort();
  }
  return 0;
}
