// Runs the threads of a CUDA block as fibers on one CPU thread, blocks in turn.
//
// A fiber runs until it reaches a barrier (of the block or of some lanes of its warp) or returns; then the next one
// runs. A round lets every ready fiber run once, in the chosen order, and then opens the barriers at which everybody
// has arrived. A kernel that lacks a barrier therefore sees other threads too early or too late under some order, and
// its result changes. What differs from a GPU: memory is sequentially consistent, and static shared memory is not fresh
// in the next block (dynamic shared memory is: it starts as NaN).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace fibers {

struct Index3 {
  unsigned x, y, z;
};

enum class Order { forward, backward, shuffled };

// The order for the launches that follow, on this thread; `seed` for shuffled.
void set_order(Order order, unsigned seed = 0);

// Runs `body` once for every thread of every block. Throws what a thread throws; std::runtime_error when threads wait
// for others that cannot come; std::invalid_argument for a grid or block that CUDA would refuse.
void launch(Index3 grid, Index3 block, size_t shared_bytes, const std::function<void()>& body);

// Inside a kernel.
unsigned lane();
void* dynamic_shared();

// What the threads at a barrier of the block voted.
struct Votes {
  int count, all, any;
};
Votes synchronize_block(bool vote = false);

// Waits for the lanes in `mask` and exchanges one word with each; [lane] of the result, which lives until the next
// call.
const uint64_t* synchronize_warp(uint32_t mask, uint64_t word = 0);

}  // namespace fibers

// The coordinates of the thread that runs, under CUDA's own names.
extern thread_local fibers::Index3 threadIdx, blockIdx, blockDim, gridDim;
