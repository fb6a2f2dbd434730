// ai.baker::TernaryMatMul, version 1: Y = activation(dequantize(quantize(X) . codes) + bias) + residual, rows of X
// quantized to int8 on the fly, after an RMSNorm where gamma is given.
//
//   inputs  X float32 [..., K] · codes uint8 [N, ceil(K/4)] · scale float32 [1], [N] or [N, ceil(K/group)] ·
//           bias float32 [N] · gamma float32 [K] · residual float32, the shape of Y, with one output only. The last
//           three are optional: trailing ones are left away, one in between is an empty constant of shape [0]. All but
//           X and residual are constants: they are packed when the session is created.
//   attrs   K int · group int, 0 (one scale a channel) or a multiple of 16 ·
//           weights_per_byte int, 4 or 5 (base 3, codes [N, ceil(K/5)]) ·
//           activation string, "", Relu, Gelu, GeluTanh or Silu · epsilon float, with gamma ·
//           splits ints, the channels of each output, N together; absent: one output
//   output  Y float32 [..., N], or one [..., splits[i]] a split
#include <algorithm>

#include "kernels/ternary_matmul/layout.h"
#include "kernels/ternary_matmul/ternary_matmul.h"
#include "ort/ops.h"
#include "ort/ort_call.h"
#include "ort/ternary_attributes.h"

namespace baker::ort {
namespace {

constexpr std::size_t kX = 0, kCodes = 1, kScale = 2, kBias = 3, kGamma = 4, kResidual = 5, kInputs = 6;

std::string where(const std::string& node) { return "ai.baker::TernaryMatMul '" + node + "'"; }

std::string node_name(const Api* api, const KernelInfo* info) {
  std::size_t size = 0;  // with the closing zero
  if (!try_call<KernelInfoGetNodeName>(api, info, nullptr, &size) || size == 0) return "";
  std::string name(size, '\0');
  call<KernelInfoGetNodeName>(api, info, name.data(), &size);
  name.resize(size - 1);
  return name;
}

class NodeAttributes : public AttributeSource {
 public:
  NodeAttributes(const Api* api, const KernelInfo* info) : api_(api), info_(info) {}

  [[nodiscard]] bool get(const char* name, std::int64_t& out) const override {
    return try_call<KernelInfoGetAttributeInt64>(api_, info_, name, &out);
  }
  [[nodiscard]] bool get(const char* name, float& out) const override {
    return try_call<KernelInfoGetAttributeFloat>(api_, info_, name, &out);
  }
  [[nodiscard]] bool get(const char* name, std::string& out) const override {
    std::size_t size = 0;  // with the closing zero
    if (!try_call<KernelInfoGetAttributeString>(api_, info_, name, nullptr, &size) || size == 0) return false;
    std::string value(size, '\0');
    call<KernelInfoGetAttributeString>(api_, info_, name, value.data(), &size);
    value.resize(size - 1);
    out = std::move(value);
    return true;
  }
  [[nodiscard]] bool get(const char* name, std::vector<std::int64_t>& out) const override {
    std::size_t size = 0;  // 0 also for an attribute of another type
    if (!try_call<KernelInfoGetAttributeInts>(api_, info_, name, nullptr, &size) || size == 0) return false;
    std::vector<std::int64_t> values(size);
    call<KernelInfoGetAttributeInts>(api_, info_, name, values.data(), &size);
    out = std::move(values);
    return true;
  }
  [[nodiscard]] bool has(const char* name) const override {
    std::int64_t integer = 0;
    float real = 0.0F;
    std::size_t text = 0, integers = 0, reals = 0;
    return get(name, integer) || get(name, real) ||
           try_call<KernelInfoGetAttributeString>(api_, info_, name, nullptr, &text) ||
           (try_call<KernelInfoGetAttributeInts>(api_, info_, name, nullptr, &integers) && integers != 0) ||
           (try_call<KernelInfoGetAttributeFloats>(api_, info_, name, nullptr, &reals) && reals != 0);
  }

