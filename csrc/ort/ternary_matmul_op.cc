// ai.baker::TernaryMatMul, version 1: Y = dequantize(quantize(X) . codes) + bias, rows of X quantized to int8 on the
// fly.
//
//   inputs  X float32 [..., K] · codes uint8 [N, ceil(K/4)] · scale float32 [1], [N] or [N, ceil(K/group)] ·
//           bias float32 [N], trailing and optional. All but X are constants: they are packed when the session is
//           created.
//   attrs   K int · group int, 0 (one scale a channel) or a multiple of 16
//   output  Y float32 [..., N]
#include "kernels/ternary_matmul/ternary_matmul.h"
#include "ort/ops.h"
#include "ort/ort_call.h"

namespace baker::ort {
namespace {

constexpr std::size_t kX = 0, kCodes = 1, kScale = 2, kBias = 3, kInputs = 4;

std::string where(const std::string& node) { return "ai.baker::TernaryMatMul '" + node + "'"; }

std::string node_name(const Api* api, const KernelInfo* info) {
  std::size_t size = 0;  // with the closing zero
  if (!try_call<KernelInfoGetNodeName>(api, info, nullptr, &size) || size == 0) return "";
  std::string name(size, '\0');
  call<KernelInfoGetNodeName>(api, info, name.data(), &size);
  name.resize(size - 1);
  return name;
}

template <class T>
ternary::View<T> constant(const Api* api, const KernelInfo* info, std::size_t index, const char* name) {
  int is_constant = 0;
  const Value* value = nullptr;
  call<KernelInfoGetConstantInput>(api, info, index, &is_constant, &value);
  if (is_constant == 0 || value == nullptr) {
    throw std::invalid_argument(std::string(name) +
                                " is computed; it must be a constant initializer, for it is packed once");
  }
  return {data_of<const T>(api, value), shape_of(api, value)};
}

// An optional input may be left away or written as an empty name.
bool has_input(const Api* api, const KernelInfo* info, std::size_t index) {
  std::size_t inputs = 0, name_size = 0;  // name_size counts the closing zero
  call<KernelInfoGetInputCount>(api, info, &inputs);
  return index < inputs && try_call<KernelInfoGetInputName>(api, info, index, nullptr, &name_size) && name_size > 1;
}

ternary::Weights load(const Api* api, const KernelInfo* info) {
  ternary::Layer layer;
  if (!try_call<KernelInfoGetAttributeInt64>(api, info, "K", &layer.k)) {
    throw std::invalid_argument("attribute K is missing; it is the number of weights in a row");
  }
  if (!try_call<KernelInfoGetAttributeInt64>(api, info, "group", &layer.group)) layer.group = 0;
  layer.codes = constant<std::uint8_t>(api, info, kCodes, "codes");
  layer.scale = constant<float>(api, info, kScale, "scale");
  if (has_input(api, info, kBias)) layer.bias = constant<float>(api, info, kBias, "bias");
  return ternary::Weights(layer);
}

// Everything here is fixed at creation, so any number of threads may compute with one kernel.
struct Kernel {
  const Api* api;
  std::string node;
  ternary::Weights weights;
  const ternary::Variant& variant;
  std::unique_ptr<MemoryInfo, void (*)(MemoryInfo*)> memory;

