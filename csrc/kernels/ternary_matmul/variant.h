// What one instruction set implements: functions over raw memory. No STL here: this header is compiled with ISA
// flags.
//
// The arithmetic, which every variant repeats to the bit (scalar.cc is its definition):
//
//   quantize   a = max(max|x|, 1e-5)    q[k] = rint(x[k] * (127 / a)), half to even    step = a / 127
//              a row with a non-finite value: q = 0, step = NaN
//   multiply   acc[g] = sum over group g of t*q, exact in int32
//              f = fma(float(acc[g]), scale[g], f), g ascending from f = 0;    y = fma(f, step, bias)
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
inline constexpr float kMinAbsMax = 1e-5F;
inline constexpr float kQuantMax = 127.0F;

// How K is cut. The last group may be short, and so may the last block (16 weights).
struct Cut {
  std::int64_t k;
  std::int64_t blocks;
  std::int64_t group_blocks;  // blocks in a group
  std::int64_t groups;
};

struct QuantizeTask {
  Cut cut;
  const float* x;  // rows x K, row-major
  int rows;        // 1..kTileRows
  std::int8_t* q;
  std::int32_t* sums;
  float* step;  // rows
};

struct MultiplyTask {
  Cut cut;
  const std::uint8_t* panel;  // blocks x 256 bytes, 64-byte aligned
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

// What is done to rows of activations before the product.
struct Rows {
  void (*quantize)(const QuantizeTask&);
};

// The products of a tile of rows with a panel of channels.
struct Products {
  void (*multiply)(const MultiplyTask&);
};

// One name of BAKER_ISA; dispatch.cc puts these together. Each part is compiled for its instruction set alone; only
// scalar runs on any CPU.
struct Variant {
  const char* isa;
  Rows rows;
  Products products;
};

extern const Rows kScalarRows;
extern const Products kScalarProducts;
#if defined(__x86_64__)
extern const Rows kAvx2Rows, kAvx512Rows;
extern const Products kAvx2Products, kAvx512VnniProducts;
#elif defined(__aarch64__)
extern const Rows kNeonRows;
extern const Products kNeonProducts, kNeonDotprodProducts;
#endif

}  // namespace baker::ternary