 private:
  const Api* api_;
  const KernelInfo* info_;
};

// Null where the input is computed.
const Value* constant_value(const Api* api, const KernelInfo* info, std::size_t index) {
  int is_constant = 0;
  const Value* value = nullptr;
  call<KernelInfoGetConstantInput>(api, info, index, &is_constant, &value);
  return is_constant == 0 ? nullptr : value;
}

template <class T>
ternary::View<T> constant(const Api* api, const KernelInfo* info, std::size_t index, const char* name) {
  const Value* value = constant_value(api, info, index);
  if (value == nullptr) {
    throw std::invalid_argument(std::string(name) +
                                " is computed; it must be a constant initializer, for it is packed once");
  }
  return {data_of<const T>(api, value), shape_of(api, value).vector()};
}

// An optional input may be left away or written as an empty name, or be an empty constant of shape [0].
bool has_input(const Api* api, const KernelInfo* info, std::size_t index) {
  std::size_t inputs = 0, name_size = 0;  // name_size counts the closing zero
  call<KernelInfoGetInputCount>(api, info, &inputs);
  if (index >= inputs || !try_call<KernelInfoGetInputName>(api, info, index, nullptr, &name_size)) return false;
  if (name_size <= 1) return false;
  const Value* value = constant_value(api, info, index);
  if (value == nullptr) return true;
  const Shape shape = shape_of(api, value);
  return shape.rank != 1 || shape.dims[0] != 0;
}

void check_outputs(const Api* api, const KernelInfo* info, const ternary::Layer& layer) {
  std::size_t outputs = 0;
  call<KernelInfoGetOutputCount>(api, info, &outputs);
  const std::size_t wanted = layer.splits.empty() ? 1 : layer.splits.size();
  if (outputs != wanted) {
    throw std::invalid_argument("the node has " + std::to_string(outputs) + " outputs; its attribute splits makes " +
                                std::to_string(wanted));
  }
  if (wanted > 1 && has_input(api, info, kResidual)) {
    throw std::invalid_argument("residual is given and splits makes " + std::to_string(wanted) +
                                " outputs; a residual needs one output");
  }
}

ternary::Weights load(const Api* api, const KernelInfo* info) {
  ternary::Layer layer = read_ternary_attributes(NodeAttributes(api, info));
  check_outputs(api, info, layer);
  layer.codes = constant<std::uint8_t>(api, info, kCodes, "codes");
  layer.scale = constant<float>(api, info, kScale, "scale");
  if (has_input(api, info, kBias)) layer.bias = constant<float>(api, info, kBias, "bias");
  if (has_input(api, info, kGamma)) layer.gamma = constant<float>(api, info, kGamma, "gamma");
  layer.layout = ternary::choose_layout(ternary::select_variant("auto"), layer);
  return ternary::Weights(layer);
}

// Everything here is fixed at creation, so any number of threads may compute with one kernel.
struct Kernel {
  const Api* api;
  std::string where;  // begins its messages
  ternary::Weights weights;
  const ternary::Variant& variant;
  bool has_residual;
  std::unique_ptr<MemoryInfo, void (*)(MemoryInfo*)> memory;

