#include "common/shared_bytes.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <unordered_map>

namespace baker {
namespace {

struct Held {
  std::weak_ptr<const std::uint8_t[]> bytes;
  std::size_t size;
  std::uint64_t origin;
};

// Never destroyed: a session may outlive the static objects of this library.
struct Registry {
  std::mutex mutex;
  std::unordered_multimap<std::uint64_t, Held> held;
  std::atomic<std::size_t> total{0};
};

Registry& registry() {
  static auto* const one = new Registry;
  return *one;
}

}  // namespace

// FNV-1a over words of 8 bytes, the last one filled up with zeros.
std::uint64_t fingerprint(const std::uint8_t* bytes, std::size_t size) noexcept {
  std::uint64_t hash = 0xCBF29CE484222325U ^ size;
  for (std::size_t at = 0; at < size; at += sizeof(hash)) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes + at, size - at < sizeof(word) ? size - at : sizeof(word));
    hash = (hash ^ word) * 0x100000001B3U;
    hash ^= hash >> 29U;
  }
  return hash;
}

std::size_t shared_total() noexcept { return registry().total.load(); }

bool is_held(std::uint64_t origin) {
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  return std::any_of(all.held.begin(), all.held.end(), [origin](const auto& entry) {
    return entry.second.origin == origin && !entry.second.bytes.expired();
  });
}

SharedBytes share(Buffer<std::uint8_t> bytes, std::size_t size, std::uint64_t origin) {
  const std::uint64_t key = fingerprint(bytes.get(), size);  // only finds candidates
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  auto [at, end] = all.held.equal_range(key);
  while (at != end) {
    SharedBytes found = at->second.bytes.lock();
    if (found == nullptr) {
      at = all.held.erase(at);  // its last holder is gone
      continue;
    }
    if (at->second.size == size && std::memcmp(found.get(), bytes.get(), size) == 0) return found;
    ++at;
  }
  all.total += size;  // before there is a deleter to take it back: making a shared_ptr may throw, and then calls it
  SharedBytes made(bytes.release(), [size, &all](const std::uint8_t* memory) {
    all.total -= size;
    FreeDeleter{}(const_cast<std::uint8_t*>(memory));  // it was made writable
  });
  all.held.emplace(key, Held{made, size, origin});
  return made;
}

}  // namespace baker
