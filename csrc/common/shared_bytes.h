// Packed weights that are equal are held once: layers that read one initializer, and sessions of one model, pack it
// each for itself, and N copies of a weight would be N times the memory and fall out of the cache that one copy fits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "common/buffer.h"

namespace baker {

using SharedBytes = std::shared_ptr<const std::uint8_t[]>;

// bytes, or an equal array that somebody in this process holds already; compared byte for byte, so that no hash
// decides. origin: what is_held() will be asked for. Freed with its last holder. Any thread may call. Throws
// std::bad_alloc.
[[nodiscard]] SharedBytes share(Buffer<std::uint8_t> bytes, std::size_t size, std::uint64_t origin);

// Whether somebody holds an array that share() gave out for this origin.
[[nodiscard]] bool is_held(std::uint64_t origin);

// A hash of bytes: equal ones have the same, others hardly ever.
[[nodiscard]] std::uint64_t fingerprint(const std::uint8_t* bytes, std::size_t size) noexcept;

// Bytes of all arrays that share() gave out and somebody still holds.
[[nodiscard]] std::size_t shared_total() noexcept;

}  // namespace baker
