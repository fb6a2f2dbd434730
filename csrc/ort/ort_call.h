// Calling ONNX Runtime from C++: statuses become exceptions inside, and exceptions become statuses at the border.
#pragma once

#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "ort/ort_abi.h"

namespace baker::ort {

// Calls a function of OrtApi that returns a status; throws std::runtime_error with ONNX Runtime's message.
template <class ApiEntry, class... Args>
void call(const Api* api, Args... args) {
  Status* status = ApiEntry::of(api)(args...);
  if (status == nullptr) return;
  const std::string message = GetErrorMessage::of(api)(status);
  ReleaseStatus::of(api)(status);
  throw std::runtime_error(message);
}

// The same for a question whose failure is an answer, such as reading an optional attribute: false instead of throwing.
template <class ApiEntry, class... Args>
[[nodiscard]] bool try_call(const Api* api, Args... args) noexcept {
  Status* status = ApiEntry::of(api)(args...);
  if (status != nullptr) ReleaseStatus::of(api)(status);
  return status == nullptr;
}

// Runs body at the C border: whatever it throws comes back as a status that begins with where. bad is the code of a
// std::invalid_argument (the model's fault).
template <class Body>
[[nodiscard]] Status* guarded(const Api* api, const std::string& where, ErrorCode bad, Body body) noexcept {
  ErrorCode code = kRuntimeException;
  try {
    try {
      body();
      return nullptr;
    } catch (const std::invalid_argument& error) {
      code = bad;
      throw;
    }
  } catch (const std::exception& error) {
    try {
      return CreateStatus::of(api)(code, (where + ": " + error.what()).c_str());
    } catch (const std::bad_alloc&) {
      return CreateStatus::of(api)(code, error.what());
    }
  }
}

struct TensorInfoDeleter {
  const Api* api;
  void operator()(TensorInfo* info) const noexcept { ReleaseTensorInfo::of(api)(info); }
};
using OwnedTensorInfo = std::unique_ptr<TensorInfo, TensorInfoDeleter>;

// A shape that lies on the stack: reading one in Compute allocates nothing of ours.
struct Shape {
  static constexpr std::size_t kMaxRank = 16;
  std::size_t rank = 0;
  std::int64_t dims[kMaxRank] = {};

  [[nodiscard]] std::int64_t& last() noexcept { return dims[rank - 1]; }
  [[nodiscard]] std::vector<std::int64_t> vector() const { return {dims, dims + rank}; }
};

// Throws std::invalid_argument for a rank above Shape::kMaxRank.
[[nodiscard]] inline Shape dimensions(const Api* api, const TensorInfo* info) {
  Shape shape;
  call<GetDimensionsCount>(api, info, &shape.rank);
  if (shape.rank > Shape::kMaxRank) {
    throw std::invalid_argument("a tensor has rank " + std::to_string(shape.rank) + "; at most " +
                                std::to_string(Shape::kMaxRank) + " is supported");
  }
  if (shape.rank != 0) call<GetDimensions>(api, info, &shape.dims[0], shape.rank);
  return shape;
}

[[nodiscard]] inline Shape shape_of(const Api* api, const Value* value) {
  TensorInfo* info = nullptr;
  call<GetTensorTypeAndShape>(api, value, &info);
  const OwnedTensorInfo owned(info, {api});
  return dimensions(api, info);
}

template <class T>
[[nodiscard]] T* data_of(const Api* api, const Value* value) {
  void* data = nullptr;
  call<GetTensorMutableData>(api, const_cast<Value*>(value), &data);  // the C API has no const form
  return static_cast<T*>(data);
}

}  // namespace baker::ort
