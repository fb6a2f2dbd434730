// The little of ONNX Runtime's C ABI that baker uses, declared here so that no ONNX Runtime header is needed to build.
//
// Pinned to API version 17 (ONNX Runtime 1.17). The ABI only ever grows at the end: OrtApi is a table of function
// pointers, and a function keeps its slot (byte offset / 8) in every later release. ort_abi_check.cc compares each
// declaration with the real header where one is found. An OrtStatus* of null is success; any other must be released.
#pragma once

#include <cstddef>
#include <cstdint>

namespace baker::ort {

inline constexpr std::uint32_t kApiVersion = 17;

// Opaque to us.
struct Status;
struct SessionOptions;
struct KernelInfo;
struct KernelContext;
struct ShapeInferContext;
struct Value;
struct TensorInfo;  // OrtTensorTypeAndShapeInfo
struct Allocator;
struct MemoryInfo;
struct OpAttr;
struct CustomOpDomain;
struct Api;

struct ApiBase {
  const Api* (*get_api)(std::uint32_t version);
  const char* (*get_version_string)();
};

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2, kRuntimeException = 6, kInvalidGraph = 10 };
enum ElementType : int { kFloat = 1, kUint8 = 2 };
enum AllocatorType : int { kArenaAllocator = 1 };
enum MemoryType : int { kMemDefault = 0 };
enum Characteristic : int { kRequired = 0, kOptional = 1, kVariadic = 2 };
enum AttributeType : int { kInts = 2 };

// A function of OrtApi: its slot and its type.
template <std::size_t Slot, class Function>
struct Entry;
template <std::size_t Slot, class Result, class... Args>
struct Entry<Slot, Result(Args...)> {
  static constexpr std::size_t kSlot = Slot;
  using Function = Result(Args...);
  [[nodiscard]] static Function* of(const Api* api) noexcept { return reinterpret_cast<Function* const*>(api)[Slot]; }
};

// clang-format off
using CreateStatus                 = Entry<0,   Status*(ErrorCode, const char*)>;
using GetErrorMessage              = Entry<2,   const char*(const Status*)>;
using CreateCustomOpDomain         = Entry<26,  Status*(const char*, CustomOpDomain**)>;
using CustomOpDomainAdd            = Entry<27,  Status*(CustomOpDomain*, const struct CustomOp*)>;
using AddCustomOpDomain            = Entry<28,  Status*(SessionOptions*, CustomOpDomain*)>;
using GetTensorMutableData         = Entry<51,  Status*(Value*, void**)>;
using CreateTensorInfo             = Entry<57,  Status*(TensorInfo**)>;
using SetTensorElementType         = Entry<58,  Status*(TensorInfo*, ElementType)>;
using SetDimensions                = Entry<59,  Status*(TensorInfo*, const std::int64_t*, std::size_t)>;
using GetDimensionsCount           = Entry<61,  Status*(const TensorInfo*, std::size_t*)>;
using GetDimensions                = Entry<62,  Status*(const TensorInfo*, std::int64_t*, std::size_t)>;
using GetSymbolicDimensions        = Entry<63,  Status*(const TensorInfo*, const char**, std::size_t)>;
using GetTensorTypeAndShape        = Entry<65,  Status*(const Value*, TensorInfo**)>;
using CreateCpuMemoryInfo          = Entry<69,  Status*(AllocatorType, MemoryType, MemoryInfo**)>;
using AllocatorAlloc               = Entry<75,  Status*(Allocator*, std::size_t, void**)>;
using AllocatorFree                = Entry<76,  Status*(Allocator*, void*)>;
using KernelInfoGetAttributeFloat  = Entry<85,  Status*(const KernelInfo*, const char*, float*)>;
using KernelInfoGetAttributeInt64  = Entry<86,  Status*(const KernelInfo*, const char*, std::int64_t*)>;
using KernelInfoGetAttributeString = Entry<87,  Status*(const KernelInfo*, const char*, char*, std::size_t*)>;
using KernelContextGetInput        = Entry<90,  Status*(const KernelContext*, std::size_t, const Value**)>;
using KernelContextGetOutput       = Entry<91,  Status*(KernelContext*, std::size_t, const std::int64_t*, std::size_t, Value**)>;
using ReleaseStatus                = Entry<93,  void(Status*)>;
using ReleaseMemoryInfo            = Entry<94,  void(MemoryInfo*)>;
using ReleaseTensorInfo            = Entry<99,  void(TensorInfo*)>;
using KernelInfoGetAttributeFloats = Entry<162, Status*(const KernelInfo*, const char*, float*, std::size_t*)>;
using KernelInfoGetAttributeInts   = Entry<163, Status*(const KernelInfo*, const char*, std::int64_t*, std::size_t*)>;
using ReleaseAllocator             = Entry<132, void(Allocator*)>;
using KernelInfoGetInputCount      = Entry<230, Status*(const KernelInfo*, std::size_t*)>;
using KernelInfoGetOutputCount     = Entry<231, Status*(const KernelInfo*, std::size_t*)>;
using KernelInfoGetInputName      = Entry<232, Status*(const KernelInfo*, std::size_t, char*, std::size_t*)>;
using KernelInfoGetNodeName        = Entry<244, Status*(const KernelInfo*, char*, std::size_t*)>;
using KernelInfoGetConstantInput   = Entry<249, Status*(const KernelInfo*, std::size_t, int*, const Value**)>;
using KernelContextGetAllocator    = Entry<253, Status*(const KernelContext*, const MemoryInfo*, Allocator**)>;
using ShapeInferGetInputTypeShape  = Entry<268, Status*(const ShapeInferContext*, std::size_t, TensorInfo**)>;
using ShapeInferGetAttribute       = Entry<269, Status*(const ShapeInferContext*, const char*, const OpAttr**)>;
using ShapeInferSetOutputTypeShape = Entry<270, Status*(const ShapeInferContext*, std::size_t, const TensorInfo*)>;
using SetSymbolicDimensions        = Entry<271, Status*(TensorInfo*, const char**, std::size_t)>;
using ReadOpAttr                   = Entry<272, Status*(const OpAttr*, AttributeType, void*, std::size_t, std::size_t*)>;
using KernelContextParallelFor     = Entry<274, Status*(const KernelContext*, void (*)(void*, std::size_t), std::size_t, std::size_t, void*)>;
// clang-format on

