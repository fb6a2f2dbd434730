// The ops of the domain ai.baker: one file each, listed in register.cc.
#pragma once

#include "ort/ort_abi.h"

namespace baker::ort {

// What ONNX Runtime holds of an op, and the API it came with: shape inference is called without one.
struct Op : CustomOp {
  const Api* api;
};

[[nodiscard]] Op make_ternary_matmul_op(const Api* api) noexcept;

}  // namespace baker::ort
