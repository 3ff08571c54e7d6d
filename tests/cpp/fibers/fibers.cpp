#include "fibers.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#error "the fibers switch stacks in x86-64 assembly"
#endif

// Pushes the registers that a function must keep, stores the stack pointer in *save, and continues on stack `to`.
extern "C" void fibers_switch(void** save, void* to);
asm(R"(
.text
.globl fibers_switch
.type fibers_switch, @function
fibers_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fibers_switch, .-fibers_switch
)");

thread_local fibers::Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace fibers {
namespace {

constexpr size_t stack_bytes = 64 * 1024;
constexpr unsigned warp_size = 32;
constexpr unsigned max_threads = 1024;

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Fiber {
  State state = State::ready;
  Index3 thread{};
  unsigned lane = 0;
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  void* asan_stack = nullptr;
  bool vote = false;
  Votes votes{};
  uint32_t mask = 0;
  uint64_t word = 0;
  std::array<uint64_t, warp_size> words{};
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<unsigned char> shared;
  const std::function<void()>* body = nullptr;
  Fiber* running = nullptr;
  std::exception_ptr error;
  // The scheduler's own stack, to come back to.
  void* stack_pointer = nullptr;
  void* asan_stack = nullptr;
  const void* stack_bottom = nullptr;
  size_t stack_size = 0;
};

thread_local Block* current = nullptr;
thread_local Order chosen_order = Order::forward;
thread_local unsigned chosen_seed = 0;

// AddressSanitizer must be told of every change of stacks; `keep` holds its data of the stack that is left.
void announce_switch([[maybe_unused]] void** keep, [[maybe_unused]] const void* bottom, [[maybe_unused]] size_t size) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(keep, bottom, size);
#endif
}

void complete_switch([[maybe_unused]] void* kept, [[maybe_unused]] const void** bottom, [[maybe_unused]] size_t* size) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(kept, bottom, size);
#endif
}

void resume(Block& block, Fiber& fiber) {
  block.running = &fiber;
  threadIdx = fiber.thread;
  announce_switch(&block.asan_stack, fiber.stack, stack_bytes);
  fibers_switch(&block.stack_pointer, fiber.stack_pointer);
  complete_switch(block.asan_stack, nullptr, nullptr);
}

void yield_to_scheduler(bool for_ever = false) {
  Block& block = *current;
  Fiber& fiber = *block.running;
  announce_switch(for_ever ? nullptr : &fiber.asan_stack, block.stack_bottom, block.stack_size);
  fibers_switch(&fiber.stack_pointer, block.stack_pointer);
  complete_switch(fiber.asan_stack, &block.stack_bottom, &block.stack_size);
}

// The first and last function on a fiber's stack.
void fiber_main() {
  Block& block = *current;
  complete_switch(nullptr, &block.stack_bottom, &block.stack_size);
  try {
    (*block.body)();
  } catch (...) {
    block.error = std::current_exception();
  }
  block.running->state = State::done;
  yield_to_scheduler(/*for_ever=*/true);
}

// A stack that fibers_switch can continue on: six registers to pop, then fiber_main as the address to return to.
void prepare(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(fiber.stack, stack_bytes);
#endif
  auto top = reinterpret_cast<uintptr_t>(fiber.stack + stack_bytes) & ~uintptr_t{15};
  void** pointer = reinterpret_cast<void**>(top);
  *--pointer = nullptr;  // keeps the stack aligned as after a call
  *--pointer = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < 6; ++i) *--pointer = nullptr;
  fiber.stack_pointer = pointer;
  fiber.state = State::ready;
  fiber.asan_stack = nullptr;
}

// Opens the block's barrier once every thread has arrived.
bool open_block_barrier(Block& block) {
  const auto waits = [](const Fiber& fiber) { return fiber.state == State::at_block_barrier; };
  if (!std::all_of(block.fibers.begin(), block.fibers.end(), waits)) return false;
  Votes votes{0, 1, 0};
  for (const Fiber& fiber : block.fibers) {
    votes.count += fiber.vote;
    votes.all &= fiber.vote;
    votes.any |= fiber.vote;
  }
  for (Fiber& fiber : block.fibers) {
    fiber.votes = votes;
    fiber.state = State::ready;
  }
  return true;
}

