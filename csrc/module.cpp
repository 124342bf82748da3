// The module seqca._C, which says how it was built. Loading it registers the operators.
//
// pybind11 comes with torch, whose copy may refuse to be read where the stable ABI is asked for; this file needs no
// torch, hence neither ABI, and is apart from registration.cpp, which does.
#undef TORCH_TARGET_VERSION
#include <pybind11/pybind11.h>

#include "build_information.h"

PYBIND11_MODULE(_C, module) {
  module.doc() = "CUDA C++ operators of seqca, registered as torch.ops.seqca_cuda.";
  module.attr("build_information") = SEQCA_BUILD_INFORMATION;
}
