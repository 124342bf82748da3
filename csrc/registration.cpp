// Registers the operators with torch, through its stable ABI.
#include <torch/csrc/stable/library.h>

#include "linear_attention/operators.h"

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
