// How work is started: clones and threads on the CPU; device, stream and grid on CUDA.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>

// One wheel for every x86-64: the function is compiled three times (SSE2, AVX2, AVX-512), and the loader picks.
// Belongs on the definition of a function that holds the inner loop; what it calls must be inlined.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__) && \
    !defined(__SANITIZE_ADDRESS__)
#define FASTUNLEARN_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define FASTUNLEARN_CLONES
#endif

// Before a loop whose iterations touch no common element: inputs and outputs are the same memory or apart.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define FASTUNLEARN_NO_DEPENDENCE _Pragma("GCC ivdep")
#elif defined(__clang__)
#define FASTUNLEARN_NO_DEPENDENCE _Pragma("clang loop vectorize(assume_safety)")
#else
#define FASTUNLEARN_NO_DEPENDENCE
#endif

// Before a loop in a kernel whose arrays shall stay in registers.
#if defined(__CUDACC__)
#define FASTUNLEARN_UNROLL _Pragma("unroll")
#else
#define FASTUNLEARN_UNROLL
#endif

namespace fastunlearn {

// Calls body(begin, end) over [0, n), in parallel once there is enough to do: `cost` is the number of elements that
// one index touches. Results must not depend on where the range is cut.
template <typename Body>
void parallel_range(int64_t n, int64_t cost, const Body& body) {
  constexpr int64_t elements_worth_a_thread = 32768;
  const int64_t grain = std::max<int64_t>(1, elements_worth_a_thread / std::max<int64_t>(1, cost));
  if (n <= grain) {
    if (n > 0) body(int64_t{0}, n);
    return;
  }
  torch::stable::parallel_for(0, n, grain, body);
}

}  // namespace fastunlearn

// FASTUNLEARN_FIBERS: the tests compile the .cu files as plain C++, against a cuda_runtime.h that runs threads as
// fibers.
#if defined(__CUDACC__) || defined(FASTUNLEARN_FIBERS)

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <utility>

#ifdef FASTUNLEARN_FIBERS
#define FASTUNLEARN_CUDA_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(fastunlearn_fibers, CPU, m)
#else
#define FASTUNLEARN_CUDA_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(fastunlearn, CUDA, m)
#define FASTUNLEARN_DYNAMIC_SHARED(T, name)                     \
  extern __shared__ unsigned char fastunlearn_dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(fastunlearn_dynamic_shared)

// torch's header declares it only in a CUDA build. Weak, so that the extension also loads beside a CPU torch.
#ifndef USE_CUDA
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);
#endif
#pragma weak aoti_torch_get_current_cuda_stream
#endif

namespace fastunlearn {

// Launches kernels of one op on the current stream of a tensor's device, which is current for this object's lifetime:
//   const CudaLauncher launch("bias_act", x);
//   launch(kernel<T>, grid_for(n, 256), 256, 0, x_pointer, n);
class CudaLauncher {
 public:
#ifdef FASTUNLEARN_FIBERS
  CudaLauncher(const char* op, const torch::stable::Tensor&) : op_(op) {}
#else
  CudaLauncher(const char* op, const torch::stable::Tensor& tensor) : op_(op), guard_(tensor.get_device_index()) {
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, op, ": this PyTorch has no CUDA");
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
#endif

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                  Arguments&&... arguments) const {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream_;
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
    STD_TORCH_CHECK(error == cudaSuccess, op_, ": kernel launch failed: ", cudaGetErrorString(error));
  }

 private:
  const char* op_;
#ifndef FASTUNLEARN_FIBERS
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  cudaStream_t stream_ = nullptr;
};

// Blocks for a grid-stride loop over n items: enough to fill any GPU, and at least one.
inline unsigned grid_for(int64_t n, int64_t per_block) {
  return static_cast<unsigned>(std::clamp<int64_t>((n + per_block - 1) / per_block, 1, 65535));
}

}  // namespace fastunlearn

#endif
