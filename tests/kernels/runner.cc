// Every kernel variant against scalar.cc on random layers, bit for bit, and the refusals; meant to run under
// sanitizers.
//
//   baker_kernel_tests [cases] [seed]      exit 0 and a line of counts, or 1 and the first difference
//
// Arrays have exactly the size that the contract promises, so that a sanitizer sees a read or a write beyond it.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <thread>

#include "common/p64.h"
#include "common/trits.h"
#include "kernels/ternary_matmul/layout.h"
#include "kernels/ternary_matmul/ternary_matmul.h"

namespace {

using namespace baker;
using namespace baker::ternary;

using Random = std::mt19937_64;

std::int64_t pick(Random& random, std::int64_t low, std::int64_t high) {
  return std::uniform_int_distribution<std::int64_t>(low, high)(random);
}

// Small values as likely as large ones.
std::int64_t pick_log(Random& random, std::int64_t high) {
  return static_cast<std::int64_t>(
      std::exp(std::uniform_real_distribution<>(0, std::log(static_cast<double>(high) + 1))(random)));
}

struct Case {
  std::int64_t m, n, k, group;
  std::vector<std::uint8_t> codes;
  std::vector<float> scale, bias, gamma, residual, x;
  std::vector<std::int64_t> scale_shape, splits;
  float epsilon = 0.0F;
  Activation activation = Activation::kNone;

  [[nodiscard]] Layer layer() const {
    Layer out = {k, group, {codes.data(), {n, p64::row_bytes(k)}}, {scale.data(), scale_shape}, {}};
    if (!bias.empty()) out.bias = {bias.data(), {n}};
    if (!gamma.empty()) out.gamma = {gamma.data(), {k}};
    out.epsilon = epsilon;
    out.activation = activation;
    out.splits = splits;
    return out;
  }
};

std::vector<float> normals(Random& random, std::int64_t count, float size) {
  std::normal_distribution<float> normal(0.0F, size);
  std::vector<float> out(static_cast<std::size_t>(count));
  for (float& value : out) value = normal(random);
  return out;
}

std::vector<std::uint8_t> random_codes(Random& random, std::int64_t n, std::int64_t k) {
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(n * p64::row_bytes(k)), 0x55);
  for (std::int64_t i = 0; i < n * k; ++i) {
    const std::int64_t at = i % k;
    std::uint8_t& byte = codes[static_cast<std::size_t>(i / k * p64::row_bytes(k) + at / 4)];
    byte = static_cast<std::uint8_t>((byte & ~(3 << (2 * (at % 4)))) | pick(random, 0, 2) << (2 * (at % 4)));
  }
  return codes;
}

// Cuts n into a few outputs of any size.
std::vector<std::int64_t> random_splits(Random& random, std::int64_t n) {
  std::vector<std::int64_t> splits;
  while (n > 0) {
    splits.push_back(splits.size() == 5 ? n : pick(random, 1, n));
    n -= splits.back();
  }
  return splits;
}

// What is fused into the product: normalization, activation, and several outputs or a residual.
void add_fusions(Random& random, Case& made) {
  made.activation = static_cast<Activation>(pick(random, 0, 4));
  if (pick(random, 0, 1) == 0) made.gamma = normals(random, made.k, 1.0F);
  made.epsilon = pick(random, 0, 3) == 0 ? 0.0F : 1e-5F;
  const std::int64_t outputs = pick(random, 0, 2);
  if (outputs == 1) made.splits = random_splits(random, made.n);
  if (outputs == 2) made.residual = normals(random, made.m * made.n, 1.0F);
}

Case make_case(Random& random) {
  Case made;
  made.k = pick_log(random, 4100);
  made.n = pick_log(random, 300);
  made.m = pick(random, 0, 15) == 0 ? pick(random, 64, 300) : pick_log(random, 71) - 1;  // many are cut into pieces
  if (pick(random, 0, 11) == 0) made.n = pick(random, 193, 1300), made.m = pick(random, 16, 40);  // tables pay here
  const std::int64_t groups[] = {0, 0, 16, 32, 48, 128, 1 << 20};
  made.group = groups[pick(random, 0, 6)];
  made.codes = random_codes(random, made.n, made.k);
  const std::int64_t per_channel = made.group == 0 ? 1 : (made.k + made.group - 1) / made.group;
  made.scale_shape = made.group != 0           ? std::vector<std::int64_t>{made.n, per_channel}
                     : pick(random, 0, 1) == 0 ? std::vector<std::int64_t>{1}
                                               : std::vector<std::int64_t>{made.n};
  made.scale = normals(random, made.group != 0 ? made.n * per_channel : made.scale_shape[0], 1.0F);
  if (pick(random, 0, 1) == 0) made.bias = normals(random, made.n, 1.0F);
  made.x = normals(random, made.m * made.k, std::pow(10.0F, static_cast<float>(pick(random, -12, 12))));
  const float specials[] = {0.0F, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::max(), std::numeric_limits<float>::denorm_min()};
  for (const float special : specials) {
    if (!made.x.empty() && pick(random, 0, 2) == 0) {
      made.x[static_cast<std::size_t>(pick(random, 0, made.m * made.k - 1))] = special;
    }
  }
  if (made.m > 2) {  // a row of zeros
    std::memset(made.x.data() + made.k, 0, static_cast<std::size_t>(made.k) * sizeof(float));
  }
  if (pick(random, 0, 1) == 0) add_fusions(random, made);
  return made;
}

