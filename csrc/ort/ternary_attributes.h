// The attributes of ai.baker::TernaryMatMul, read through an interface that knows nothing of ONNX Runtime.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/ternary_matmul/ternary_matmul.h"

namespace baker::ort {

// A node's attributes. get() leaves out as it was and returns false where there is none of that name and type.
class AttributeSource {
 public:
  virtual ~AttributeSource() = default;
  [[nodiscard]] virtual bool get(const char* name, std::int64_t& out) const = 0;
  [[nodiscard]] virtual bool get(const char* name, float& out) const = 0;
  [[nodiscard]] virtual bool get(const char* name, std::string& out) const = 0;
  [[nodiscard]] virtual bool get(const char* name, std::vector<std::int64_t>& out) const = 0;
  // Whether there is one of that name and any type; an empty list is as good as none.
  [[nodiscard]] virtual bool has(const char* name) const = 0;
};

// Sets K, group, weights_per_byte, activation, epsilon and splits; the tensors stay empty. What can be said without
// the tensors is checked here, the rest when Weights is built from it. Throws std::invalid_argument: what is wrong,
// what was found, what would be right.
[[nodiscard]] ternary::Layer read_ternary_attributes(const AttributeSource& source);

}  // namespace baker::ort
