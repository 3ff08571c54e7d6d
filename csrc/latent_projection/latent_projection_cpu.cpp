// latent_projection on the CPU: a row is in a cache when it is read again for its shift, as long as one can hold it.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/launch.h"
#include "common/tiles_cpu.h"
#include "latent_projection/row_sums_cpu.h"

namespace fastunlearn::latent_projection {
namespace {

// A row of this many elements and the target fit the second-level cache.
constexpr int64_t cached_columns = 65536;
// Longer rows are cut here, so that threads share them.
constexpr int64_t block_columns = 8192;
// A row of this size is still in the third-level cache after its product with the target.
constexpr int64_t cached_bytes = int64_t{8} << 20;

template <typename T>
class Run {
  using Acc = accumulate_t<T>;

 public:
  Run(const Arguments& arguments, double norm)
      : z_(static_cast<const T*>(arguments.z.const_data_ptr())),
        target_(static_cast<const T*>(arguments.target.const_data_ptr())),
        out_(static_cast<T*>(arguments.shifted.mutable_data_ptr())),
        projection_(static_cast<Acc*>(arguments.projection.mutable_data_ptr())),
        mask_(static_cast<bool*>(arguments.mask.mutable_data_ptr())),
        rows_(arguments.rows),
        columns_(arguments.columns),
        rule_(arguments.rule.rounded<Acc>()),
        norm_(norm) {}

  void operator()() const {
    if (columns_ <= tile) return batch_by_batch();
    columns_ <= cached_columns ? row_by_row() : block_by_block();
  }

 private:
  // As many short rows as fill a tile, so that no row waits for the sum of another.
  void batch_by_batch() const {
    const int64_t batch = tile / std::max<int64_t>(1, columns_);
    Acc target_buffer[tile];
    const Acc* target = read(target_, 0, columns_, target_buffer);
    parallel_range((rows_ + batch - 1) / batch, batch * columns_, [&](int64_t first, int64_t last) {
      Result<T, Acc> out(out_, rows_ * columns_);
      alignas(64) Acc latents[tile];
      double steps[tile];
      for (int64_t row = first * batch; row < std::min(rows_, last * batch); row += batch) {
        const int64_t n = std::min(batch, rows_ - row), begin = row * columns_, stop = begin + n * columns_;
        const Acc* z = read(z_, begin, stop, latents);
        dots(z, target, n, columns_, steps);
        finish_rows(row, n, steps);
        shift(z, target, steps, out.place(begin), n, columns_);
        out.finish(begin, stop);
      }
    });
  }

  // The product of the next row waits for its reads while the shift of this one waits for its writes.
  void row_by_row() const {
    parallel_range(rows_, columns_, [&](int64_t first, int64_t last) {
      Result<T, Acc> out(out_, rows_ * columns_);
      double step = product(first, 0, columns_);
      for (int64_t row = first; row < last; ++row) {
        finish_rows(row, 1, &step);
        double next = 0;
        for (int64_t i = 0; i < columns_; i += block_columns) {
          const int64_t stop = std::min(i + block_columns, columns_);
          write(out, row, i, stop, step);
          if (row + 1 < last) next += product(row + 1, i, stop);
        }
        step = next;
      }
    });
  }

  // One row after the other, as long as the cache holds one; else all of them at once, so that each part of the target
  // is read once. The parts that were read last are shifted first.
  void block_by_block() const {
    const int64_t blocks = (columns_ + block_columns - 1) / block_columns;
    const int64_t group = columns_ * static_cast<int64_t>(sizeof(T)) <= cached_bytes ? 1 : rows_;
    std::vector<double> parts(group * blocks), steps(group);
    for (int64_t first = 0; first < rows_; first += group) {
      const int64_t cost = group * block_columns;
      const auto end_of = [&](int64_t block) { return std::min(columns_, (block + 1) * block_columns); };
      parallel_range(blocks, cost, [&](int64_t first_block, int64_t last_block) {
        for (int64_t block = first_block; block < last_block; ++block) {
          for (int64_t k = 0; k < group; ++k) {
            parts[k * blocks + block] = product(first + k, block * block_columns, end_of(block));
          }
        }
      });
      for (int64_t k = 0; k < group; ++k) {
        steps[k] = 0;
        for (int64_t block = 0; block < blocks; ++block) steps[k] += parts[k * blocks + block];
      }
      finish_rows(first, group, steps.data());
      parallel_range(blocks, cost, [&](int64_t first_block, int64_t last_block) {
        Result<T, Acc> out(out_, rows_ * columns_);
        for (int64_t block = last_block - 1; block >= first_block; --block) {
          for (int64_t k = 0; k < group; ++k) {
            write(out, first + k, block * block_columns, end_of(block), steps[k]);
          }
        }
      });
    }
  }

  // Of a part of a row with its part of the target.
  double product(int64_t row, int64_t begin, int64_t end) const {
    Acc latents[tile], targets[tile];
    const T* z = z_ + row * columns_;
    double sum = 0;
    for (int64_t i = begin; i < end; i += tile) {
      const int64_t stop = std::min(i + tile, end);
      double part;
      dots(read(z, i, stop, latents), read(target_, i, stop, targets), 1, stop - i, &part);
      sum += part;
    }
    return sum;
  }

  // Stores what is known of rows once their products with the target are, which become the steps to take.
  void finish_rows(int64_t first, int64_t n, double* products) const {
    // Compared as stored, so that the mask says what a caller finds who compares the projection.
    finish(rule_, norm_, products, projection_ + first, mask_ + first, n);
  }

  void write(Result<T, Acc>& out, int64_t row, int64_t begin, int64_t end, double step) const {
    const int64_t start = row * columns_;
    if (step == 0) return out.copy(z_, start + begin, start + end);
#if defined(FASTUNLEARN_AVX512)
    if constexpr (std::is_same_v<T, float>) {
      if (out.past_caches()) {
        return shift_past_caches(z_ + start + begin, target_ + begin, step, out_ + start + begin, end - begin);
      }
    }
#endif
    Acc latents[tile], targets[tile];
    for (int64_t i = begin; i < end; i += tile) {
      const int64_t stop = std::min(i + tile, end);
      const Acc* z = read(z_, start + i, start + stop, latents);
      shift(z, read(target_, i, stop, targets), &step, out.place(start + i), 1, stop - i);
      out.finish(start + i, start + stop);
    }
  }

  const T *z_, *target_;
  T* out_;
  Acc* projection_;
  bool* mask_;
  int64_t rows_, columns_;
  Rule rule_;
  double norm_;
};

std::tuple<Tensor, Tensor, Tensor> latent_projection_cpu(const Tensor& z, const Tensor& target, const Tensor& norm,
                                                         double threshold, double margin, bool along_unit) {
  const Arguments arguments(z, target, norm, {threshold, margin, along_unit});
  dispatch_floating(z.scalar_type(), "latent_projection", [&](auto zero) {
    Run<decltype(zero)>(arguments, *static_cast<const double*>(norm.const_data_ptr()))();
  });
  return {arguments.shifted, arguments.projection, arguments.mask};
}

}  // namespace
}  // namespace fastunlearn::latent_projection

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("latent_projection", TORCH_BOX(&fastunlearn::latent_projection::latent_projection_cpu));
}
