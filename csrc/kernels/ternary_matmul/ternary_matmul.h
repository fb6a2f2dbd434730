// ternary_matmul: y[m][n] = step[m] * sum_g scale[n][g] * sum_{k in g} t[n][k] * q[m][k] + bias[n]
//
//   x      M x K float32, row-major; each row is quantized to q int8, |q| <= 127, with its own step (variant.h: how)
//   codes  N x ceil(K/4) bytes, row-major; weight 4i+j in bits 2j..2j+1 of byte i;
//          code = t + 1, t in {-1, 0, +1}; 3 is refused, padding is code 1
//   scale  float32, one for all, N (one a channel) or N x ceil(K/group), real units per step
//   bias   N float32, or none
//   y      M x N float32, row-major; a row of x with a non-finite value gives NaN
//
// 1 <= K <= 2^19, so that the unshifted 2-bit fields of a GEMV stay inside int32; group is 0 or a multiple of 16.
// Every variant equals scalar.cc bit for bit. After Weights is built, nothing allocates: the caller gives the scratch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/buffer.h"
#include "kernels/ternary_matmul/variant.h"

namespace baker::ternary {

inline constexpr std::int64_t kMaxK = std::int64_t{1} << 19;

// A row-major tensor that somebody else owns.
template <class T>
struct View {
  const T* data = nullptr;  // null: no such tensor
  std::vector<std::int64_t> shape;
};

// A layer as it comes from a file, nothing checked yet.
struct Layer {
  std::int64_t k = 0;
  std::int64_t group = 0;  // 0: one scale a channel
  View<std::uint8_t> codes;
  View<float> scale;
  View<float> bias;
};

// A layer as the kernels read it; immutable, so many threads may share it.
class Weights {
 public:
  // Throws std::invalid_argument (what is wrong, where, what would be right) and std::bad_alloc.
  explicit Weights(const Layer& layer);

  [[nodiscard]] std::int64_t n() const noexcept { return n_; }
  [[nodiscard]] const Cut& cut() const noexcept { return cut_; }
  [[nodiscard]] const std::uint8_t* panel(std::int64_t index) const noexcept;
  [[nodiscard]] const float* scale(std::int64_t panel) const noexcept;
  [[nodiscard]] const float* bias(std::int64_t panel) const noexcept;

 private:
  std::int64_t n_;
  Cut cut_;
  Buffer<std::uint8_t> panels_;
  Buffer<float> scale_;  // panels x groups x 64
  Buffer<float> bias_;   // panels x 64
};

// Who runs the tasks: calls task(argument, i) once for each i < count, on any threads, and returns when all are done.
struct Executor {
  using Task = void (*)(void* argument, std::size_t index);
  void (*run)(void* self, Task task, std::size_t count, void* argument);
  void* self;
};

[[nodiscard]] Executor serial_executor() noexcept;

// Bytes of scratch that run() needs for M rows.
[[nodiscard]] std::size_t scratch_bytes(const Weights& weights, std::int64_t m) noexcept;

// x: M x K, y: M x N; scratch: scratch_bytes(weights, m), 64-byte aligned. M = 0 does nothing.
void run(const Variant& variant, const Weights& weights, const float* x, std::int64_t m, float* y, void* scratch,
         const Executor& executor) noexcept;

// The variants compiled in that this CPU can run, best first; scalar is always the last.
[[nodiscard]] std::vector<const Variant*> available_variants();

// Every variant compiled in, whether or not this CPU can run it.
[[nodiscard]] std::vector<std::string> compiled_isas();

// "auto": the best one, or the one that the environment variable BAKER_ISA names. Throws std::invalid_argument for a
// name that is unknown or that this CPU cannot run.
[[nodiscard]] const Variant& select_variant(const std::string& isa);

}  // namespace baker::ternary
