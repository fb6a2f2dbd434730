// baker._kernels: the kernels for numpy. Arguments are checked here and in Weights; baker/_kernels.pyi has the types.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <optional>
#include <system_error>
#include <thread>

#include "kernels/ternary_matmul/ternary_matmul.h"

namespace py = pybind11;

namespace {

namespace ternary = baker::ternary;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
ternary::View<T> view(const Array<T>& array) {
  return {array.data(), {array.shape(), array.shape() + array.ndim()}};
}

constexpr int kMaxThreads = 1024;

// Threads for one call; an application has ONNX Runtime's pool instead.
struct Threads {
  int count;
};

void run_on_threads(void* self, ternary::Executor::Task task, std::size_t count, void* argument) {
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(argument, i);
  };
  std::vector<std::thread> helpers;
  helpers.reserve(kMaxThreads);
  try {
    for (int i = 1; i < static_cast<Threads*>(self)->count; ++i) helpers.emplace_back(work);
  } catch (const std::system_error&) {  // no more threads to be had: those that run do all of the work
  }
  work();
  for (std::thread& helper : helpers) helper.join();
}

Array<float> multiply(const ternary::Weights& weights, const Array<float>& x, const std::string& isa, int threads) {
  if (x.ndim() != 2 || x.shape(1) != weights.cut().k) {
    throw std::invalid_argument("x must be [M, " + std::to_string(weights.cut().k) + "]");
  }
  if (threads < 1 || threads > kMaxThreads) {
    throw std::invalid_argument("threads must be 1 to " + std::to_string(kMaxThreads));
  }
  const std::int64_t m = x.shape(0);
  Array<float> y({m, weights.n()});
  const float* from = x.data();
  float* to = y.mutable_data();
  const ternary::Variant& variant = ternary::select_variant(isa);
  const py::gil_scoped_release unlocked;
  const auto scratch = baker::make_buffer<std::uint8_t>(ternary::scratch_bytes(weights, m));
  Threads self = {threads};
  ternary::run(variant, weights, {from, m, nullptr, &to}, scratch.get(), {run_on_threads, &self});
  return y;
}

ternary::Weights load(const Array<std::uint8_t>& codes, const Array<float>& scale,
                      const std::optional<Array<float>>& bias, std::int64_t k, std::int64_t group) {
  ternary::Layer layer = {k, group, view(codes), view(scale), {}};
  if (bias) layer.bias = view(*bias);
  const py::gil_scoped_release unlocked;
  return ternary::Weights(layer);
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const ternary::Variant* variant : ternary::available_variants()) names.emplace_back(variant->isa);
  return names;
}

}  // namespace

PYBIND11_MODULE(_kernels, module) {
  py::class_<ternary::Weights>(module, "TernaryWeights")
      .def(py::init(&load), py::arg("codes").noconvert(), py::arg("scale").noconvert(), py::arg("bias").noconvert(),
           py::arg("k"), py::arg("group"))
      .def("multiply", &multiply, py::arg("x").noconvert(), py::kw_only(), py::arg("isa") = "auto",
           py::arg("threads") = 1)
      .def_property_readonly("n", &ternary::Weights::n)
      .def_property_readonly("k", [](const ternary::Weights& weights) { return weights.cut().k; });
  module.def("available_isas", &available_isas);
  module.def("compiled_isas", &ternary::compiled_isas);
}
