// The part that no instruction set changes: where the scratch lies and who computes which piece.
#include <algorithm>

#include "common/p64.h"
#include "kernels/ternary_matmul/ternary_matmul.h"

namespace baker::ternary {
namespace {

constexpr std::size_t kLine = 64;
// Panels that stay in L2 while the row tiles pass over them; a row tile stays in L1 while these panels pass over it.
constexpr std::int64_t kPieceBytes = std::int64_t{256} << 10;
// Multiplications in a piece: a part of them all, so that threads end together, but neither so few (some 0.5 us) that
// handing them over counts nor so many (some 30 us) that one thread ends late.
constexpr std::int64_t kPieces = 32;
constexpr std::int64_t kLeastPieceWork = std::int64_t{1} << 18, kMostPieceWork = std::int64_t{16} << 20;
// Less than this (some 8 us) is done by the calling thread.
constexpr std::int64_t kSharedWork = std::int64_t{2} << 20;
// Fewer channels (256), or groups of fewer weights (128), are faster as products.
constexpr std::int64_t kLeastWidePanels = 4, kLeastWideGroup = 8;
// The same for activations to quantize (some 8 us).
constexpr std::int64_t kSharedRows = std::int64_t{128} << 10;

[[nodiscard]] std::size_t aligned(std::size_t bytes) noexcept { return (bytes + kLine - 1) / kLine * kLine; }

struct Scratch {
  std::size_t q, sums, step, total;  // byte offsets
};

[[nodiscard]] Scratch layout(const Cut& cut, std::int64_t m) noexcept {
  const auto rows = static_cast<std::size_t>(m);
  Scratch at{};
  // Behind a tile's last block a P80 kernel reads one block more, of at most 8 x 16 bytes, and multiplies it by code 0:
  // sums and step lie there, a line each at least.
  at.sums = aligned(rows * static_cast<std::size_t>(cut.blocks * p64::kBlockWeights));
  at.step = at.sums + aligned(rows * static_cast<std::size_t>(cut.groups) * sizeof(std::int32_t));
  at.total = at.step + aligned(rows * sizeof(float));
  return at;
}

// What the end of a panel needs, asked for before its weights pass: to the hardware these lines are no stream.
void fetch(const float* channels) noexcept {
  for (std::int64_t i = 0; i < p64::kPanelChannels; i += kLine / sizeof(float)) __builtin_prefetch(channels + i);
}

// How the product is cut into pieces of a few tiles of rows x a few panels of channels.
struct Pieces {
  std::int64_t tiles;   // of rows, altogether
  std::int64_t high;    // tiles in a piece
  std::int64_t wide;    // panels in a piece
  std::int64_t column;  // pieces over all rows
  std::int64_t count;
  bool pairs;  // two tiles of rows at a time, where they are whole
};

[[nodiscard]] std::int64_t parts(std::int64_t all, std::int64_t part) noexcept { return (all + part - 1) / part; }

// Where tables are made, over as many channels as they serve.
[[nodiscard]] bool suits_tables(const Variant& variant, const Weights& weights, std::int64_t m) noexcept {
  return variant.wide.multiply != nullptr && weights.layout() == Layout::kP64 && m >= kWideRows &&
         weights.panels() >= kLeastWidePanels && weights.cut().group_blocks >= kLeastWideGroup;
}

[[nodiscard]] Pieces cut_work(const Variant& variant, const Weights& weights, std::int64_t m) noexcept {
  const std::int64_t k = weights.cut().k, panels = weights.panels(), tiles = parts(m, kTileRows);
  if (suits_tables(variant, weights, m)) {
    const std::int64_t wide = parts(panels, parts(panels, kWidePanels)), columns = parts(tiles, 2);
    return {tiles, 2, wide, columns, columns * parts(panels, wide), true};
  }
  const std::int64_t work = std::clamp(m * k * weights.n() / kPieces, kLeastPieceWork, kMostPieceWork);
  const std::int64_t panel_work = p64::kPanelChannels * k * std::min<std::int64_t>(kTileRows, m);  // with one tile
  const std::int64_t fitting = kPieceBytes / weights.panel_bytes();
  const std::int64_t most_wide = std::clamp<std::int64_t>(std::min(fitting, work / panel_work), 1, panels);
  const std::int64_t wide = parts(panels, parts(panels, most_wide));  // as many pieces, of nearly one size
  const std::int64_t most_high = std::clamp<std::int64_t>(work / (wide * panel_work), 1, tiles);
  const std::int64_t high = parts(tiles, parts(tiles, most_high));
  return {tiles, high, wide, parts(tiles, high), parts(tiles, high) * parts(panels, wide), false};
}

struct Job {
  const Variant& variant;
  const Weights& weights;
  const Products& products;  // for the layout of the weights
  const Arguments& arguments;
  std::int8_t* q;
  std::int32_t* sums;
  float* step;
  Pieces pieces;

  [[nodiscard]] int rows(std::int64_t tile) const noexcept {
    return static_cast<int>(std::min<std::int64_t>(kTileRows, arguments.m - tile * kTileRows));
  }
  [[nodiscard]] std::int8_t* tile_q(std::int64_t tile) const noexcept {
    return q + tile * kTileRows * weights.cut().blocks * p64::kBlockWeights;
  }
  [[nodiscard]] std::int32_t* tile_sums(std::int64_t tile) const noexcept {
    return sums + tile * kTileRows * weights.cut().groups;
  }

