// Device bodies that ewc_penalty and parameter_repulsion share: Σ f (θ − a)² and scale · f (θ − a) at once.
// A table of pointers travels with the launch, a block works on a fixed piece of one tensor and writes its
// sum to a place of its own, one more block adds the sums in a fixed order: no atomics, no concatenation.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <vector>

#include "common/dtype.h"
#include "ewc_penalty/parameter.h"

namespace fastunlearn::weighted_square {

constexpr int block_threads = 256;
constexpr int64_t block_span = 4096;  // elements of one block
constexpr int table_size = 64;        // keeps the table within the 4 KiB of launch arguments

struct Table {
  int count;
  int first_block[table_size + 1];
  int64_t numel[table_size];
  double weight[table_size];
  const void* param[table_size];
  const void* anchor[table_size];
  const void* fisher[table_size];
  void* grad[table_size];

  int blocks() const { return first_block[count]; }
};

struct TypedTable {
  ScalarType dtype;
  Table table;
};

// All tensors that have elements, in as few tables as their dtypes and number allow.
inline std::vector<TypedTable> make_tables(const std::vector<Parameter>& parameters) {
  std::map<ScalarType, std::vector<const Parameter*>> by_dtype;
  for (const Parameter& parameter : parameters) {
    if (parameter.numel > 0) by_dtype[parameter.dtype].push_back(&parameter);
  }
  std::vector<TypedTable> tables;
  for (const auto& [dtype, group] : by_dtype) {
    for (size_t i = 0; i < group.size(); ++i) {
      if (i % table_size == 0) tables.push_back({dtype, {}});
      Table& table = tables.back().table;
      const Parameter& parameter = *group[i];
      const int t = table.count++;
      table.numel[t] = parameter.numel;
      table.weight[t] = parameter.weight;
      table.param[t] = parameter.param;
      table.anchor[t] = parameter.anchor;
      table.fisher[t] = parameter.fisher;
      table.grad[t] = parameter.grad;
      table.first_block[t + 1] = table.first_block[t] + (parameter.numel + block_span - 1) / block_span;
    }
  }
  return tables;
}

inline int64_t count_blocks(const std::vector<TypedTable>& tables) {
  int64_t blocks = 0;
  for (const TypedTable& typed : tables) blocks += typed.table.blocks();
  return blocks;
}

// The sum over the block, in the first thread; the order of the additions is fixed.
__device__ inline double block_sum(double sum) {
  __shared__ double warps[block_threads / 32];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(0xffffffffu, sum, step);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < block_threads / 32; ++warp) sum += warps[warp];
  }
  return sum;
}

// The tensor of the table that a block belongs to.
__device__ inline int tensor_of_block(const Table& table, int block) {
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (table.first_block[middle] <= block ? low : high) = middle;
  }
  return low;
}

// Where `factor` is given it multiplies `scale`: the slope of a loss that the kernel before this one has finished.
template <typename T, bool WithFisher, bool WithValue, bool WithGrad>
__global__ void __launch_bounds__(block_threads)
    weighted_square_kernel(const Table table, double scale, const double* factor, double* sums) {
  using Acc = accumulate_t<T>;
  const int t = tensor_of_block(table, blockIdx.x);
  const int64_t begin = (static_cast<int>(blockIdx.x) - table.first_block[t]) * block_span;
  const int64_t end = begin + block_span < table.numel[t] ? begin + block_span : table.numel[t];
  const T* param = static_cast<const T*>(table.param[t]);
  const T* anchor = static_cast<const T*>(table.anchor[t]);
  const T* fisher = static_cast<const T*>(table.fisher[t]);
  T* grad = static_cast<T*>(table.grad[t]);
  const Acc by = static_cast<Acc>((factor ? *factor * scale : scale) * table.weight[t]);
  Acc sum = 0;  // of at most block_span / block_threads = 16 terms
  for (int64_t i = begin + threadIdx.x; i < end; i += block_threads) {
    const Acc f = WithFisher ? static_cast<Acc>(fisher[i]) : Acc(1);
    const Acc difference = static_cast<Acc>(param[i]) - static_cast<Acc>(anchor[i]);
    if (WithGrad) grad[i] = static_cast<T>(by * f * difference);
    if (WithValue) sum += f * difference * difference;
  }
  if (WithValue) {
    const double total = block_sum(static_cast<double>(sum));
    if (threadIdx.x == 0) sums[blockIdx.x] = table.weight[t] * total;
  }
}

// One block: the sum of all sums, in the first thread.
__device__ inline double sum_of_sums(const double* sums, int64_t count) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += block_threads) sum += sums[i];
  return block_sum(sum);
}

__device__ inline void store_scalar(void* out, bool is_double, double value) {
  if (is_double) {
    *static_cast<double*>(out) = value;
  } else {
    *static_cast<float*>(out) = static_cast<float>(value);
  }
}

}  // namespace fastunlearn::weighted_square
