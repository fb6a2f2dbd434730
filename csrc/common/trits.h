// Ternary weights in base 3, five to a byte: the file form of 1.6 bits a weight.
//
//   file  N rows of ceil(K/5) bytes; byte i of a row is the sum over j of (t[5i+j] + 1) * 3^j, at most 242;
//         padding is t = 0, digit 1
#pragma once

#include <cstdint>

namespace baker::trits {

[[nodiscard]] constexpr std::int64_t row_bytes(std::int64_t k) { return (k + 4) / 5; }

// The first row whose bytes are unusable (above 242, or padding that is not digit 1), or -1.
[[nodiscard]] std::int64_t first_bad_row(const std::uint8_t* bytes, std::int64_t n, std::int64_t k) noexcept;

// bytes: N x row_bytes(K), checked by first_bad_row.  codes: N x p64::row_bytes(K), 2-bit codes in p64's file form.
void to_codes(const std::uint8_t* bytes, std::int64_t n, std::int64_t k, std::uint8_t* codes) noexcept;

}  // namespace baker::trits
