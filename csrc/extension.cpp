// Registers the operators with torch, and the module seqca._C, which says how they were built.
//
// The module is plain Python C API, limited to what every Python from 3.10 on has, so that one file serves them all;
// the pybind11 headers that come with torch refuse to be used beside its stable ABI.
#define Py_LIMITED_API 0x030a0000
#include <Python.h>

#include <torch/csrc/stable/library.h>

#include "build_information.h"
#include "linear_attention.h"

STABLE_TORCH_LIBRARY(seqca_cuda, library) {
  library.def("linear_attention_forward(Tensor[] q, Tensor[] k, Tensor[] v, float eps) -> (Tensor[], Tensor[])");
  library.def(
      "linear_attention_backward(Tensor[] grad, Tensor[] q, Tensor[] k, Tensor[] v, Tensor[] states, float eps) -> "
      "(Tensor[], Tensor[], Tensor[])");
}

STABLE_TORCH_LIBRARY_IMPL(seqca_cuda, CUDA, library) {
  library.impl("linear_attention_forward", TORCH_BOX(&seqca::linear_attention_forward));
  library.impl("linear_attention_backward", TORCH_BOX(&seqca::linear_attention_backward));
}

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "seqca._C", "CUDA C++ operators of seqca, registered as torch.ops.seqca_cuda.", -1,
      nullptr, nullptr, nullptr, nullptr, nullptr};
  PyObject* const module = PyModule_Create(&definition);
  if (module != nullptr) PyModule_AddStringConstant(module, "build_information", SEQCA_BUILD_INFORMATION);
  return module;
}
