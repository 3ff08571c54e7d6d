// Must fail under AddressSanitizer: a kernel that writes one element behind its buffer.
#include <cuda_runtime.h>

#include <vector>

namespace {

__global__ void fill_kernel(float* out, int n) {
  if (static_cast<int>(threadIdx.x) <= n) out[threadIdx.x] = 1;
}

}  // namespace

int main() {
  std::vector<float> out(33);
  out.shrink_to_fit();
  const cudaLaunchConfig_t config{1, 64, 0, nullptr};
  cudaLaunchKernelEx(&config, fill_kernel, out.data(), 33);
}
