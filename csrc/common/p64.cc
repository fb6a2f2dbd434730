#include "common/p64.h"

#include <array>
#include <cstring>

namespace baker::p64 {
namespace {

constexpr std::uint8_t kZeros = 0x55;  // four times code 1

// spread[v]: field b of byte v in byte b.
constexpr std::array<std::uint32_t, 256> make_spread() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t v = 0; v < 256; ++v) {
    table[v] = (v & 3U) | ((v >> 2U) & 3U) << 8U | ((v >> 4U) & 3U) << 16U | ((v >> 6U) & 3U) << 24U;
  }
  return table;
}

constexpr std::array<std::uint32_t, 256> kSpread = make_spread();

void store_word(std::uint32_t word, std::uint8_t* out) noexcept {
  for (int b = 0; b < 4; ++b) out[b] = static_cast<std::uint8_t>(word >> (8 * b));  // little endian by construction
}

void pack_channel(const std::uint8_t* row, std::int64_t k, std::uint8_t* out) noexcept {
  const std::int64_t bytes = row_bytes(k);
  for (std::int64_t block = 0; block < blocks(k); ++block) {
    std::uint32_t word = 0;
    for (std::int64_t j = 0; j < 4; ++j) {
      const std::int64_t at = 4 * block + j;
      word |= kSpread[at < bytes ? row[at] : kZeros] << (2 * j);
    }
    store_word(word, out + block * kBlockBytes);
  }
}

}  // namespace

std::int64_t first_bad_row(const std::uint8_t* codes, std::int64_t n, std::int64_t k) noexcept {
  const std::int64_t bytes = row_bytes(k);
  const auto padding = static_cast<std::uint8_t>(k % 4 == 0 ? 0 : 0xFF << (2 * (k % 4)));
  for (std::int64_t row = 0; row < n; ++row) {
    const std::uint8_t* at = codes + row * bytes;
    unsigned threes = 0;
    for (std::int64_t i = 0; i < bytes; ++i) threes |= at[i] & (at[i] >> 1U) & 0x55U;
    if (threes != 0 || (at[bytes - 1] & padding) != (kZeros & padding)) return row;
  }
  return -1;
}

void pack(const std::uint8_t* codes, std::int64_t n, std::int64_t k, std::uint8_t* packed) noexcept {
  const std::int64_t panel_bytes = blocks(k) * kBlockBytes;
  for (std::int64_t channel = 0; channel < panels(n) * kPanelChannels; ++channel) {
    std::uint8_t* out = packed + channel / kPanelChannels * panel_bytes + channel % kPanelChannels * 4;
    if (channel < n) {
      pack_channel(codes + channel * row_bytes(k), k, out);
      continue;
    }
    for (std::int64_t block = 0; block < blocks(k); ++block) std::memset(out + block * kBlockBytes, kZeros, 4);
  }
}

}  // namespace baker::p64
