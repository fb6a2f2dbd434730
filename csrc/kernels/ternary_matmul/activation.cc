// The names of activations, as a file and Python write them.
#include <stdexcept>

#include "kernels/ternary_matmul/ternary_matmul.h"

namespace baker::ternary {

Activation activation_named(const std::string& name) {
  struct Entry {
    const char* name;
    Activation activation;
  };
  constexpr Entry kNames[] = {{"", Activation::kNone},
                              {"Relu", Activation::kRelu},
                              {"Gelu", Activation::kGelu},
                              {"GeluTanh", Activation::kGeluTanh},
                              {"Silu", Activation::kSilu}};
  for (const Entry& entry : kNames) {
    if (name == entry.name) return entry.activation;
  }
  throw std::invalid_argument("activation is '" + name + "'; it must be Relu, Gelu, GeluTanh, Silu or empty (none)");
}

}  // namespace baker::ternary
