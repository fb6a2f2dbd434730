// P80: ternary weights in base 3 in the order the kernels read them, 1.6 bits each. For layers that stream from DRAM.
//
//   memory  panels of 64 channels as in P64 (common/p64.h), blocks of 256 bytes, 4 bytes a channel, but 20 weights a
//           channel and block: byte b of a channel holds the codes of k = 20*block + 4*j + b, j = 0..4, as
//
//             v = sum over j of code[j] * 3^j      at most 242
//
//   Blocks begin anew in every group of scales; what lies beyond a group, beyond K or beyond the panel's channels is
//   code 0, which adds nothing whatever activation it meets.
#pragma once

#include <cstdint>

namespace baker::p80 {

inline constexpr std::int64_t kBlockWeights = 20;
inline constexpr std::int64_t kBlockQuads = 5;  // four neighbouring weights: what one dot product takes

// Blocks that hold a group of this many weights.
[[nodiscard]] constexpr std::int64_t blocks(std::int64_t weights) {
  return (weights + kBlockWeights - 1) / kBlockWeights;
}

// codes: rows of p64::row_bytes(K) bytes, the file form of P64.  packed: one panel, groups x blocks(group) x 256 bytes
// (the last group may be short; K counts as rounded up to 16).  group: weights in a group, a multiple of 16.
void pack_panel(const std::uint8_t* codes, std::int64_t channels, std::int64_t k, std::int64_t group,
                std::uint8_t* packed) noexcept;

// Bytes of such a panel.
[[nodiscard]] std::int64_t panel_bytes(std::int64_t k, std::int64_t group) noexcept;

}  // namespace baker::p80
