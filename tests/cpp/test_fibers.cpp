// The fibers must be right where a GPU is right, and show what a GPU may show only sometimes.
#include <cuda_runtime.h>

#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"

namespace {

constexpr int threads = 96;

const std::vector<std::function<void()>> orders = {
    [] { fibers::set_order(fibers::Order::forward); },
    [] { fibers::set_order(fibers::Order::backward); },
    [] { fibers::set_order(fibers::Order::shuffled, 1); },
    [] { fibers::set_order(fibers::Order::shuffled, 2); },
};

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, Arguments... arguments) {
  const cudaLaunchConfig_t config{grid, block, shared_bytes, nullptr};
  cudaLaunchKernelEx(&config, kernel, arguments...);
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

// Every thread reads what the opposite one wrote.
template <bool has_barrier>
__global__ void reverse_kernel(int* out) {
  __shared__ int shared[threads];
  shared[threadIdx.x] = blockIdx.x * threads + threadIdx.x;
  if (has_barrier) __syncthreads();
  out[blockIdx.x * threads + threadIdx.x] = shared[threads - 1 - threadIdx.x];
}

bool reverses(void (*kernel)(int*)) {
  constexpr int blocks = 3;
  std::vector<int> out(blocks * threads, -1);
  launch(kernel, blocks, threads, 0, out.data());
  bool right = true;
  for (int i = 0; i < blocks * threads; ++i) {
    right = right && out[i] == i / threads * threads + threads - 1 - i % threads;
  }
  return right;
}

void test_barrier_and_its_absence() {
  int noticed = 0;
  for (const auto& set_order : orders) {
    set_order();
    CHECK(reverses(reverse_kernel<true>));
    noticed += !reverses(reverse_kernel<false>);
  }
  CHECK(noticed == static_cast<int>(orders.size()));
}

// A tree sum that forgets the barrier between its levels is right in one order and wrong in another.
template <bool has_barrier>
__global__ void tree_sum_kernel(int* out) {
  __shared__ int shared[64];
  shared[threadIdx.x] = threadIdx.x;
  __syncthreads();
  for (unsigned half = 32; half > 0; half /= 2) {
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    if (has_barrier) __syncthreads();
  }
  if (threadIdx.x == 0) *out = shared[0];
}

void test_orders_disagree_about_a_race() {
  std::vector<int> with, without;
  for (const auto& set_order : orders) {
    set_order();
    int sum = 0;
    launch(tree_sum_kernel<true>, 1, 64, 0, &sum);
    with.push_back(sum);
    launch(tree_sum_kernel<false>, 1, 64, 0, &sum);
    without.push_back(sum);
  }
  CHECK(with == std::vector<int>(orders.size(), 63 * 64 / 2));
  CHECK(without != with);
}

__global__ void coordinates_kernel(int* out) {
  const int in_block = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  out[block * (blockDim.x * blockDim.y * blockDim.z) + in_block] += 1;
}

void test_every_thread_runs_once() {
  std::vector<int> out(2 * 3 * 4 * 5 * 2 * 3, 0);
  launch(coordinates_kernel, dim3(2, 3, 4), dim3(5, 2, 3), 0, out.data());
  CHECK(out == std::vector<int>(out.size(), 1));
}

struct WarpResults {
  int sum, up, down, segment;
  uint32_t odd;
  int any, all, upper_sum;
};

__global__ void warp_kernel(WarpResults* out) {
  constexpr uint32_t everyone = 0xffffffffu;
  const int lane = threadIdx.x % 32;
  WarpResults result{};
  result.sum = lane;
  for (int bits = 16; bits > 0; bits /= 2) result.sum += __shfl_xor_sync(everyone, result.sum, bits);
  result.up = __shfl_up_sync(everyone, lane, 3);
  result.down = __shfl_down_sync(everyone, lane, 3);
  result.segment = __shfl_sync(everyone, lane, 2, 8);
  result.odd = __ballot_sync(everyone, lane % 2);
  result.any = __any_sync(everyone, lane == 7);
  result.all = __all_sync(everyone, lane != 7);
  if (lane >= 16) {
    const uint32_t upper = 0xffff0000u;
    result.upper_sum = lane;
    for (int bits = 8; bits > 0; bits /= 2) result.upper_sum += __shfl_xor_sync(upper, result.upper_sum, bits);
  }
  out[threadIdx.x] = result;
}

void test_warp_operations() {
  for (const auto& set_order : orders) {
    set_order();
    std::vector<WarpResults> out(64);
    launch(warp_kernel, 1, 64, 0, out.data());
    for (int thread = 0; thread < 64; ++thread) {
      const WarpResults& result = out[thread];
      const int lane = thread % 32;
      CHECK(result.sum == 31 * 32 / 2);
      CHECK(result.up == (lane < 3 ? lane : lane - 3));
      CHECK(result.down == (lane > 28 ? lane : lane + 3));
      CHECK(result.segment == lane / 8 * 8 + 2);
      CHECK(result.odd == 0xaaaaaaaau);
      CHECK(result.any == 1 && result.all == 0);
      CHECK(result.upper_sum == (lane >= 16 ? (16 + 31) * 8 : 0));
    }
  }
}

__global__ void votes_kernel(int* out) {
  const int count = __syncthreads_count(threadIdx.x < 5), all = __syncthreads_and(1), any = __syncthreads_or(0);
  out[threadIdx.x] = count * 100 + all * 10 + any;
}

__global__ void atomics_kernel(int* sum, int* largest, int* smallest, int* owner) {
  atomicAdd(sum, static_cast<int>(threadIdx.x));
  atomicMax(largest, static_cast<int>(threadIdx.x));
  atomicMin(smallest, static_cast<int>(threadIdx.x));
  atomicCAS(owner, -1, static_cast<int>(threadIdx.x));
}

void test_votes_and_atomics() {
  std::vector<int> out(threads);
  launch(votes_kernel, 1, threads, 0, out.data());
  CHECK(out == std::vector<int>(threads, 510));
  int sum = 0, largest = -1, smallest = 1000, owner = -1;
  fibers::set_order(fibers::Order::backward);
  launch(atomics_kernel, 2, threads, 0, &sum, &largest, &smallest, &owner);
  CHECK(sum == threads * (threads - 1) && largest == threads - 1 && smallest == 0 && owner == threads - 1);
}

__global__ void shared_kernel(float* out) {
  FASTUNLEARN_DYNAMIC_SHARED(float, buffer);
  out[blockIdx.x] = buffer[3];
  buffer[3] = 1;
}

void test_dynamic_shared_memory_starts_as_nan() {
  float out[2] = {0, 0};
  launch(shared_kernel, 2, 1, 16, out);
  CHECK(out[0] != out[0] && out[1] != out[1]);
}

__global__ void divergent_kernel() {
  if (threadIdx.x < 10) return;
  __syncthreads();
}
__global__ void absent_lane_kernel() {
  if (threadIdx.x < 10) __syncwarp();
}
__global__ void foreign_mask_kernel() {
  __syncwarp(1);
}
__global__ void throwing_kernel() {
  if (threadIdx.x == 40) throw std::runtime_error("from thread 40");
  __syncthreads();
}

void test_errors() {
  CHECK(message_of([] { launch(divergent_kernel, 1, 32, 0); }) ==
        "deadlock: of 32 threads 22 wait at __syncthreads, 0 for lanes of their warp, 10 have returned");
  CHECK(message_of([] { launch(absent_lane_kernel, 1, 32, 0); }) ==
        "deadlock: of 32 threads 0 wait at __syncthreads, 10 for lanes of their warp, 22 have returned");
  CHECK(message_of([] { launch(foreign_mask_kernel, 1, 2, 0); }).find("mask leaves it out") != std::string::npos);
  CHECK(message_of([] { launch(throwing_kernel, 1, 64, 0); }) == "from thread 40");
  CHECK(message_of([] { launch(divergent_kernel, 1, 1025, 0); }) == "block of a size CUDA refuses");
  CHECK(message_of([] { launch(divergent_kernel, dim3(1, 65536), 1, 0); }) == "grid of a size CUDA refuses");
  CHECK(reverses(reverse_kernel<true>));  // and the next launch is unharmed
}

}  // namespace

int main() {
  test_barrier_and_its_absence();
  test_orders_disagree_about_a_race();
  test_every_thread_runs_once();
  test_warp_operations();
  test_votes_and_atomics();
  test_dynamic_shared_memory_starts_as_nan();
  test_errors();
  return report();
}
