// latent_projection on the CPU: one pass where a row stays in the cache between its two uses, else two.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <vector>

#include "common/launch.h"
#include "latent_projection/latent_projection.h"

namespace fastunlearn::latent_projection {
namespace {

// A row of this many elements and what is shared by all rows fit the second-level cache.
constexpr int64_t cached_columns = 65536;
// Longer rows are cut here; the part of the target that belongs to a block serves all rows.
constexpr int64_t block_columns = 8192;
// What passes through a buffer on its way around the caches.
constexpr int64_t tile_columns = 512;
// Independent sums in a fixed order: what the compiler turns into vectors.
constexpr int lanes = 32;

// Short runs are summed in the arithmetic type, their sums in double.
template <typename T>
FASTUNLEARN_CLONES double dot(const T* z, const T* target, int64_t n) {
  using Acc = accumulate_t<T>;
  constexpr int64_t run = 16 * lanes;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += run) {
    const int64_t end = std::min(n, begin + run);
    Acc sums[lanes] = {};
    int64_t i = begin;
    for (; i + lanes <= end; i += lanes) {
      for (int lane = 0; lane < lanes; ++lane) {
        sums[lane] += static_cast<Acc>(z[i + lane]) * static_cast<Acc>(target[i + lane]);
      }
    }
    for (int lane = 0; i < end; ++i, ++lane) sums[lane] += static_cast<Acc>(z[i]) * static_cast<Acc>(target[i]);
    for (int half = lanes / 2; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
    }
    total += sums[0];
  }
  return total;
}

template <typename T>
FASTUNLEARN_CLONES void subtract(const T* __restrict z, const T* __restrict target, T* __restrict out, int64_t n,
                                 double step) {
  for (int64_t i = 0; i < n; ++i) out[i] = shifted(z[i], target[i], step);
}

template <typename T>
class Run {
 public:
  Run(const Arguments& arguments, double norm)
      : z_(static_cast<const T*>(arguments.z.const_data_ptr())),
        target_(static_cast<const T*>(arguments.target.const_data_ptr())),
        out_(static_cast<T*>(arguments.shifted.mutable_data_ptr())),
        projection_(static_cast<accumulate_t<T>*>(arguments.projection.mutable_data_ptr())),
        mask_(static_cast<bool*>(arguments.mask.mutable_data_ptr())),
        rows_(arguments.rows),
        columns_(arguments.columns),
        rule_(arguments.rule.rounded<accumulate_t<T>>()),
        norm_(norm),
        stream_(columns_ >= tile_columns && streams(rows_ * columns_ * sizeof(T))) {}

  void row_by_row() const {
    parallel_range(rows_, columns_, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        write(row, 0, columns_, finish_row(row, dot(z_ + row * columns_, target_, columns_)));
      }
      if (stream_) end_streams();
    });
  }

  void block_by_block() const {
    const int64_t blocks = (columns_ + block_columns - 1) / block_columns;
    std::vector<double> parts(rows_ * blocks), steps(rows_);
    for_blocks(blocks, [&](int64_t block, int64_t begin, int64_t end) {
      for (int64_t row = 0; row < rows_; ++row) {
        parts[row * blocks + block] = dot(z_ + row * columns_ + begin, target_ + begin, end - begin);
      }
    });
    for (int64_t row = 0; row < rows_; ++row) {
      double sum = 0;
      for (int64_t block = 0; block < blocks; ++block) sum += parts[row * blocks + block];
      steps[row] = finish_row(row, sum);
    }
    for_blocks(blocks, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t row = 0; row < rows_; ++row) write(row, begin, end, steps[row]);
      if (stream_) end_streams();
    });
  }

 private:
  template <typename Body>
  void for_blocks(int64_t blocks, const Body& body) const {
    parallel_range(blocks, rows_ * block_columns, [&](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block) {
        body(block, block * block_columns, std::min(columns_, (block + 1) * block_columns));
      }
    });
  }

  // Stores what is known of a row once its product with the target is; the step to take.
  double finish_row(int64_t row, double product) const {
    // As stored, so that the mask says what a caller finds who compares the projection.
    const double projection = projection_[row] = static_cast<accumulate_t<T>>(product / norm_);
    mask_[row] = projection >= rule_.threshold;
    return rule_.step(projection, norm_);
  }

  void write(int64_t row, int64_t begin, int64_t end, double step) const {
    const T* from = z_ + row * columns_ + begin;
    T* to = out_ + row * columns_ + begin;
    const int64_t bytes = (end - begin) * sizeof(T);
    if (!stream_) {
      step == 0 ? static_cast<void>(std::memcpy(to, from, bytes))
                : subtract(from, target_ + begin, to, end - begin, step);
      return;
    }
    if (step == 0) {
      stream(from, to, bytes);
    } else {
      T tile[tile_columns];
      for (int64_t i = begin; i < end; i += tile_columns) {
        const int64_t n = std::min(tile_columns, end - i);
        subtract(from + (i - begin), target_ + i, tile, n, step);
        stream(tile, to + (i - begin), n * sizeof(T));
      }
    }
  }

  const T *z_, *target_;
  T* out_;
  accumulate_t<T>* projection_;
  bool* mask_;
  int64_t rows_, columns_;
  Rule rule_;
  double norm_;
  bool stream_;
};

std::tuple<Tensor, Tensor, Tensor> latent_projection_cpu(const Tensor& z, const Tensor& target, const Tensor& norm,
                                                         double threshold, double margin, bool along_unit) {
  const Arguments arguments(z, target, norm, {threshold, margin, along_unit});
  dispatch_floating(z.scalar_type(), "latent_projection", [&](auto zero) {
    const Run<decltype(zero)> run(arguments, *static_cast<const double*>(norm.const_data_ptr()));
    arguments.columns <= cached_columns ? run.row_by_row() : run.block_by_block();
  });
  return {arguments.shifted, arguments.projection, arguments.mask};
}

}  // namespace
}  // namespace fastunlearn::latent_projection

STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CPU, m) {
  m.impl("latent_projection", TORCH_BOX(&fastunlearn::latent_projection::latent_projection_cpu));
}
