// What one instruction set implements: functions over raw memory. No STL here: this header is compiled with ISA
// flags.
//
// The arithmetic, which every variant repeats to the bit (scalar.cc is its definition):
//
//   quantize   v = x, r = 1; or, normalized (RMSNorm): v = x * gamma, r = 1 / sqrt(squares / K + epsilon)
//              squares: 64 sums s[i], i = k % 64, each fma(x[k], x[k], s[i]) with k ascending from s = 0;
//              then s[i] += s[i + half] for half = 32, 16, 8, 4, 2, 1
//              a = max|v|
//              a * r >= 1e-5: inverse = 127 / a              step = (a / 127) * r
//              else:          inverse = (127 / 1e-5) * r     step = 1e-5 / 127
//              q[k] = rint(v[k] * inverse), half to even
//              a row with a non-finite v or r: q = 0, step = NaN
//   multiply   acc[g] = sum over group g of t*q, exact in int32
//              f = fma(float(acc[g]), scale[g], f), g ascending from f = 0;    y = fma(f, step, bias)
//   finish     y = activation(y) + residual (activations.h: the polynomials)
//
// Weights lie in P64 (common/p64.h). Activations lie in tiles of at most 8 rows, so that a block of a tile is
// contiguous:
//
//   q     [block][row of the tile][16] int8, zeros beyond K
//   sums  [group][row of the tile] int32, the sum of q over the group: acc = sum (t + 1)*q - sums
#pragma once

#include <cstdint>

namespace baker::ternary {

inline constexpr int kTileRows = 8;
inline constexpr int kSquareLanes = 64;
inline constexpr float kMinAbsMax = 1e-5F;
inline constexpr float kQuantMax = 127.0F;

// How K is cut. The last group may be short, and so may the last block (16 weights).
struct Cut {
  std::int64_t k;
  std::int64_t blocks;
  std::int64_t group_blocks;  // blocks in a group
  std::int64_t groups;
};

// How weights lie in memory: 2 bits each (common/p64.h), or 1.6 (common/p80.h).
enum class Layout : std::uint8_t { kP64, kP80 };

// What is done to y behind the bias. Gelu is the one with erf, GeluTanh its approximation, Silu is x * sigmoid(x).
enum class Activation : std::uint8_t { kNone, kRelu, kGelu, kGeluTanh, kSilu };

struct QuantizeTask {
  Cut cut;
  const float* x;      // rows x K, row-major
  const float* gamma;  // K: the rows are RMS-normalized first; null: they are not
  float epsilon;       // of the normalization
  int rows;            // 1..kTileRows
  std::int8_t* q;
  std::int32_t* sums;
  float* step;  // rows
};

struct MultiplyTask {
  Cut cut;
  const std::uint8_t* panel;  // blocks x 256 bytes, 64-byte aligned, in the layout that multiply is for
  const float* scale;         // groups x 64, 64-byte aligned
  const float* bias;          // 64, 64-byte aligned; zeros where the layer has none
  const std::int8_t* q;
  const std::int32_t* sums;
  const float* step;
  int rows;      // 1..kTileRows
  int channels;  // 1..64: the columns of y that exist
  float* y;      // row r begins at y + r * y_stride
  std::int64_t y_stride;
};

inline constexpr int kWideRows = 2 * kTileRows;
inline constexpr int kWidePanels = 16;

// A panel on P64 and where its part of y lies, of 16 rows.
struct WidePanel {
  const std::uint8_t* codes;
  const float* scale;
  const float* bias;
  float* y;
  std::int64_t stride;  // from row to row of y
  int channels;
};

// Two whole tiles of rows times several panels.
struct WideTask {
  Cut cut;
  const WidePanel* panels;
  int count;                // 1..kWidePanels
  const std::int8_t* q[2];  // of the tiles
  const float* step;        // 16
};

// A tile of y in place: y = activation(y) + residual.
struct FinishTask {
  float* y;
  const float* residual;  // laid out as y; null: none
  std::int64_t stride;    // from row to row, of both
  int rows;               // 1..kTileRows
  int channels;           // 1..64
  Activation activation;
};

// What is done to rows of activations before the product, and to a tile of its result.
struct Rows {
  void (*quantize)(const QuantizeTask&);
  void (*finish)(const FinishTask&);
};

// The products of a tile of rows with a panel of channels.
struct Products {
  void (*multiply)(const MultiplyTask&);
};

// The products of 16 rows with panels, for an instruction set on which many of them together are faster.
struct WideProducts {
  void (*multiply)(const WideTask&);
};

// One name of BAKER_ISA; dispatch.cc puts these together. Each part is compiled for its instruction set alone; only
// scalar runs on any CPU.
struct Variant {
  const char* isa;
  Rows rows;
  Products products;  // on P64
  Products p80;       // on P80; null where the instruction set has no kernel for it
  WideProducts wide;  // on P64; null where it has none
};

extern const Rows kScalarRows;
extern const Products kScalarProducts, kScalarP80;
#if defined(__x86_64__)
extern const Rows kAvx2Rows, kAvx512Rows;
extern const WideProducts kAvx2Tables;
extern const Products kAvx2Products, kAvxVnniProducts, kAvx512VnniProducts, kAvx512VbmiP80;
#elif defined(__aarch64__)
extern const Rows kNeonRows;
extern const Products kNeonProducts, kNeonDotprodProducts;
#endif

}  // namespace baker::ternary
