// P64: 2-bit weights in the order the kernels read them.
//
//   file    codes, N rows of ceil(K/4) bytes: weight k of a row in bits 2(k%4)..2(k%4)+1 of byte k/4
//   memory  ceil(N/64) panels, each ceil(K/16) blocks of 256 bytes:
//
//     block  | channels 0..15 | channels 16..31 | channels 32..47 | channels 48..63 |    4 x 64 bytes
//     64 B   | channel 0: 4 B | channel 1: 4 B  | ...             | channel 15: 4 B |
//     4 B    byte b, bits 2j..2j+1 = code of k = 16*block + 4*j + b
//
// So (word >> 2j) & 0x03030303 are the codes of four neighbouring k, one a byte: an operand of vpdpbusd, sdot and dp4a.
// A code is t + 1 with t in {-1, 0, +1}; what lies beyond N or K holds code 1, a zero.
#pragma once

#include <cstdint>

namespace baker::p64 {

inline constexpr std::int64_t kPanelChannels = 64;
inline constexpr std::int64_t kBlockWeights = 16;
inline constexpr std::int64_t kBlockBytes = 256;

[[nodiscard]] constexpr std::int64_t panels(std::int64_t n) { return (n + kPanelChannels - 1) / kPanelChannels; }
[[nodiscard]] constexpr std::int64_t blocks(std::int64_t k) { return (k + kBlockWeights - 1) / kBlockWeights; }
[[nodiscard]] constexpr std::int64_t row_bytes(std::int64_t k) { return (k + 3) / 4; }
[[nodiscard]] constexpr std::int64_t packed_bytes(std::int64_t n, std::int64_t k) {
  return panels(n) * blocks(k) * kBlockBytes;
}

// The first row whose codes are unusable (a code 3, or padding that is not code 1), or -1.
[[nodiscard]] std::int64_t first_bad_row(const std::uint8_t* codes, std::int64_t n, std::int64_t k) noexcept;

// codes: N x row_bytes(K), checked by first_bad_row.  packed: packed_bytes(N, K), no alignment needed.
void pack(const std::uint8_t* codes, std::int64_t n, std::int64_t k, std::uint8_t* packed) noexcept;

}  // namespace baker::p64
