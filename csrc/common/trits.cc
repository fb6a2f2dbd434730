#include "common/trits.h"

#include <array>

#include "common/p64.h"

namespace baker::trits {
namespace {

constexpr int kDigits = 5;
constexpr unsigned kLargest = 242;

// The digits of a byte as five 2-bit fields.
constexpr std::array<std::uint16_t, kLargest + 1> make_fields() {
  std::array<std::uint16_t, kLargest + 1> table{};
  for (unsigned byte = 0; byte <= kLargest; ++byte) {
    unsigned rest = byte, fields = 0;
    for (unsigned j = 0; j < kDigits; ++j, rest /= 3) fields |= rest % 3 << (2 * j);
    table[byte] = static_cast<std::uint16_t>(fields);
  }
  return table;
}

constexpr std::array<std::uint16_t, kLargest + 1> kFields = make_fields();

void row_to_codes(const std::uint8_t* row, std::int64_t k, std::uint8_t* codes) noexcept {
  std::uint32_t waiting = 0;
  unsigned bits = 0;
  std::int64_t in = 0;
  for (std::int64_t out = 0; out < p64::row_bytes(k); ++out) {
    if (bits < 8) {  // behind the last byte of the row comes padding
      waiting |= static_cast<std::uint32_t>(in < row_bytes(k) ? kFields[row[in]] : 0x155U) << bits;
      bits += 2 * kDigits;
      ++in;
    }
    codes[out] = static_cast<std::uint8_t>(waiting);
    waiting >>= 8U;
    bits -= 8;
  }
}

}  // namespace

std::int64_t first_bad_row(const std::uint8_t* bytes, std::int64_t n, std::int64_t k) noexcept {
  const std::int64_t count = row_bytes(k), used = k - kDigits * (count - 1);
  for (std::int64_t row = 0; row < n; ++row) {
    const std::uint8_t* at = bytes + row * count;
    bool bad = false;
    for (std::int64_t i = 0; i < count; ++i) bad |= at[i] > kLargest;
    if (bad) return row;
    const unsigned padding = kFields[at[count - 1]] >> (2 * used);
    if (padding != 0x155U >> (2 * used)) return row;
  }
  return -1;
}

void to_codes(const std::uint8_t* bytes, std::int64_t n, std::int64_t k, std::uint8_t* codes) noexcept {
  for (std::int64_t row = 0; row < n; ++row) {
    row_to_codes(bytes + row * row_bytes(k), k, codes + row * p64::row_bytes(k));
  }
}

}  // namespace baker::trits