  void compute(KernelContext* context) const;
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

void Kernel::compute(KernelContext* context) const {
  const Value* x = nullptr;
  call<KernelContextGetInput>(api, context, kX, &x);
  std::vector<std::int64_t> shape = shape_of(api, x);
  const std::int64_t k = weights.cut().k;
  if (shape.empty() || shape.back() != k) {
    const std::string found = shape.empty() ? "is a scalar" : "ends in " + std::to_string(shape.back());
    throw std::invalid_argument("the shape of X " + found + "; it must be [..., " + std::to_string(k) + "]");
  }
  shape.back() = weights.n();
  std::int64_t m = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) m *= shape[i];
  Value* y = nullptr;
  call<KernelContextGetOutput>(api, context, std::size_t{0}, shape.data(), shape.size(), &y);
  if (m == 0) return;
  const Scratch scratch(*this, context, ternary::scratch_bytes(weights, m));
  Threads threads = {api, context};
  auto* const to = data_of<float>(api, y);
  ternary::run(variant, weights, {data_of<const float>(api, x), m, nullptr, &to}, scratch.get(),
               {run_on_threads, &threads});
}

std::unique_ptr<Kernel> make_kernel(const Api* api, const KernelInfo* info, const std::string& node) {
  MemoryInfo* memory = nullptr;
  call<CreateCpuMemoryInfo>(api, kArenaAllocator, kMemDefault, &memory);
  std::unique_ptr<MemoryInfo, void (*)(MemoryInfo*)> owned(memory, ReleaseMemoryInfo::of(api));
  const ternary::Variant& variant = ternary::select_variant("auto");
  return std::unique_ptr<Kernel>(new Kernel{api, node, load(api, info), variant, std::move(owned)});
}

Status* create(const CustomOp*, const Api* api, const KernelInfo* info, void** out) noexcept {
  std::string node;
  Status* status = guarded(api, where(""), kFail, [&] { node = node_name(api, info); });
  if (status != nullptr) return status;
  return guarded(api, where(node), kInvalidGraph, [&] { *out = make_kernel(api, info, node).release(); });
}

Status* compute(void* self, KernelContext* context) noexcept {
  const auto* kernel = static_cast<const Kernel*>(self);
  return guarded(kernel->api, where(kernel->node), kInvalidArgument, [&] { kernel->compute(context); });
}

void destroy(void* kernel) noexcept { delete static_cast<Kernel*>(kernel); }

// Y has the shape of X with N last. An unknown rank looks like rank 0, and a dimension that is neither known nor named
// must not be declared (ONNX Runtime would share its buffer with a wrong size): then nothing is said.
void declare_output(const Api* api, ShapeInferContext* context) {
  TensorInfo *x = nullptr, *codes = nullptr;  // owned by the context
  call<ShapeInferGetInputTypeShape>(api, context, kX, &x);
  call<ShapeInferGetInputTypeShape>(api, context, kCodes, &codes);
  std::vector<std::int64_t> shape = dimensions(api, x);
  const std::vector<std::int64_t> codes_shape = dimensions(api, codes);
  if (shape.empty() || codes_shape.size() != 2 || codes_shape[0] < 1) return;
  std::vector<const char*> names(shape.size(), "");
  call<GetSymbolicDimensions>(api, x, names.data(), names.size());
  shape.back() = codes_shape[0];
  names.back() = "";
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) {
    if (shape[i] < 0 && *names[i] == '\0') return;
  }
  TensorInfo* y = nullptr;
  call<CreateTensorInfo>(api, &y);
  const OwnedTensorInfo owned(y, {api});
  call<SetTensorElementType>(api, y, kFloat);
  call<SetDimensions>(api, y, shape.data(), shape.size());
  call<SetSymbolicDimensions>(api, y, names.data(), names.size());
  call<ShapeInferSetOutputTypeShape>(api, context, std::size_t{0}, y);
}

// ONNX Runtime drops this status without releasing it. Nothing is lost: create() and compute() check all of it again.
Status* infer(const CustomOp* self, ShapeInferContext* context) noexcept {
  const Api* api = static_cast<const Op*>(self)->api;
  Status* status = guarded(api, where(""), kInvalidGraph, [&] { declare_output(api, context); });
  if (status != nullptr) ReleaseStatus::of(api)(status);
  return nullptr;
}

ElementType input_type(const CustomOp*, std::size_t index) noexcept { return index == kCodes ? kUint8 : kFloat; }

Characteristic input_characteristic(const CustomOp*, std::size_t index) noexcept {
  return index == kBias ? kOptional : kRequired;
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
  op.get_output_characteristic = [](const CustomOp*, std::size_t) { return kRequired; };
  op.get_input_memory_type = [](const CustomOp*, std::size_t) { return kMemDefault; };
  op.get_variadic_input_min_arity = [](const CustomOp*) { return 0; };
  op.get_variadic_input_homogeneity = [](const CustomOp*) { return 0; };
  op.get_variadic_output_min_arity = [](const CustomOp*) { return 0; };
  op.get_variadic_output_homogeneity = [](const CustomOp*) { return 0; };
  op.create_kernel_v2 = create;
  op.compute_v2 = compute;
  op.infer_output_shape = infer;
  op.get_start_version = [](const CustomOp*) { return 1; };
  op.get_end_version = [](const CustomOp*) { return 1; };
  op.api = api;
  return op;
}

}  // namespace baker::ort
