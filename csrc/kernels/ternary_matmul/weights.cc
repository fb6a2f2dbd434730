// From a file's layer to packed weights: every check on a layer's numbers is here.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "common/p64.h"
#include "common/p80.h"
#include "common/trits.h"
#include "kernels/ternary_matmul/ternary_matmul.h"

namespace baker::ternary {
namespace {

using p64::kPanelChannels;

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

std::string text(std::int64_t value) { return std::to_string(value); }

std::string text(const std::vector<std::int64_t>& shape) {
  std::string out;
  for (const std::int64_t dim : shape) out += (out.empty() ? "" : ", ") + text(dim);
  return "[" + out + "]";
}

void check_attributes(const Layer& layer) {
  if (layer.k < 1 || layer.k > kMaxK) refuse("K is " + text(layer.k) + "; it must be 1 to " + text(kMaxK));
  if (layer.group < 0 || layer.group % p64::kBlockWeights != 0) {
    refuse("group is " + text(layer.group) + "; it must be 0 (one scale a channel) or a multiple of 16");
  }
}

// N of a layer whose codes are in base 3.
std::int64_t checked_trits(const Layer& layer) {
  const auto& shape = layer.codes.shape;
  const std::int64_t bytes = trits::row_bytes(layer.k);
  if (shape.size() != 2 || shape[0] < 1 || shape[1] != bytes) {
    refuse("codes has shape " + text(shape) + "; K = " + text(layer.k) + " with 5 weights a byte needs [N, " +
           text(bytes) + "] with N at least 1");
  }
  const std::int64_t bad = trits::first_bad_row(layer.codes.data, shape[0], layer.k);
  if (bad < 0) return shape[0];
  refuse("codes row " + text(bad) +
         " holds a byte above 242 or padding that is not digit 1; a byte is five digits t + 1 of base 3");
}

std::int64_t checked_n(const Layer& layer) {
  check_attributes(layer);
  if (layer.weights_per_byte == 5) return checked_trits(layer);
  if (layer.weights_per_byte != 4) {
    refuse("weights_per_byte is " + text(layer.weights_per_byte) + "; it must be 4 (2-bit codes) or 5 (base 3)");
  }
  const auto& shape = layer.codes.shape;
  if (shape.size() != 2 || shape[0] < 1 || shape[1] != p64::row_bytes(layer.k)) {
    refuse("codes has shape " + text(shape) + "; K = " + text(layer.k) + " needs [N, " + text(p64::row_bytes(layer.k)) +
           "] with N at least 1");
  }
  const std::int64_t bad = p64::first_bad_row(layer.codes.data, shape[0], layer.k);
  if (bad >= 0) {
    refuse("codes row " + text(bad) +
           " holds code 3 or padding that is not code 1; a code is t + 1 with t in {-1, 0, 1}");
  }
  return shape[0];
}

Cut checked_cut(const Layer& layer, std::int64_t n) {
  const std::int64_t blocks = p64::blocks(layer.k);
  const std::int64_t wanted = layer.group == 0 ? blocks : layer.group / p64::kBlockWeights;
  const std::int64_t group_blocks = wanted < blocks ? wanted : blocks;
  const Cut cut = {layer.k, blocks, group_blocks, (blocks + group_blocks - 1) / group_blocks};
  const auto& shape = layer.scale.shape;
  const std::string found = "scale has shape " + text(shape) + "; ";
  if (layer.group == 0 && shape != std::vector<std::int64_t>{1} && shape != std::vector<std::int64_t>{n}) {
    refuse(found + "without groups it must be [1] or [" + text(n) + "]");
  }
  if (layer.group != 0 && shape != std::vector<std::int64_t>{n, cut.groups}) {
    refuse(found + "K = " + text(layer.k) + " in groups of " + text(layer.group) + " needs [" + text(n) + ", " +
           text(cut.groups) + "]");
  }
  if (layer.bias.data != nullptr && layer.bias.shape != std::vector<std::int64_t>{n}) {
    refuse("bias has shape " + text(layer.bias.shape) + "; it must be [" + text(n) + "]");
  }
  return cut;
}

float checked_epsilon(const Layer& layer) {
  if (layer.gamma.data == nullptr) return 0.0F;
  if (layer.gamma.shape != std::vector<std::int64_t>{layer.k}) {
    refuse("gamma has shape " + text(layer.gamma.shape) + "; it must be [" + text(layer.k) + "]");
  }
  if (std::isfinite(layer.epsilon) && layer.epsilon >= 0.0F) return layer.epsilon;
  refuse("epsilon is " + std::to_string(layer.epsilon) + "; it must be finite and not negative");
}

std::vector<std::int64_t> checked_splits(const Layer& layer, std::int64_t n) {
  if (layer.splits.empty()) return {n};
  if (layer.splits.size() > kMaxOutputs) {
    refuse("splits has " + text(static_cast<std::int64_t>(layer.splits.size())) + " entries; at most " +
           text(static_cast<std::int64_t>(kMaxOutputs)) + " outputs can be cut from one product");
  }
  std::int64_t left = n;
  for (const std::int64_t split : layer.splits) {
    if (split < 1 || split > left) left = -1;
    if (left < 0) break;
    left -= split;
  }
  if (left == 0) return layer.splits;
  refuse("splits are " + text(layer.splits) + "; they must be at least 1 each and " + text(n) + " (N) together");
}

std::vector<Place> make_places(const std::vector<std::int64_t>& splits) {
  std::vector<Place> places;
  std::int64_t row = 0;
  for (std::size_t output = 0; output < splits.size(); ++output) {
    for (std::int64_t channel = 0; channel < splits[output]; channel += kPanelChannels) {
      const auto channels = static_cast<int>(std::min(kPanelChannels, splits[output] - channel));
      places.push_back({output, row + channel, channel, splits[output], channels});
    }
    row += splits[output];
  }
  return places;
}

// Weights in a group of scales.
std::int64_t group_of(const Cut& cut) { return cut.group_blocks * p64::kBlockWeights; }

std::int64_t bytes_of_panel(const Cut& cut, Layout layout) {
  return layout == Layout::kP80 ? p80::panel_bytes(cut.k, group_of(cut)) : cut.blocks * p64::kBlockBytes;
}

// codes: one panel's rows in the 2-bit file form.
void pack_panel(const std::uint8_t* codes, int channels, const Cut& cut, Layout layout, std::uint8_t* packed) {
  if (layout == Layout::kP80) {
    p80::pack_panel(codes, channels, cut.k, group_of(cut), packed);
  } else {
    p64::pack(codes, channels, cut.k, packed);
  }
}

Buffer<float> zeros(std::int64_t count) {
  Buffer<float> out = make_buffer<float>(static_cast<std::size_t>(count));
  std::memset(out.get(), 0, static_cast<std::size_t>(count) * sizeof(float));
  return out;
}

}  // namespace

Weights::Weights(const Layer& layer)
    : n_(checked_n(layer)),
      cut_(checked_cut(layer, n_)),
      layout_(layer.layout),
      panel_bytes_(bytes_of_panel(cut_, layout_)),
      epsilon_(checked_epsilon(layer)),
      activation_(layer.activation),
      splits_(checked_splits(layer, n_)),
      places_(make_places(splits_)) {
  const auto bytes = static_cast<std::size_t>(panels() * panel_bytes_);
  Buffer<std::uint8_t> packed = make_buffer<std::uint8_t>(bytes);
  const bool base3 = layer.weights_per_byte == 5;
  const auto unpacked =
      make_buffer<std::uint8_t>(base3 ? static_cast<std::size_t>(kPanelChannels * p64::row_bytes(cut_.k)) : 0);
  for (std::int64_t panel = 0; panel < panels(); ++panel) {
    const Place& at = place(panel);
    const std::uint8_t* codes = layer.codes.data + at.row * p64::row_bytes(cut_.k);
    if (base3) {
      trits::to_codes(layer.codes.data + at.row * trits::row_bytes(cut_.k), at.channels, cut_.k, unpacked.get());
      codes = unpacked.get();
    }
    pack_panel(codes, at.channels, cut_, layout_, packed.get() + panel * panel_bytes_);
  }
  panels_ = share(std::move(packed), bytes, origin(layer, layout_));
  scale_ = zeros(panels() * cut_.groups * kPanelChannels);
  bias_ = zeros((layer.bias.data == nullptr ? 1 : panels()) * kPanelChannels);
  bias_stride_ = layer.bias.data == nullptr ? 0 : kPanelChannels;
  const bool one = layer.scale.shape == std::vector<std::int64_t>{1};
  for (std::int64_t panel = 0; panel < panels(); ++panel) {
    const Place& at = place(panel);
    for (std::int64_t i = 0; i < at.channels * cut_.groups; ++i) {
      const std::int64_t channel = i / cut_.groups, group = i % cut_.groups;
      scale_[static_cast<std::size_t>((panel * cut_.groups + group) * kPanelChannels + channel)] =
          layer.scale.data[one ? 0 : at.row * cut_.groups + i];
    }
    if (layer.bias.data == nullptr) continue;
    std::memcpy(bias_.get() + panel * kPanelChannels, layer.bias.data + at.row,
                static_cast<std::size_t>(at.channels) * sizeof(float));
  }
  if (layer.gamma.data == nullptr) return;
  gamma_ = make_buffer<float>(static_cast<std::size_t>(cut_.k));
  std::memcpy(gamma_.get(), layer.gamma.data, static_cast<std::size_t>(cut_.k) * sizeof(float));
}

std::uint64_t origin(const Layer& layer, Layout layout) noexcept {
  std::size_t bytes = 1;
  for (const std::int64_t dim : layer.codes.shape) bytes *= static_cast<std::size_t>(dim);
  const std::uint64_t codes = fingerprint(layer.codes.data, bytes);
  return (codes ^ static_cast<std::uint64_t>(layer.k)) * 2 + (layout == Layout::kP80 ? 1 : 0);
}

const std::uint8_t* Weights::panel(std::int64_t index) const noexcept { return panels_.get() + index * panel_bytes_; }

const float* Weights::scale(std::int64_t panel) const noexcept {
  return scale_.get() + panel * cut_.groups * kPanelChannels;
}

const float* Weights::bias(std::int64_t panel) const noexcept { return bias_.get() + panel * bias_stride_; }

}  // namespace baker::ternary
