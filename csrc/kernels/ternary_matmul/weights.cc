// From a file's layer to packed weights: every check on a layer's numbers is here.
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "common/p64.h"
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

std::int64_t checked_n(const Layer& layer) {
  check_attributes(layer);
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

}  // namespace

Weights::Weights(const Layer& layer) : n_(checked_n(layer)), cut_(checked_cut(layer, n_)) {
  const std::int64_t panels = p64::panels(n_);
  panels_ = make_buffer<std::uint8_t>(static_cast<std::size_t>(p64::packed_bytes(n_, cut_.k)));
  p64::pack(layer.codes.data, n_, cut_.k, panels_.get());

  const auto scales = static_cast<std::size_t>(panels * cut_.groups * kPanelChannels);
  scale_ = make_buffer<float>(scales);
  std::memset(scale_.get(), 0, scales * sizeof(float));
  const bool one = layer.scale.shape == std::vector<std::int64_t>{1};
  for (std::int64_t channel = 0; channel < n_; ++channel) {
    float* out = scale_.get() + channel / kPanelChannels * cut_.groups * kPanelChannels + channel % kPanelChannels;
    for (std::int64_t group = 0; group < cut_.groups; ++group) {
      out[group * kPanelChannels] = layer.scale.data[one ? 0 : channel * cut_.groups + group];
    }
  }

  const auto biases = static_cast<std::size_t>(panels * kPanelChannels);
  bias_ = make_buffer<float>(biases);
  std::memset(bias_.get(), 0, biases * sizeof(float));
  if (layer.bias.data != nullptr) {
    std::memcpy(bias_.get(), layer.bias.data, static_cast<std::size_t>(n_) * sizeof(float));
  }
}

const std::uint8_t* Weights::panel(std::int64_t index) const noexcept {
  return panels_.get() + index * cut_.blocks * p64::kBlockBytes;
}

const float* Weights::scale(std::int64_t panel) const noexcept {
  return scale_.get() + panel * cut_.groups * kPanelChannels;
}

const float* Weights::bias(std::int64_t panel) const noexcept { return bias_.get() + panel * kPanelChannels; }

}  // namespace baker::ternary
