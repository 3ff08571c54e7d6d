// Any number of tensors for a CUDA kernel: a table of pointers travels with the launch, and a block works on a fixed
// piece of one tensor. No concatenation.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <vector>

#include "common/dtype.h"
#include "common/parameter.h"

namespace fastunlearn {

constexpr int block_threads = 256;
constexpr int64_t block_span = 4096;  // elements of one block
constexpr int table_size = 64;        // keeps the table within the 4 KiB of launch arguments

struct ParameterTable {
  int count;
  int first_block[table_size + 1];
  int64_t numel[table_size];
  double weight[table_size];
  const void* param[table_size];
  const void* anchor[table_size];
  const void* fisher[table_size];
  void* result[table_size];

  int blocks() const { return first_block[count]; }
};

struct TypedTable {
  ScalarType dtype;
  ParameterTable table;
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
      ParameterTable& table = tables.back().table;
      const Parameter& parameter = *group[i];
      const int t = table.count++;
      table.numel[t] = parameter.numel;
      table.weight[t] = parameter.weight;
      table.param[t] = parameter.param;
      table.anchor[t] = parameter.anchor;
      table.fisher[t] = parameter.fisher;
      table.result[t] = parameter.result;
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

// The elements [begin, end) of tensor t.
struct Piece {
  int t;
  int64_t begin, end;
};

// The piece that a block works on.
__device__ inline Piece piece_of_block(const ParameterTable& table, int block) {
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (table.first_block[middle] <= block ? low : high) = middle;
  }
  const int64_t begin = (block - table.first_block[low]) * block_span, end = begin + block_span;
  return {low, begin, end < table.numel[low] ? end : table.numel[low]};
}

}  // namespace fastunlearn
