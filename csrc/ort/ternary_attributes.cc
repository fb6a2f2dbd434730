#include "ort/ternary_attributes.h"

#include <stdexcept>

namespace baker::ort {
namespace {

// False where there is no such attribute; one of another type is a mistake that must not pass for none.
template <class T>
bool optional(const AttributeSource& source, const char* name, const char* type, T& out) {
  if (source.get(name, out)) return true;
  if (source.has(name)) {
    throw std::invalid_argument(std::string("attribute ") + name + " has another type; it must be " + type);
  }
  return false;
}

}  // namespace

ternary::Layer read_ternary_attributes(const AttributeSource& source) {
  ternary::Layer layer;
  if (!optional(source, "K", "an int", layer.k)) {
    throw std::invalid_argument("attribute K is missing; it is the number of weights in a row");
  }
  static_cast<void>(optional(source, "group", "an int", layer.group));  // each of these has a default
  static_cast<void>(optional(source, "weights_per_byte", "an int", layer.weights_per_byte));
  static_cast<void>(optional(source, "epsilon", "a float", layer.epsilon));
  static_cast<void>(optional(source, "splits", "a list of ints", layer.splits));
  std::string activation;
  static_cast<void>(optional(source, "activation", "a string", activation));
  layer.activation = ternary::activation_named(activation);
  return layer;
}

}  // namespace baker::ort
