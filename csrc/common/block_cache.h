// Large results on the CPU, in memory that earlier ones have left.
//
// An allocator takes a block of many megabytes fresh from the system and gives it back when it is freed. The first
// write to each of its 4 KB pages is then a fault that costs more than the write, in a virtual machine whose host takes
// freed pages back, ten times more. Blocks that are kept cost nothing of that, and they can have pages of 2 MB.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

// Memory that is reused hides from AddressSanitizer what it looks for.
#if __has_include(<sys/mman.h>) && !defined(__SANITIZE_ADDRESS__)
#include <pthread.h>
#include <sys/mman.h>
#define FASTUNLEARN_KEEPS_BLOCKS 1
#else
#define FASTUNLEARN_KEEPS_BLOCKS 0
#endif

#if FASTUNLEARN_KEEPS_BLOCKS
// Since PyTorch 2.11. In an older one it is null, and results stay where the allocator puts them.
extern "C" AOTITorchError torch_from_blob(void* data, int64_t ndim, const int64_t* sizes, const int64_t* strides,
                                          int64_t storage_offset, int32_t dtype, int32_t device_type,
                                          int32_t device_index, AtenTensorHandle* result, int32_t layout,
                                          const uint8_t* opaque_metadata, int64_t opaque_metadata_size,
                                          void (*deleter)(void* data, void* context), void* context);
#pragma weak torch_from_blob
#endif

namespace fastunlearn {

#if FASTUNLEARN_KEEPS_BLOCKS
class BlockCache {
 public:
  static constexpr size_t smallest = size_t{1} << 20, most_kept = size_t{1} << 30;

  // The process's. It is never destroyed, since tensors may outlive everything static.
  static BlockCache& shared() {
    static BlockCache* cache = [] {
      // A child that is forked while another thread holds the lock would wait for it for ever.
      pthread_atfork([] { mutex().lock(); }, [] { mutex().unlock(); }, [] { mutex().unlock(); });
      return new BlockCache;
    }();
    return *cache;
  }

  // At least `bytes` uninitialised ones from the start of a 2 MB page on; null if there are none.
  void* take(size_t bytes) {
    const size_t size = rounded(bytes);
    {
      const std::lock_guard<std::mutex> lock(mutex());
      for (size_t i = blocks_.size(); i-- > 0;) {  // what was used last is nearest to the core
        if (blocks_[i].size == size) return remove(i).data;
      }
    }
    return map(size);
  }

  // Keeps a block of take(bytes), up to `most_kept` in all. Its pages are the system's as soon as it needs them.
  void give_back(void* data, size_t bytes) {
    const size_t size = rounded(bytes);
#if defined(MADV_FREE)
    madvise(data, size, MADV_FREE);
#endif
    {
      const std::lock_guard<std::mutex> lock(mutex());
      blocks_.push_back({data, size});
      kept_ += size;
    }
    release(most_kept);
  }

  // Gives blocks to the system, the oldest first, until no more than `most` bytes are kept; returns how many it gave.
  size_t release(size_t most) {
    size_t released = 0;
    const std::lock_guard<std::mutex> lock(mutex());
    while (kept_ > most) {
      const Block block = remove(0);
      munmap(block.data, block.size);
      released += block.size;
    }
    return released;
  }

 private:
  struct Block {
    void* data;
    size_t size;
  };

  static std::mutex& mutex() {
    static auto* mutex = new std::mutex;
    return *mutex;
  }

  // A block fits every request of its size; with four significant bits sizes are few, and at most an eighth is unused.
  static size_t rounded(size_t bytes) {
    size_t step = 4096;
    while (bytes > 16 * step) step *= 2;
    return (bytes + step - 1) / step * step;
  }

  static void* map(size_t size) {
    constexpr size_t huge = size_t{2} << 20;
    void* mapped = mmap(nullptr, size + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    auto* begin = static_cast<char*>(mapped);
    const size_t before = (huge - reinterpret_cast<uintptr_t>(begin) % huge) % huge;
    if (before > 0) munmap(begin, before);
    munmap(begin + before + size, huge - before);
#if defined(MADV_HUGEPAGE)
    madvise(begin + before, size / huge * huge, MADV_HUGEPAGE);
#endif
    return begin + before;
  }

  Block remove(size_t i) {
    const Block block = blocks_[i];
    blocks_.erase(blocks_.begin() + i);
    kept_ -= block.size;
    return block;
  }

  std::vector<Block> blocks_;  // the oldest first
  size_t kept_ = 0;
};
#endif

// `fresh`, which nobody has written to, or if it is large a tensor of its form in memory that has been used before.
inline torch::stable::Tensor in_used_memory(torch::stable::Tensor fresh) {
#if FASTUNLEARN_KEEPS_BLOCKS
  const size_t bytes = fresh.numel() * fresh.element_size();
  if (!fresh.is_cpu() || bytes < BlockCache::smallest || torch_from_blob == nullptr) return fresh;
  int32_t dtype, layout;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(fresh.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(fresh.get(), &layout));
  void* data = BlockCache::shared().take(bytes);
  if (data == nullptr) return fresh;
  const auto give_back = [](void* block, void* size) {
    BlockCache::shared().give_back(block, reinterpret_cast<size_t>(size));
  };
  AtenTensorHandle result;
  TORCH_ERROR_CODE_CHECK(torch_from_blob(data, fresh.dim(), fresh.sizes().data(), fresh.strides().data(), 0, dtype,
                                         aoti_torch_device_type_cpu(), fresh.get_device_index(), &result, layout,
                                         nullptr, 0, give_back, reinterpret_cast<void*>(bytes)));
  return torch::stable::Tensor(result);
#else
  return fresh;
#endif
}

}  // namespace fastunlearn