  void compute(KernelContext* context) const;
  [[nodiscard]] const float* residual(const KernelContext* context, const Shape& y) const;
  void run(KernelContext* context, const ternary::Arguments& arguments) const;
};

// Memory from ONNX Runtime's own allocator for the length of one call, moved up to a cache line.
class Scratch {
 public:
  Scratch(const Kernel& kernel, const KernelContext* context, std::size_t bytes) : api_(kernel.api) {
    call<KernelContextGetAllocator>(api_, context, kernel.memory.get(), &allocator_);
    if (!try_call<AllocatorAlloc>(api_, allocator_, bytes + kLine, &memory_) || memory_ == nullptr) {
      ReleaseAllocator::of(api_)(allocator_);
      throw std::runtime_error("no memory for " + std::to_string(bytes) + " bytes of scratch");
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    static_cast<void>(try_call<AllocatorFree>(api_, allocator_, memory_));  // a destructor has no one to tell
    ReleaseAllocator::of(api_)(allocator_);
  }
  [[nodiscard]] void* get() const noexcept {
    const std::uintptr_t beyond = reinterpret_cast<std::uintptr_t>(memory_) % kLine;
    return static_cast<std::uint8_t*>(memory_) + (beyond == 0 ? 0 : kLine - beyond);
  }

 private:
  static constexpr std::uintptr_t kLine = 64;
  const Api* api_;
  Allocator* allocator_ = nullptr;
  void* memory_ = nullptr;
};

std::string text(const Shape& shape) {
  std::string out;
  for (std::size_t i = 0; i < shape.rank; ++i) out += (i == 0 ? "" : ", ") + std::to_string(shape.dims[i]);
  return "[" + out + "]";
}

// ONNX Runtime's intra-op threads.
struct Threads {
  const Api* api;
  const KernelContext* context;
};

// Should the pool refuse, the caller's thread does the work: a result is owed either way.
void run_on_threads(void* self, ternary::Executor::Task task, std::size_t count, void* argument) {
  const auto* threads = static_cast<const Threads*>(self);
  if (try_call<KernelContextParallelFor>(threads->api, threads->context, task, count, std::size_t{0}, argument)) return;
  for (std::size_t i = 0; i < count; ++i) task(argument, i);
}

const float* Kernel::residual(const KernelContext* context, const Shape& y) const {
  if (!has_residual) return nullptr;
  const Value* value = nullptr;
  call<KernelContextGetInput>(api, context, kResidual, &value);
  const Shape found = shape_of(api, value);
  if (!std::equal(y.dims, y.dims + y.rank, found.dims, found.dims + found.rank)) {
    throw std::invalid_argument("the shape of residual is " + text(found) + "; it must be that of Y, " + text(y));
  }
  return data_of<const float>(api, value);
}

// Scratch for few rows lies on the stack; asking ONNX Runtime's allocator for it would cost more than filling it.
void Kernel::run(KernelContext* context, const ternary::Arguments& arguments) const {
  constexpr std::size_t kOnStack = std::size_t{24} << 10;
  Threads threads = {api, context};
  const ternary::Executor executor = {run_on_threads, &threads};
  const std::size_t bytes = ternary::scratch_bytes(weights, arguments.m);
  if (bytes <= kOnStack) {
    alignas(64) std::uint8_t scratch[kOnStack];
    ternary::run(variant, weights, arguments, scratch, executor);
    return;
  }
  const Scratch scratch(*this, context, bytes);
  ternary::run(variant, weights, arguments, scratch.get(), executor);
}

void Kernel::compute(KernelContext* context) const {
  const Value* x = nullptr;
  call<KernelContextGetInput>(api, context, kX, &x);
  Shape shape = shape_of(api, x);
  const std::int64_t k = weights.cut().k;
  if (shape.rank == 0 || shape.last() != k) {
    const std::string found = shape.rank == 0 ? "is a scalar" : "ends in " + std::to_string(shape.last());
    throw std::invalid_argument("the shape of X " + found + "; it must be [..., " + std::to_string(k) + "]");
  }
  std::int64_t m = 1;
  for (std::size_t i = 0; i + 1 < shape.rank; ++i) m *= shape.dims[i];
  float* outputs[ternary::kMaxOutputs];
  for (std::size_t i = 0; i < weights.splits().size(); ++i) {
    shape.last() = weights.splits()[i];
    Value* y = nullptr;
    call<KernelContextGetOutput>(api, context, i, &shape.dims[0], shape.rank, &y);
    outputs[i] = data_of<float>(api, y);
  }
  const float* added = residual(context, shape);
  if (m != 0) run(context, {data_of<const float>(api, x), m, added, &outputs[0]});
}

std::unique_ptr<Kernel> make_kernel(const Api* api, const KernelInfo* info, const std::string& node) {
  MemoryInfo* memory = nullptr;
  call<CreateCpuMemoryInfo>(api, kArenaAllocator, kMemDefault, &memory);
  std::unique_ptr<MemoryInfo, void (*)(MemoryInfo*)> owned(memory, ReleaseMemoryInfo::of(api));
  const ternary::Variant& variant = ternary::select_variant("auto");
  const bool has_residual = has_input(api, info, kResidual);
  return std::unique_ptr<Kernel>(
      new Kernel{api, where(node), load(api, info), variant, has_residual, std::move(owned)});
}

Status* create(const CustomOp*, const Api* api, const KernelInfo* info, void** out) noexcept {
  std::string node;
  Status* status = guarded(api, where(""), kFail, [&] { node = node_name(api, info); });
  if (status != nullptr) return status;
  return guarded(api, where(node), kInvalidGraph, [&] { *out = make_kernel(api, info, node).release(); });
}

Status* compute(void* self, KernelContext* context) noexcept {
  const auto* kernel = static_cast<const Kernel*>(self);
  return guarded(kernel->api, kernel->where, kInvalidArgument, [&] { kernel->compute(context); });
}

void destroy(void* kernel) noexcept { delete static_cast<Kernel*>(kernel); }

// The channels of each output, or a rank of 0 where the attribute splits is unusable; a kernel is refused for that.
Shape outputs_of(const Api* api, const ShapeInferContext* context, std::int64_t n) {
  const OpAttr* splits = nullptr;
  Shape outputs;
  std::size_t bytes = 0;
  if (!try_call<ShapeInferGetAttribute>(api, context, "splits", &splits) || splits == nullptr) {
    outputs.rank = 1;
    outputs.dims[0] = n;
  } else if (try_call<ReadOpAttr>(api, splits, kInts, static_cast<void*>(&outputs.dims[0]), sizeof(outputs.dims),
                                  &bytes)) {
    outputs.rank = bytes / sizeof(std::int64_t);
  }
  const bool usable = std::all_of(outputs.dims, outputs.dims + outputs.rank, [](std::int64_t dim) { return dim >= 1; });
  return usable ? outputs : Shape{};
}

// An output has the shape of X with its channels last. An unknown rank looks like rank 0, and a dimension that is
// neither known nor named must not be declared (ONNX Runtime would share its buffer with a wrong size): then nothing is
// said.
void declare_outputs(const Api* api, ShapeInferContext* context) {
  TensorInfo *x = nullptr, *codes = nullptr;  // owned by the context
  call<ShapeInferGetInputTypeShape>(api, context, kX, &x);
  call<ShapeInferGetInputTypeShape>(api, context, kCodes, &codes);
  Shape shape = dimensions(api, x);
  const Shape codes_shape = dimensions(api, codes);
  if (shape.rank == 0 || codes_shape.rank != 2 || codes_shape.dims[0] < 1) return;
  const char* names[Shape::kMaxRank];
  call<GetSymbolicDimensions>(api, x, &names[0], shape.rank);
  names[shape.rank - 1] = "";
  for (std::size_t i = 0; i + 1 < shape.rank; ++i) {
    if (shape.dims[i] < 0 && *names[i] == '\0') return;
  }
  const Shape outputs = outputs_of(api, context, codes_shape.dims[0]);
  for (std::size_t i = 0; i < outputs.rank; ++i) {
    shape.last() = outputs.dims[i];
    TensorInfo* y = nullptr;
    call<CreateTensorInfo>(api, &y);
    const OwnedTensorInfo owned(y, {api});
    call<SetTensorElementType>(api, y, kFloat);
    call<SetDimensions>(api, y, &shape.dims[0], shape.rank);
    call<SetSymbolicDimensions>(api, y, &names[0], shape.rank);
    call<ShapeInferSetOutputTypeShape>(api, context, i, y);
  }
}

// ONNX Runtime drops this status without releasing it. Nothing is lost: create() and compute() check all of it again.
Status* infer(const CustomOp* self, ShapeInferContext* context) noexcept {
  const Api* api = static_cast<const Op*>(self)->api;
  Status* status = guarded(api, where(""), kInvalidGraph, [&] { declare_outputs(api, context); });
  if (status != nullptr) ReleaseStatus::of(api)(status);
  return nullptr;
}

ElementType input_type(const CustomOp*, std::size_t index) noexcept { return index == kCodes ? kUint8 : kFloat; }

Characteristic input_characteristic(const CustomOp*, std::size_t index) noexcept {
  return index >= kBias ? kOptional : kRequired;
}

}  // namespace

Op make_ternary_matmul_op(const Api* api) noexcept {
  Op op{};
  op.version = kApiVersion;
  op.get_name = [](const CustomOp*) { return "TernaryMatMul"; };
  op.get_execution_provider = [](const CustomOp*) { return "CPUExecutionProvider"; };
  op.get_input_type = input_type;
  op.get_input_count = [](const CustomOp*) { return kInputs; };
  op.get_output_type = [](const CustomOp*, std::size_t) { return kFloat; };
  op.get_output_count = [](const CustomOp*) { return std::size_t{1}; };
  op.destroy_kernel = destroy;
  op.get_input_characteristic = input_characteristic;
  op.get_output_characteristic = [](const CustomOp*, std::size_t) { return kVariadic; };
  op.get_input_memory_type = [](const CustomOp*, std::size_t) { return kMemDefault; };
  op.get_variadic_input_min_arity = [](const CustomOp*) { return 0; };
  op.get_variadic_input_homogeneity = [](const CustomOp*) { return 0; };
  op.get_variadic_output_min_arity = [](const CustomOp*) { return 1; };
  op.get_variadic_output_homogeneity = [](const CustomOp*) { return 1; };
  op.create_kernel_v2 = create;
  op.compute_v2 = compute;
  op.infer_output_shape = infer;
  op.get_start_version = [](const CustomOp*) { return 1; };
  op.get_end_version = [](const CustomOp*) { return 1; };
  op.api = api;
  return op;
}

}  // namespace baker::ort
