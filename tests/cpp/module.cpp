// The Python module `fastunlearn_fibers`: importing it registers the CUDA half of every op (csrc/*/*_cuda.cu, compiled
// as C++) on CPU tensors, in the namespace of that name. Python defines the schemas first.
#include <pybind11/pybind11.h>

#include "fibers/fibers.h"

PYBIND11_MODULE(fastunlearn_fibers, m) {
  pybind11::enum_<fibers::Order>(m, "Order")
      .value("forward", fibers::Order::forward)
      .value("backward", fibers::Order::backward)
      .value("shuffled", fibers::Order::shuffled);
  m.def("set_order", &fibers::set_order, pybind11::arg("order"), pybind11::arg("seed") = 0);
}
