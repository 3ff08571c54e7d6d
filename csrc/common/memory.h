// Where the pages of large results on the CPU come from.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastunlearn {

// An allocator takes a block of many megabytes fresh from the system, and the first write to each of its 4 KB pages
// is a fault that costs more than the write. Asking for pages of 2 MB makes that 500 times fewer. It is advice: the
// system may ignore it, or take time to find such a page.
inline torch::stable::Tensor with_huge_pages(torch::stable::Tensor tensor) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = uintptr_t{2} << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.data_ptr());
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t last = (begin + tensor.numel() * tensor.element_size()) / page * page;
  if (tensor.is_cpu() && first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return tensor;
}

}  // namespace fastunlearn
