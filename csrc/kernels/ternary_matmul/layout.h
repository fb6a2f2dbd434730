// Which form packed weights take in memory.
#pragma once

#include <cstdint>

#include "kernels/ternary_matmul/ternary_matmul.h"

namespace baker::ternary {

// P80 (1.6 bits) for a layer that will stream from DRAM, where fewer bytes are less time; P64 (2 bits) for one that
// stays in the cache, where decoding costs more than it saves. A layer streams if the packed weights that this process
// holds, this layer's among them, fill more than half of the last-level cache: the other half is everybody else's.
// Codes that are held already, for another layer or session, take no further room: they keep the form that they have.
// P64 also where the variant has no P80 kernel, or scale groups pad P80 to more than 0.9 of P64's bytes.
//
// The environment variable BAKER_TERNARY_LAYOUT decides instead: "2" or "1.6", as far as the variant can. Both give the
// same bits of y. Throws std::invalid_argument for another value.
[[nodiscard]] Layout choose_layout(const Variant& variant, const Layer& layer);

}  // namespace baker::ternary
