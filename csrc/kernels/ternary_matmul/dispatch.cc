// Which variant runs: the best that this CPU has, or the one BAKER_ISA names (tests compare variants that way).
#include <cstdlib>
#include <stdexcept>

#include "common/cpu.h"
#include "kernels/ternary_matmul/ternary_matmul.h"

namespace baker::ternary {
namespace {

struct Entry {
  Variant variant;
  bool runs_here;
};

// Best first.
const std::vector<Entry>& entries() {
  const CpuFeatures& cpu = cpu_features();
  static const std::vector<Entry> all = {
#if defined(__x86_64__)
      {{"avx512vbmi", kAvx512Rows, kAvx512VnniProducts, kAvx512VbmiP80, {}}, cpu.avx512_vbmi},
      {{"avx512vnni", kAvx512Rows, kAvx512VnniProducts, {}, {}}, cpu.avx512_vnni},
#if defined(BAKER_AVXVNNI)
      {{"avxvnni", kAvx2Rows, kAvxVnniProducts, {}, kAvx2Tables}, cpu.avx_vnni},
#endif
      {{"avx2", kAvx2Rows, kAvx2Products, {}, kAvx2Tables}, cpu.avx2},
#elif defined(__aarch64__)
      {{"neondotprod", kNeonRows, kNeonDotprodProducts, {}, {}}, cpu.neon_dotprod},
      {{"neon", kNeonRows, kNeonProducts, {}, {}}, cpu.neon},
#endif
      {{"scalar", kScalarRows, kScalarProducts, kScalarP80, {}}, true},
  };
  return all;
}

}  // namespace

std::vector<const Variant*> available_variants() {
  std::vector<const Variant*> found;
  for (const Entry& entry : entries()) {
    if (entry.runs_here) found.push_back(&entry.variant);
  }
  return found;
}

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  for (const Entry& entry : entries()) names.emplace_back(entry.variant.isa);
  return names;
}

const Variant& select_variant(const std::string& isa) {
  const char* override_name = std::getenv("BAKER_ISA");
  const bool overridden = isa == "auto" && override_name != nullptr && *override_name != '\0';
  const std::string name = overridden ? override_name : isa;
  const std::vector<const Variant*> variants = available_variants();
  if (name == "auto") return *variants.front();
  std::string choices;
  for (const Variant* variant : variants) {
    if (name == variant->isa) return *variant;
    choices += std::string(choices.empty() ? "" : ", ") + variant->isa;
  }
  throw std::invalid_argument(std::string(overridden ? "BAKER_ISA" : "isa") + " is '" + name + "'; this CPU runs " +
                              choices);
}

}  // namespace baker::ternary