void run_on_two(void*, Executor::Task task, std::size_t count, void* argument) {
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(argument, i);
  };
  std::thread other(work);
  work();
  other.join();
}

std::vector<float> multiply(const Variant& variant, const Weights& weights, const Case& made,
                            const Executor& executor) {
  std::vector<float> y(static_cast<std::size_t>(made.m * made.n), -1.0F);
  const auto scratch = make_buffer<std::uint8_t>(scratch_bytes(weights, made.m));
  std::vector<float*> outputs;  // one behind the other
  std::int64_t begin = 0;
  for (const std::int64_t split : weights.splits()) {
    outputs.push_back(y.data() + begin);
    begin += made.m * split;
  }
  const float* residual = made.residual.empty() ? nullptr : made.residual.data();
  run(variant, weights, {made.x.data(), made.m, residual, outputs.data()}, scratch.get(), executor);
  return y;
}

bool same(const Case& made, const char* isa, const std::vector<float>& got, const std::vector<float>& want) {
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (std::memcmp(&got[i], &want[i], sizeof(float)) == 0) continue;  // NOLINT: the bits are what must be equal
    std::printf("%s: M %lld N %lld K %lld group %lld activation %d%s, %zu splits, y[%zu]: %a, scalar has %a\n", isa,
                static_cast<long long>(made.m), static_cast<long long>(made.n), static_cast<long long>(made.k),
                static_cast<long long>(made.group), static_cast<int>(made.activation),
                made.gamma.empty() ? "" : ", normalized", made.splits.size(), i, static_cast<double>(got[i]),
                static_cast<double>(want[i]));
    return false;
  }
  return true;
}

// The same layer with five weights a byte.
std::vector<std::uint8_t> base3(const Case& made) {
  const std::int64_t bytes = trits::row_bytes(made.k);
  std::vector<std::uint8_t> out(static_cast<std::size_t>(made.n * bytes), 0);
  for (std::int64_t i = 0; i < made.n * bytes * 5; ++i) {
    const std::int64_t row = i / (bytes * 5), byte = i / 5 % bytes, at = 5 * byte + 4 - i % 5;  // high digit first
    const std::uint8_t* codes = made.codes.data() + row * p64::row_bytes(made.k);
    const int digit = at < made.k ? codes[at / 4] >> (2 * (at % 4)) & 3 : 1;
    std::uint8_t& to = out[static_cast<std::size_t>(row * bytes + byte)];
    to = static_cast<std::uint8_t>(3 * to + digit);
  }
  return out;
}

// Both forms of a file give the same weights.
bool check_base3(const Case& made, const std::vector<float>& want) {
  const std::vector<std::uint8_t> bytes = base3(made);
  Layer layer = made.layer();
  layer.codes = {bytes.data(), {made.n, trits::row_bytes(made.k)}};
  layer.weights_per_byte = 5;
  return same(made, "base 3", multiply(select_variant("auto"), Weights(layer), made, serial_executor()), want);
}

// Both layouts in memory give the same bits, in every variant that has kernels for both.
bool check_p80(const Case& made, const std::vector<float>& want) {
  Layer layer = made.layer();
  layer.layout = Layout::kP80;
  const Weights weights(layer);
  for (const Variant* variant : available_variants()) {
    if (variant->p80.multiply == nullptr) continue;
    if (!same(made, variant->isa, multiply(*variant, weights, made, serial_executor()), want)) return false;
  }
  return true;
}

