#include "common/p80.h"

#include <cstring>

#include "common/p64.h"

namespace baker::p80 {
namespace {

// The byte that holds weights first, first + 4, ..., first + 16 of a row, as far as they lie before end.
std::uint8_t byte_of(const std::uint8_t* row, std::int64_t first, std::int64_t end) noexcept {
  unsigned value = 0, power = 1;
  for (std::int64_t j = 0; j < kBlockQuads; ++j, power *= 3) {
    const std::int64_t at = first + 4 * j;
    if (at < end) value += (row[at / 4] >> (2 * (at % 4)) & 3U) * power;
  }
  return static_cast<std::uint8_t>(value);
}

}  // namespace

std::int64_t panel_bytes(std::int64_t k, std::int64_t group) noexcept {
  const std::int64_t padded = p64::blocks(k) * p64::kBlockWeights;  // activations come in blocks of 16
  const std::int64_t whole = padded / group, rest = padded % group;
  return (whole * blocks(group) + blocks(rest)) * p64::kBlockBytes;
}

void pack_panel(const std::uint8_t* codes, std::int64_t channels, std::int64_t k, std::int64_t group,
                std::uint8_t* packed) noexcept {
  const std::int64_t padded = p64::blocks(k) * p64::kBlockWeights;
  std::memset(packed, 0, static_cast<std::size_t>(panel_bytes(k, group)));
  for (std::int64_t channel = 0; channel < channels; ++channel) {
    const std::uint8_t* row = codes + channel * p64::row_bytes(k);
    std::uint8_t* out = packed + 4 * channel;
    for (std::int64_t begin = 0; begin < padded; begin += group) {
      const std::int64_t end = begin + group < padded ? begin + group : padded;
      for (std::int64_t at = begin; at < end; at += kBlockWeights, out += p64::kBlockBytes) {
        for (std::int64_t b = 0; b < 4; ++b) out[b] = byte_of(row, at + b, end < k ? end : k);
      }
    }
  }
}

}  // namespace baker::p80
