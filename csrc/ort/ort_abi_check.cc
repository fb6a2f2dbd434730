// Compares ort_abi.h with ONNX Runtime's own header, at compile time and only where that header is found: slots, field
// offsets, signatures and enum values.
#include <onnxruntime_c_api.h>

#include <type_traits>

#include "ort/ort_abi.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored \
    "-Wignored-attributes"  // the header's warn_unused_result is no part of a type's identity
#endif

namespace baker::ort {
namespace {

// A type as the ABI sees it: an enum is its size, a pointer to a class is void*, constness of the pointee stays.
template <class T, class = void>
struct Plain {
  using Type = T;
};
template <class T>
struct Plain<T, std::enable_if_t<std::is_enum_v<T>>> {
  static_assert(sizeof(T) == sizeof(int));
  using Type = int;
};
template <class T>
struct Plain<T*, std::enable_if_t<!std::is_function_v<T>>> {
  using Opaque = std::conditional_t<std::is_const_v<T>, const void*, void*>;
  using Known = std::conditional_t<std::is_const_v<T>, const typename Plain<std::remove_const_t<T>>::Type,
                                   typename Plain<std::remove_const_t<T>>::Type>*;
  using Type = std::conditional_t<std::is_class_v<T>, Opaque, Known>;
};
template <class Result, class... Args>
struct Plain<Result (*)(Args...)> {
  using Type = typename Plain<Result>::Type (*)(typename Plain<Args>::Type...);
};
template <class Result, class... Args>
struct Plain<Result (*)(Args...) noexcept> {
  using Type = typename Plain<Result (*)(Args...)>::Type;
};
template <class T>
using Abi = typename Plain<std::remove_cv_t<T>>::Type;

template <class Theirs, class Ours>
constexpr bool kSame = std::is_same_v<Abi<Theirs>, Abi<Ours>>;

// clang-format off
#define SLOT(theirs, ours)                                                                                      \
  static_assert(offsetof(OrtApi, theirs) == ours::kSlot * sizeof(void*), #theirs " is in another slot");        \
  static_assert(kSame<decltype(OrtApi::theirs), ours::Function*>, #theirs " has another signature")
#define FIELD(theirs, ours)                                                                                     \
  static_assert(offsetof(OrtCustomOp, theirs) == offsetof(CustomOp, ours), #theirs " is at another offset");    \
  static_assert(kSame<decltype(OrtCustomOp::theirs), decltype(CustomOp::ours)>, #theirs " has another type")
#define VALUE(theirs, ours) static_assert(static_cast<int>(theirs) == static_cast<int>(ours), #theirs " has another value")
// clang-format on

static_assert(ORT_API_VERSION >= kApiVersion, "this header is older than the API that baker declares");
static_assert(offsetof(OrtApiBase, GetApi) == offsetof(ApiBase, get_api));
static_assert(offsetof(OrtApiBase, GetVersionString) == offsetof(ApiBase, get_version_string));
static_assert(kSame<decltype(OrtApiBase::GetApi), decltype(ApiBase::get_api)>);
static_assert(kSame<decltype(OrtApiBase::GetVersionString), decltype(ApiBase::get_version_string)>);

SLOT(CreateStatus, CreateStatus);
SLOT(GetErrorMessage, GetErrorMessage);
SLOT(CreateCustomOpDomain, CreateCustomOpDomain);
SLOT(CustomOpDomain_Add, CustomOpDomainAdd);
SLOT(AddCustomOpDomain, AddCustomOpDomain);
SLOT(GetTensorMutableData, GetTensorMutableData);
SLOT(CreateTensorTypeAndShapeInfo, CreateTensorInfo);
SLOT(SetTensorElementType, SetTensorElementType);
SLOT(SetDimensions, SetDimensions);
SLOT(GetDimensionsCount, GetDimensionsCount);
SLOT(GetDimensions, GetDimensions);
SLOT(GetSymbolicDimensions, GetSymbolicDimensions);
SLOT(GetTensorTypeAndShape, GetTensorTypeAndShape);
SLOT(CreateCpuMemoryInfo, CreateCpuMemoryInfo);
SLOT(AllocatorAlloc, AllocatorAlloc);
SLOT(AllocatorFree, AllocatorFree);
SLOT(KernelInfoGetAttribute_float, KernelInfoGetAttributeFloat);
SLOT(KernelInfoGetAttribute_int64, KernelInfoGetAttributeInt64);
SLOT(KernelInfoGetAttribute_string, KernelInfoGetAttributeString);
SLOT(KernelInfoGetAttributeArray_float, KernelInfoGetAttributeFloats);
SLOT(KernelInfoGetAttributeArray_int64, KernelInfoGetAttributeInts);
SLOT(KernelContext_GetInput, KernelContextGetInput);
SLOT(KernelContext_GetOutput, KernelContextGetOutput);
SLOT(ReleaseStatus, ReleaseStatus);
SLOT(ReleaseMemoryInfo, ReleaseMemoryInfo);
SLOT(ReleaseTensorTypeAndShapeInfo, ReleaseTensorInfo);
SLOT(ReleaseAllocator, ReleaseAllocator);
SLOT(KernelInfo_GetInputCount, KernelInfoGetInputCount);
SLOT(KernelInfo_GetOutputCount, KernelInfoGetOutputCount);
SLOT(KernelInfo_GetInputName, KernelInfoGetInputName);
SLOT(KernelInfo_GetNodeName, KernelInfoGetNodeName);
SLOT(KernelInfoGetConstantInput_tensor, KernelInfoGetConstantInput);
SLOT(KernelContext_GetAllocator, KernelContextGetAllocator);
SLOT(ShapeInferContext_GetInputTypeShape, ShapeInferGetInputTypeShape);
SLOT(ShapeInferContext_GetAttribute, ShapeInferGetAttribute);
SLOT(ShapeInferContext_SetOutputTypeShape, ShapeInferSetOutputTypeShape);
SLOT(SetSymbolicDimensions, SetSymbolicDimensions);
SLOT(ReadOpAttr, ReadOpAttr);
SLOT(KernelContext_ParallelFor, KernelContextParallelFor);

FIELD(version, version);
FIELD(CreateKernel, create_kernel);
FIELD(GetName, get_name);
FIELD(GetExecutionProviderType, get_execution_provider);
FIELD(GetInputType, get_input_type);
FIELD(GetInputTypeCount, get_input_count);
FIELD(GetOutputType, get_output_type);
FIELD(GetOutputTypeCount, get_output_count);
FIELD(KernelCompute, compute);
FIELD(KernelDestroy, destroy_kernel);
FIELD(GetInputCharacteristic, get_input_characteristic);
FIELD(GetOutputCharacteristic, get_output_characteristic);
FIELD(GetInputMemoryType, get_input_memory_type);
FIELD(GetVariadicInputMinArity, get_variadic_input_min_arity);
FIELD(GetVariadicInputHomogeneity, get_variadic_input_homogeneity);
FIELD(GetVariadicOutputMinArity, get_variadic_output_min_arity);
FIELD(GetVariadicOutputHomogeneity, get_variadic_output_homogeneity);
FIELD(CreateKernelV2, create_kernel_v2);
FIELD(KernelComputeV2, compute_v2);
FIELD(InferOutputShapeFn, infer_output_shape);
FIELD(GetStartVersion, get_start_version);
FIELD(GetEndVersion, get_end_version);
FIELD(GetMayInplace, get_may_inplace);
FIELD(ReleaseMayInplace, release_may_inplace);
FIELD(GetAliasMap, get_alias_map);
FIELD(ReleaseAliasMap, release_alias_map);

VALUE(ORT_FAIL, kFail);
VALUE(ORT_INVALID_ARGUMENT, kInvalidArgument);
VALUE(ORT_RUNTIME_EXCEPTION, kRuntimeException);
VALUE(ORT_INVALID_GRAPH, kInvalidGraph);
VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, kFloat);
VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, kUint8);
VALUE(OrtArenaAllocator, kArenaAllocator);
VALUE(OrtMemTypeDefault, kMemDefault);
VALUE(INPUT_OUTPUT_REQUIRED, kRequired);
VALUE(INPUT_OUTPUT_OPTIONAL, kOptional);
VALUE(INPUT_OUTPUT_VARIADIC, kVariadic);
VALUE(ORT_OP_ATTR_INTS, kInts);

}  // namespace
}  // namespace baker::ort