// Opens each barrier of the warp starting at `first` whose lanes have all arrived with the same mask.
bool open_warp_barriers(Block& block, size_t first) {
  const size_t lanes = std::min<size_t>(warp_size, block.fibers.size() - first);
  bool opened = false;
  for (size_t leader = 0; leader < lanes; ++leader) {
    const Fiber& fiber = block.fibers[first + leader];
    if (fiber.state != State::at_warp_barrier) continue;
    const uint32_t mask = fiber.mask;
    std::array<uint64_t, warp_size> words{};
    bool complete = true;
    for (size_t lane = 0; lane < lanes; ++lane) {
      if (!(mask >> lane & 1)) continue;
      const Fiber& other = block.fibers[first + lane];
      complete = complete && other.state == State::at_warp_barrier && other.mask == mask;
      words[lane] = other.word;
    }
    if (!complete) continue;
    for (size_t lane = 0; lane < lanes; ++lane) {
      if (!(mask >> lane & 1)) continue;
      block.fibers[first + lane].words = words;
      block.fibers[first + lane].state = State::ready;
    }
    opened = true;
  }
  return opened;
}

[[noreturn]] void report_deadlock(const Block& block) {
  size_t at_block = 0, at_warp = 0, done = 0;
  for (const Fiber& fiber : block.fibers) {
    at_block += fiber.state == State::at_block_barrier;
    at_warp += fiber.state == State::at_warp_barrier;
    done += fiber.state == State::done;
  }
  throw std::runtime_error("deadlock: of " + std::to_string(block.fibers.size()) + " threads " +
                           std::to_string(at_block) + " wait at __syncthreads, " + std::to_string(at_warp) +
                           " for lanes of their warp, " + std::to_string(done) + " have returned");
}

void run_block(Block& block, std::vector<unsigned>& turn, std::mt19937& random) {
  std::fill(block.shared.begin(), block.shared.end(), 0xff);
  for (Fiber& fiber : block.fibers) prepare(fiber);
  const auto is_done = [](const Fiber& fiber) { return fiber.state == State::done; };
  while (!std::all_of(block.fibers.begin(), block.fibers.end(), is_done)) {
    if (chosen_order == Order::shuffled) std::shuffle(turn.begin(), turn.end(), random);
    bool progress = false;
    for (const unsigned i : turn) {
      if (block.fibers[i].state != State::ready) continue;
      resume(block, block.fibers[i]);
      if (block.error) std::rethrow_exception(block.error);
      progress = true;
    }
    for (size_t first = 0; first < block.fibers.size(); first += warp_size) {
      progress = open_warp_barriers(block, first) || progress;
    }
    progress = open_block_barrier(block) || progress;
    if (!progress) report_deadlock(block);
  }
}

}  // namespace

void set_order(Order order, unsigned seed) {
  chosen_order = order;
  chosen_seed = seed;
}

void launch(Index3 grid, Index3 size, size_t shared_bytes, const std::function<void()>& body) {
  const uint64_t threads = uint64_t{size.x} * size.y * size.z;
  if (threads == 0 || threads > max_threads || size.z > 64) throw std::invalid_argument("block of a size CUDA refuses");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
    throw std::invalid_argument("grid of a size CUDA refuses");
  }
  if (current != nullptr) throw std::logic_error("a kernel launched a kernel");

  static thread_local const std::unique_ptr<char[]> stacks(new char[max_threads * stack_bytes]);
  Block block;
  block.body = &body;
  block.shared.resize(shared_bytes);
  block.fibers.resize(threads);
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = block.fibers[i];
    fiber.thread = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    fiber.lane = i % warp_size;
    fiber.stack = stacks.get() + i * stack_bytes;
  }
  std::vector<unsigned> turn(threads);
  std::iota(turn.begin(), turn.end(), 0u);
  if (chosen_order == Order::backward) std::reverse(turn.begin(), turn.end());
  std::mt19937 random(chosen_seed);

  struct Current {
    explicit Current(Block* block) { current = block; }
    ~Current() { current = nullptr; }
  } scope(&block);
  gridDim = grid;
  blockDim = size;
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) run_block(block, turn, random);
    }
  }
}

unsigned lane() {
  return current->running->lane;
}
void* dynamic_shared() {
  return current->shared.data();
}

Votes synchronize_block(bool vote) {
  Fiber& fiber = *current->running;
  fiber.vote = vote;
  fiber.state = State::at_block_barrier;
  yield_to_scheduler();
  return fiber.votes;
}

const uint64_t* synchronize_warp(uint32_t mask, uint64_t word) {
  Fiber& fiber = *current->running;
  if (!(mask >> fiber.lane & 1)) throw std::runtime_error("a lane calls a warp operation whose mask leaves it out");
  fiber.mask = mask;
  fiber.word = word;
  fiber.state = State::at_warp_barrier;
  yield_to_scheduler();
  return fiber.words.data();
}

}  // namespace fibers
