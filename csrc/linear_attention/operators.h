// The operators of operators.cu; shapes, dtypes and strides as in seqca/ops/cuda/linear_attention.py.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

namespace seqca {

using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;

std::tuple<Tensors, Tensors> linear_attention_forward(Tensors q, Tensors k, Tensors v, double eps);
std::tuple<Tensors, Tensors, Tensors> linear_attention_backward(Tensors grad, Tensors q, Tensors k, Tensors v,
                                                                Tensors states, double eps);

}  // namespace seqca
