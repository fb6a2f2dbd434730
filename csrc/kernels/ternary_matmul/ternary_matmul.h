// ternary_matmul: y[m][n] = step[m] * sum_g scale[n][g] * sum_{k in g} t[n][k] * q[m][k] + bias[n], then
//                 activation(y) + residual
//
//   x      M x K float32, row-major; each row is quantized to q int8, |q| <= 127, with its own step (variant.h: how)
//   codes  N x ceil(K/4) bytes, row-major; weight 4i+j in bits 2j..2j+1 of byte i;
//          code = t + 1, t in {-1, 0, +1}; 3 is refused, padding is code 1
//   scale  float32, one for all, N (one a channel) or N x ceil(K/group), real units per step
//   bias   N float32, or none
//   gamma  K float32, or none: q comes from the RMS-normalized row times gamma
//   y      M x N float32, row-major; a row of x with a non-finite value gives NaN. N may be cut into several outputs
//
// 1 <= K <= 2^19, so that the unshifted 2-bit fields of a GEMV stay inside int32; group is 0 or a multiple of 16.
// Every variant equals scalar.cc bit for bit. After Weights is built, nothing allocates: the caller gives the scratch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/buffer.h"
#include "common/shared_bytes.h"
#include "kernels/ternary_matmul/variant.h"

namespace baker::ternary {

inline constexpr std::int64_t kMaxK = std::int64_t{1} << 19;
inline constexpr std::size_t kMaxOutputs = 16;

// "", "Relu", "Gelu", "GeluTanh" or "Silu"; throws std::invalid_argument for anything else.
[[nodiscard]] Activation activation_named(const std::string& name);

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
  View<float> gamma = {};  // K: RMSNorm in front
  float epsilon = 0.0F;    // of the RMSNorm
  Activation activation = Activation::kNone;
  std::vector<std::int64_t> splits = {};  // channels of each output, N together; empty: one output
  Layout layout = Layout::kP64;           // in memory
  std::int64_t weights_per_byte = 4;      // 4: codes as above; 5: base 3, codes is N x ceil(K/5) (common/trits.h)
};

// Where the channels of one panel come from and go to. An output begins with a panel of its own.
struct Place {
  std::size_t output;
  std::int64_t row;      // the panel's first channel, counted over the file's N
  std::int64_t channel;  // the same, counted within the output
  std::int64_t stride;   // channels of the output
  int channels;          // 1..64 that exist
};

// A layer as the kernels read it; immutable, so many threads may share it.
class Weights {
 public:
  // Throws std::invalid_argument (what is wrong, where, what would be right) and std::bad_alloc.
  explicit Weights(const Layer& layer);

  [[nodiscard]] std::int64_t n() const noexcept { return n_; }
  [[nodiscard]] const Cut& cut() const noexcept { return cut_; }
  [[nodiscard]] Layout layout() const noexcept { return layout_; }
  [[nodiscard]] std::int64_t panel_bytes() const noexcept { return panel_bytes_; }
  [[nodiscard]] const std::uint8_t* panel(std::int64_t index) const noexcept;
  [[nodiscard]] const float* scale(std::int64_t panel) const noexcept;
  [[nodiscard]] const float* bias(std::int64_t panel) const noexcept;
  [[nodiscard]] const float* gamma() const noexcept { return gamma_.get(); }  // null: no normalization
  [[nodiscard]] float epsilon() const noexcept { return epsilon_; }
  [[nodiscard]] Activation activation() const noexcept { return activation_; }
  [[nodiscard]] const std::vector<std::int64_t>& splits() const noexcept { return splits_; }  // one or more outputs
  [[nodiscard]] std::int64_t panels() const noexcept { return static_cast<std::int64_t>(places_.size()); }
  [[nodiscard]] const Place& place(std::int64_t panel) const noexcept {
    return places_[static_cast<std::size_t>(panel)];
  }

 private:
  std::int64_t n_;
  Cut cut_;
  Layout layout_;
  std::int64_t panel_bytes_;
  SharedBytes panels_;
  Buffer<float> scale_;  // panels x groups x 64
  Buffer<float> bias_;   // panels x 64; without a bias 64 zeros for all
  std::int64_t bias_stride_ = 0;
  Buffer<float> gamma_;
  float epsilon_;
  Activation activation_;
  std::vector<std::int64_t> splits_;
  std::vector<Place> places_;  // one a panel
};

// What the packed codes of a layer are known by while somebody holds them (common/shared_bytes.h).
[[nodiscard]] std::uint64_t origin(const Layer& layer, Layout layout) noexcept;

// What one run reads and writes.
struct Arguments {
  const float* x;         // M x K
  std::int64_t m;         // 0 does nothing
  const float* residual;  // M x N, where there is one output; null: none
  float* const* outputs;  // for each split M x (its channels)
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

// scratch: scratch_bytes(weights, M), 64-byte aligned. The variant must have a kernel for the weights' layout.
void run(const Variant& variant, const Weights& weights, const Arguments& arguments, void* scratch,
         const Executor& executor) noexcept;

// The variants compiled in that this CPU can run, best first; scalar is always the last.
[[nodiscard]] std::vector<const Variant*> available_variants();

// Every variant compiled in, whether or not this CPU can run it.
[[nodiscard]] std::vector<std::string> compiled_isas();

// "auto": the best one, or the one that the environment variable BAKER_ISA names. Throws std::invalid_argument for a
// name that is unknown or that this CPU cannot run.
[[nodiscard]] const Variant& select_variant(const std::string& isa);

}  // namespace baker::ternary
