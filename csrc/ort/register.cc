// RegisterCustomOps: the one function that ONNX Runtime looks for in a custom-op library.
#include <list>
#include <mutex>
#include <string>

#include "ort/ops.h"
#include "ort/ort_call.h"

namespace baker::ort {
namespace {

constexpr const char* kDomain = "ai.baker";

// The ops of one ONNX Runtime in this process (there can be several), added to each of its sessions.
struct Registration {
  const Api* api;
  Op ternary_matmul;
  CustomOpDomain* domain;
};

// Sessions keep pointers into it, so it lives as long as the process (the library is linked with nodelete).
Registration& registration(const Api* api) {
  static std::mutex mutex;
  static auto* all = new std::list<Registration>();
  const std::lock_guard<std::mutex> lock(mutex);
  for (Registration& known : *all) {
    if (known.api == api) return known;
  }
  CustomOpDomain* domain = nullptr;
  call<CreateCustomOpDomain>(api, kDomain, &domain);
  Registration& added = all->emplace_back(Registration{api, make_ternary_matmul_op(api), domain});
  call<CustomOpDomainAdd>(api, domain, &added.ternary_matmul);
  return added;
}

// CreateStatus is in slot 0 of every version, so an ONNX Runtime that is too old can be told so in its own way.
Status* refuse_version(const ApiBase* base) {
  const std::string message = "baker's custom ops need ONNX Runtime 1.17 (API version 17) or newer; this is " +
                              std::string(base->get_version_string()) + ". Update the package onnxruntime.";
  return CreateStatus::of(base->get_api(1))(kFail, message.c_str());
}

}  // namespace
}  // namespace baker::ort

extern "C" __attribute__((visibility("default"))) baker::ort::Status* RegisterCustomOps(
    baker::ort::SessionOptions* options, const baker::ort::ApiBase* base) noexcept {
  using namespace baker::ort;
  const Api* api = base->get_api(kApiVersion);
  if (api == nullptr) return refuse_version(base);
  return guarded(api, "baker: registering the domain ai.baker", kFail,
                 [&] { call<AddCustomOpDomain>(api, options, registration(api).domain); });
}