// Codes that somebody holds keep their form, however small the layer is.
bool check_held_layout(Random& random) {
  const Variant& variant = select_variant("auto");
  const Case made = make_case(random);
  const Layout fresh = choose_layout(variant, made.layer());
  if (variant.p80.multiply == nullptr || std::getenv("BAKER_TERNARY_LAYOUT") != nullptr) return fresh == Layout::kP64;
  Layer layer = made.layer();
  layer.layout = Layout::kP80;
  const Weights held(layer);
  const bool kept = choose_layout(variant, made.layer()) == Layout::kP80;
  if (fresh == Layout::kP64 && kept && held.layout() == Layout::kP80) return true;
  std::printf("choose_layout: held codes keep their form: %d; fresh ones are P64: %d\n", kept, fresh == Layout::kP64);
  return false;
}

bool check_variants(Random& random, int cases) {
  for (int i = 0; i < cases; ++i) {
    const Case made = make_case(random);
    const Weights weights(made.layer());
    const std::vector<float> want = multiply(select_variant("scalar"), weights, made, serial_executor());
    if (!check_base3(made, want) || !check_p80(made, want)) return false;
    for (const Variant* variant : available_variants()) {
      const Executor executor = i % 8 == 0 ? Executor{run_on_two, nullptr} : serial_executor();
      if (!same(made, variant->isa, multiply(*variant, weights, made, executor), want)) return false;
    }
  }
  return true;
}

bool refuses(const Layer& layer, const char* what) {
  try {
    const Weights weights(layer);
    std::printf("accepted a layer with %s (N = %lld)\n", what, static_cast<long long>(weights.n()));
    return false;
  } catch (const std::invalid_argument&) {
    return true;
  }
}

bool check_refusals() {
  const std::vector<std::uint8_t> codes(8, 0x55), threes(8, 0x57), padding(8, 0x15);
  const std::vector<float> scale(16, 1.0F);
  const auto layer = [&](std::int64_t k, std::int64_t group, const std::vector<std::uint8_t>& c,
                         std::vector<std::int64_t> codes_shape, std::vector<std::int64_t> scale_shape) {
    return Layer{k, group, {c.data(), std::move(codes_shape)}, {scale.data(), std::move(scale_shape)}, {}};
  };
  const std::vector<std::uint8_t> large(8, 243), digits(8, 121), unpadded(8, 40);  // 121: five digits 1
  Layer above = layer(10, 0, large, {4, 2}, {4}), padded = layer(9, 0, unpadded, {4, 2}, {4});
  Layer short_row = layer(11, 0, digits, {4, 2}, {4}), seven = layer(7, 0, codes, {4, 2}, {4});
  above.weights_per_byte = padded.weights_per_byte = short_row.weights_per_byte = 5;
  seven.weights_per_byte = 7;
  if (!refuses(above, "a byte above 242") || !refuses(padded, "base-3 padding that is not digit 1") ||
      !refuses(short_row, "too few base-3 bytes") || !refuses(seven, "7 weights a byte")) {
    return false;
  }
  Layer bias = layer(7, 0, codes, {4, 2}, {4});
  bias.bias = {scale.data(), {3}};
  return refuses(layer(7, 0, threes, {4, 2}, {4}), "code 3") &&
         refuses(layer(7, 0, padding, {4, 2}, {4}), "bad padding") &&
         refuses(layer(0, 0, codes, {4, 2}, {4}), "K = 0") &&
         refuses(layer(kMaxK + 1, 0, codes, {4, 2}, {4}), "K above 2^19") &&
         refuses(layer(9, 0, codes, {4, 2}, {4}), "too few code bytes") &&
         refuses(layer(7, 0, codes, {8}, {4}), "codes of rank 1") &&
         refuses(layer(7, 0, codes, {0, 2}, {1}), "N = 0") &&
         refuses(layer(7, 0, codes, {4, 2}, {3}), "3 scales for 4 channels") &&
         refuses(layer(7, 0, codes, {4, 2}, {}), "a scalar scale") &&
         refuses(layer(7, 8, codes, {4, 2}, {4, 1}), "group 8") &&
         refuses(layer(7, -16, codes, {4, 2}, {4, 1}), "group -16") &&
         refuses(layer(7, 16, codes, {4, 2}, {4}), "grouped scales of rank 1") && refuses(bias, "3 biases");
}

}  // namespace

int main(int argc, char** argv) {
  const int cases = argc > 1 ? static_cast<int>(std::strtol(argv[1], nullptr, 10)) : 200;
  Random random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0);
  if (!check_refusals() || !check_variants(random, cases) || !check_held_layout(random)) return 1;
  std::string names;
  for (const Variant* variant : available_variants()) names += std::string(" ") + variant->isa;
  std::printf("%d cases equal scalar:%s\n", cases, names.c_str());
  return 0;
}