// OrtCustomOp of API version 17: 208 bytes. A null in a field marked (*) crashes ONNX Runtime; with both V2 hooks set,
// the first forms of create and compute may be null.
struct CustomOp {
  std::uint32_t version;
  void* (*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*get_name)(const CustomOp*);                      // (*)
  const char* (*get_execution_provider)(const CustomOp*);        // (*)
  ElementType (*get_input_type)(const CustomOp*, std::size_t);   // (*)
  std::size_t (*get_input_count)(const CustomOp*);               // (*)
  ElementType (*get_output_type)(const CustomOp*, std::size_t);  // (*)
  std::size_t (*get_output_count)(const CustomOp*);              // (*)
  void (*compute)(void*, KernelContext*);
  void (*destroy_kernel)(void*);                                              // (*)
  Characteristic (*get_input_characteristic)(const CustomOp*, std::size_t);   // (*)
  Characteristic (*get_output_characteristic)(const CustomOp*, std::size_t);  // (*)
  MemoryType (*get_input_memory_type)(const CustomOp*, std::size_t);          // (*)
  int (*get_variadic_input_min_arity)(const CustomOp*);
  int (*get_variadic_input_homogeneity)(const CustomOp*);
  int (*get_variadic_output_min_arity)(const CustomOp*);
  int (*get_variadic_output_homogeneity)(const CustomOp*);
  Status* (*create_kernel_v2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status* (*compute_v2)(void*, KernelContext*);
  Status* (*infer_output_shape)(const CustomOp*, ShapeInferContext*);
  int (*get_start_version)(const CustomOp*);
  int (*get_end_version)(const CustomOp*);
  std::size_t (*get_may_inplace)(int**, int**);
  void (*release_may_inplace)(int*, int*);
  std::size_t (*get_alias_map)(int**, int**);
  void (*release_alias_map)(int*, int*);
};
static_assert(sizeof(void*) != 8 || sizeof(CustomOp) == 208, "OrtCustomOp of API version 17 has 208 bytes");

}  // namespace baker::ort
