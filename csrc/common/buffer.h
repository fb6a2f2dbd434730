// Memory for weights and scratch: 64-byte aligned, freed by its owner, huge pages asked for where they pay.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace baker {

struct FreeDeleter {
  void operator()(void* memory) const noexcept { std::free(memory); }
};

// An uninitialized array of trivially copyable T.
template <class T>
using Buffer = std::unique_ptr<T[], FreeDeleter>;

// Throws std::bad_alloc. A large weight stream runs on 2 MiB pages: with 4 KiB pages the page walks cost bandwidth.
template <class T>
[[nodiscard]] Buffer<T> make_buffer(std::size_t count) {
  constexpr std::size_t kLine = 64, kHugePage = std::size_t{2} << 20;
  if (count > (~std::size_t{0} - kHugePage) / sizeof(T)) throw std::bad_alloc();
  const std::size_t bytes = count * sizeof(T);
  const std::size_t alignment = bytes >= 2 * kHugePage ? kHugePage : kLine;
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, rounded == 0 ? alignment : rounded);
  if (memory == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  // Only advice: where the kernel has no huge pages, ordinary ones serve.
  if (alignment == kHugePage) static_cast<void>(madvise(memory, rounded, MADV_HUGEPAGE));
#endif
  return Buffer<T>(static_cast<T*>(memory));
}

}  // namespace baker