  void quantize(std::int64_t tile) const noexcept {
    const std::int64_t row = tile * kTileRows;
    variant.rows.quantize({weights.cut(), arguments.x + row * weights.cut().k, weights.gamma(), weights.epsilon(),
                           rows(tile), tile_q(tile), tile_sums(tile), step + row});
  }

  void multiply(std::int64_t panel, std::int64_t tile) const noexcept {
    const Place& place = weights.place(panel);
    const std::int64_t row = tile * kTileRows, at = row * place.stride + place.channel;
    float* y = arguments.outputs[place.output] + at;
    fetch(weights.scale(panel));
    fetch(weights.bias(panel));
    products.multiply({weights.cut(), weights.panel(panel), weights.scale(panel), weights.bias(panel), tile_q(tile),
                       tile_sums(tile), step + row, rows(tile), place.channels, y, place.stride});
    finish(panel, tile);
  }

  // Tiles tile and tile + 1, both whole, with panels first..last - 1.
  void multiply_pair(std::int64_t first, std::int64_t last, std::int64_t tile) const noexcept {
    WidePanel wide[kWidePanels];
    const std::int64_t row = tile * kTileRows;
    for (std::int64_t panel = first; panel < last; ++panel) {
      const Place& place = weights.place(panel);
      float* y = arguments.outputs[place.output] + row * place.stride + place.channel;
      wide[panel - first] = {weights.panel(panel), weights.scale(panel), weights.bias(panel), y,
                             place.stride,         place.channels};
    }
    variant.wide.multiply(
        {weights.cut(), wide, static_cast<int>(last - first), {tile_q(tile), tile_q(tile + 1)}, step + row});
    for (std::int64_t panel = first; panel < last; ++panel) {
      finish(panel, tile);
      finish(panel, tile + 1);
    }
  }

  // What is done to a product behind the bias.
  void finish(std::int64_t panel, std::int64_t tile) const noexcept {
    if (weights.activation() == Activation::kNone && arguments.residual == nullptr) return;
    const Place& place = weights.place(panel);
    const std::int64_t at = tile * kTileRows * place.stride + place.channel;
    float* y = arguments.outputs[place.output] + at;
    const float* residual = arguments.residual == nullptr ? nullptr : arguments.residual + at;
    variant.rows.finish({y, residual, place.stride, rows(tile), place.channels, weights.activation()});
  }

  void multiply_piece(std::int64_t piece) const noexcept {
    const std::int64_t tile = piece % pieces.column * pieces.high, panel = piece / pieces.column * pieces.wide;
    const std::int64_t last_tile = std::min(tile + pieces.high, pieces.tiles);
    const std::int64_t last_panel = std::min(panel + pieces.wide, weights.panels());
    std::int64_t t = tile;
    for (; pieces.pairs && t + 1 < last_tile && rows(t + 1) == kTileRows; t += 2) multiply_pair(panel, last_panel, t);
    for (; t < last_tile; ++t) {
      for (std::int64_t p = panel; p < last_panel; ++p) multiply(p, t);
    }
  }
};

void quantize_task(void* job, std::size_t tile) {
  static_cast<const Job*>(job)->quantize(static_cast<std::int64_t>(tile));
}

void multiply_task(void* job, std::size_t piece) {
  static_cast<const Job*>(job)->multiply_piece(static_cast<std::int64_t>(piece));
}

void run_serial(void*, Executor::Task task, std::size_t count, void* argument) {
  for (std::size_t i = 0; i < count; ++i) task(argument, i);
}

// Work too small to share runs here; the rest goes to the executor.
void dispatch(const Executor& executor, Executor::Task task, std::int64_t count, bool small, Job& job) {
  const Executor& chosen = small || count == 1 ? serial_executor() : executor;
  chosen.run(chosen.self, task, static_cast<std::size_t>(count), &job);
}

}  // namespace

Executor serial_executor() noexcept { return {run_serial, nullptr}; }

std::size_t scratch_bytes(const Weights& weights, std::int64_t m) noexcept { return layout(weights.cut(), m).total; }

void run(const Variant& variant, const Weights& weights, const Arguments& arguments, void* scratch,
         const Executor& executor) noexcept {
  const std::int64_t m = arguments.m;
  if (m == 0) return;
  const Cut& cut = weights.cut();
  const Scratch at = layout(cut, m);
  auto* base = static_cast<std::uint8_t*>(scratch);
  const Pieces pieces = cut_work(variant, weights, m);
  Job job = {variant,
             weights,
             weights.layout() == Layout::kP80 ? variant.p80 : variant.products,
             arguments,
             reinterpret_cast<std::int8_t*>(base),
             reinterpret_cast<std::int32_t*>(base + at.sums),
             reinterpret_cast<float*>(base + at.step),
             pieces};
  dispatch(executor, quantize_task, pieces.tiles, m * cut.k < kSharedRows, job);
  dispatch(executor, multiply_task, pieces.count, m * cut.k * weights.n() < kSharedWork, job);
}

}  // namespace baker::ternary
