#include "kernels/ternary_matmul/layout.h"

#include <cstdlib>
#include <fstream>
#include <stdexcept>

#include "common/p64.h"
#include "common/p80.h"
#include "common/shared_bytes.h"

namespace baker::ternary {
namespace {

// The last-level cache that a core reaches: sysconf would count all of a socket's.
std::size_t cache_bytes() {
  static const std::size_t found = [] {
    constexpr std::size_t kUsual = std::size_t{32} << 20;
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index3/size");
    std::size_t size = 0;
    char unit = '\0';
    if (!(file >> size >> unit) || size == 0) return kUsual;
    return unit == 'K' ? size << 10U : unit == 'M' ? size << 20U : kUsual;
  }();
  return found;
}

}  // namespace

Layout choose_layout(const Variant& variant, const Layer& layer) {
  const char* wanted = std::getenv("BAKER_TERNARY_LAYOUT");
  const std::string choice = wanted == nullptr || *wanted == '\0' ? "auto" : wanted;
  if (choice != "auto" && choice != "2" && choice != "1.6") {
    throw std::invalid_argument("BAKER_TERNARY_LAYOUT is '" + choice + "'; it must be 2 or 1.6 (bits a weight)");
  }
  const bool sound =
      layer.k >= 1 && layer.k <= kMaxK && layer.codes.shape.size() == 2;  // if not, Weights will refuse it
  if (variant.p80.multiply == nullptr || choice == "2" || !sound) return Layout::kP64;
  if (choice == "1.6") return Layout::kP80;
  if (is_held(origin(layer, Layout::kP64))) return Layout::kP64;
  if (is_held(origin(layer, Layout::kP80))) return Layout::kP80;
  const std::int64_t group = layer.group < 1 || layer.group > layer.k ? layer.k : layer.group;
  const std::int64_t narrow = p80::panel_bytes(layer.k, group), wide = p64::blocks(layer.k) * p64::kBlockBytes;
  if (10 * narrow > 9 * wide) return Layout::kP64;
  const std::size_t layer_bytes = static_cast<std::size_t>(p64::panels(layer.codes.shape[0]) * wide);
  return shared_total() + layer_bytes > cache_bytes() / 2 ? Layout::kP80 : Layout::kP64;
}

}  // namespace baker::ternary
