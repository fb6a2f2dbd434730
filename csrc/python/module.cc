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

using Optional = std::optional<Array<float>>;

void check_call(const ternary::Weights& weights, const Array<float>& x, const Optional& residual, int threads) {
  if (x.ndim() != 2 || x.shape(1) != weights.cut().k) {
    throw std::invalid_argument("x must be [M, " + std::to_string(weights.cut().k) + "]");
  }
  if (threads < 1 || threads > kMaxThreads) {
    throw std::invalid_argument("threads must be 1 to " + std::to_string(kMaxThreads));
  }
  if (!residual) return;
  if (weights.splits().size() != 1) throw std::invalid_argument("a residual needs one output; splits makes several");
  if (residual->ndim() != 2 || residual->shape(0) != x.shape(0) || residual->shape(1) != weights.n()) {
    throw std::invalid_argument("residual must be [M, N], here [" + std::to_string(x.shape(0)) + ", " +
                                std::to_string(weights.n()) + "]");
  }
}

std::vector<Array<float>> multiply(const ternary::Weights& weights, const Array<float>& x, const Optional& residual,
                                   const std::string& isa, int threads) {
  check_call(weights, x, residual, threads);
  const ternary::Variant& variant = ternary::select_variant(isa);
  const std::int64_t m = x.shape(0);
  std::vector<Array<float>> results;
  std::vector<float*> outputs;
  for (const std::int64_t channels : weights.splits()) {
    outputs.push_back(results.emplace_back(std::vector<std::int64_t>{m, channels}).mutable_data());
  }
  const ternary::Arguments arguments = {x.data(), m, residual ? residual->data() : nullptr, outputs.data()};
  const py::gil_scoped_release unlocked;
  const auto scratch = baker::make_buffer<std::uint8_t>(ternary::scratch_bytes(weights, m));
  Threads self = {threads};
  ternary::run(variant, weights, arguments, scratch.get(), {run_on_threads, &self});
  return results;
}

ternary::Weights load(const Array<std::uint8_t>& codes, const Array<float>& scale, const Optional& bias, std::int64_t k,
                      std::int64_t group, std::int64_t weights_per_byte, const Optional& gamma, float epsilon,
                      const std::string& activation, const std::vector<std::int64_t>& splits) {
  ternary::Layer layer;
  layer.k = k;
  layer.group = group;
  layer.codes = view(codes);
  layer.scale = view(scale);
  if (bias) layer.bias = view(*bias);
  if (gamma) layer.gamma = view(*gamma);
  layer.epsilon = epsilon;
  layer.activation = ternary::activation_named(activation);
  layer.splits = splits;
  layer.weights_per_byte = weights_per_byte;
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
           py::arg("k"), py::arg("group"), py::kw_only(), py::arg("weights_per_byte") = 4,
           py::arg("gamma").noconvert() = py::none(), py::arg("epsilon") = 0.0F, py::arg("activation") = "",
           py::arg("splits") = std::vector<std::int64_t>())
      .def("multiply", &multiply, py::arg("x").noconvert(), py::arg("residual").noconvert() = py::none(), py::kw_only(),
           py::arg("isa") = "auto", py::arg("threads") = 1)
      .def_property_readonly("n", &ternary::Weights::n)
      .def_property_readonly("k", [](const ternary::Weights& weights) { return weights.cut().k; });
  module.def("available_isas", &available_isas);
  module.def("compiled_isas", &ternary::compiled_isas);
}
