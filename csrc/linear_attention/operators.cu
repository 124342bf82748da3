// Linear attention on CUDA: kernels for every number type and class of channels, and the two operators.
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>

#include "operators.h"
#include "plan.h"

namespace seqca {

namespace {

using linear_attention::Entries;
using linear_attention::Kernel;
using linear_attention::Launches;
using linear_attention::Maps;
using linear_attention::Memory;
using linear_attention::resident_blocks;
using torch::headeronly::ScalarType;

template <class S>
__global__ void __launch_bounds__(S::threads, resident_blocks(Kernel::forward_states, S::channels))
    linear_attention_forward_states(const __grid_constant__ Entries entries) {
  extern __shared__ __align__(16) char shared[];
  linear_attention::forward_states<S>(entries, blockIdx.x, shared);
}

template <class S>
__global__ void __launch_bounds__(S::threads, resident_blocks(Kernel::forward_output, S::channels))
    linear_attention_forward_output(const __grid_constant__ Entries entries) {
  extern __shared__ __align__(16) char shared[];
  linear_attention::forward_output<S>(entries, blockIdx.x, shared);
}

template <class S>
__global__ void __launch_bounds__(S::threads, resident_blocks(Kernel::backward_queries, S::channels))
    linear_attention_backward_queries(const __grid_constant__ Entries entries) {
  extern __shared__ __align__(16) char shared[];
  linear_attention::backward_queries<S>(entries, blockIdx.x, shared);
}

template <class S>
__global__ void __launch_bounds__(S::threads, resident_blocks(Kernel::backward_sources, S::channels))
    linear_attention_backward_sources(const __grid_constant__ Entries entries) {
  extern __shared__ __align__(16) char shared[];
  linear_attention::backward_sources<S>(entries, blockIdx.x, shared);
}

template <class S>
auto kernel_and_memory(Kernel kernel) {
  using Result = std::pair<void (*)(Entries), int>;
  switch (kernel) {
    case Kernel::forward_states: return Result{linear_attention_forward_states<S>, Memory<S>::forward_states};
    case Kernel::forward_output: return Result{linear_attention_forward_output<S>, Memory<S>::forward_output};
    case Kernel::backward_queries: return Result{linear_attention_backward_queries<S>, Memory<S>::backward_queries};
    default: return Result{linear_attention_backward_sources<S>, Memory<S>::backward_sources};
  }
}

template <class S>
void launch(Kernel kernel, const Launches& launches, cudaStream_t stream) {
  const auto [function, memory] = kernel_and_memory<S>(kernel);
  STD_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(function),
                                      cudaFuncAttributeMaxDynamicSharedMemorySize, memory));
  for (const linear_attention::Launch& one : launches.all()) {
    STD_TORCH_CHECK(one.blocks < int64_t{1} << 31, "linear_attention: too many leading indices for one grid");
    function<<<static_cast<unsigned>(one.blocks), S::threads, memory, stream>>>(one.entries);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

template <class T>
void launch(Kernel kernel, int channel_class, const Launches& launches, cudaStream_t stream) {
  switch (channel_class) {
    case 18: return launch<Tiling<T, 18>>(kernel, launches, stream);
    case 36: return launch<Tiling<T, 36>>(kernel, launches, stream);
    default: return launch<Tiling<T, 72>>(kernel, launches, stream);
  }
}

void launch(Kernel kernel, ScalarType type, int channel_class, const Launches& launches, cudaStream_t stream) {
  switch (type) {
    case ScalarType::Float: return launch<float>(kernel, channel_class, launches, stream);
    case ScalarType::BFloat16: return launch<bf16>(kernel, channel_class, launches, stream);
    default: return launch<fp16>(kernel, channel_class, launches, stream);
  }
}

Tensor3 describe(const Tensor& tensor) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  return {tensor.const_data_ptr(), {sizes.begin(), sizes.end()}, {strides.begin(), strides.end()}};
}

// A tensor like `like` with other last two sizes, or the same if they are negative.
Tensor empty(const Tensor& like, int64_t rows, int64_t columns, ScalarType type) {
  const auto sizes = like.sizes();
  std::vector<int64_t> shape(sizes.begin(), sizes.end());
  shape[shape.size() - 2] = rows;
  shape[shape.size() - 1] = columns;
  return torch::stable::new_empty(like, shape, type);
}

// What the entries of a call have in common; refuses what kernels could not read safely.
struct Common {
  ScalarType type;
  int channel_class, tile, device;
  cudaStream_t stream;

  Common(const Tensors& q, const Tensors& k, const Tensors& v) {
    STD_TORCH_CHECK(!q.empty() && q.size() == k.size() && q.size() == v.size(),
                    "linear_attention: q, k and v are lists of one length, at least 1, got ", q.size(), ", ", k.size(),
                    " and ", v.size());
    type = q[0].scalar_type();
    device = q[0].get_device_index();
    STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
                    "linear_attention: computes in float32, bfloat16 and float16");
    int64_t channels = 1;
    for (size_t i = 0; i < q.size(); ++i) {
      check(q[i], q[i], k[i].size(-1), "q");
      check(k[i], q[i], q[i].size(-1), "k");
      check(v[i], q[i], v[i].size(-1), "v");
      STD_TORCH_CHECK(k[i].size(-2) == v[i].size(-2), "linear_attention: k and v have different numbers of tokens");
      channels = std::max({channels, q[i].size(-1), v[i].size(-1)});
    }
    channel_class = linear_attention::channel_class(channels);
    STD_TORCH_CHECK(channel_class != 0, "linear_attention: at most ", max_channels, " channels, got ", channels);
    tile = tile_tokens(channel_class);
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &current));
    stream = static_cast<cudaStream_t>(current);
  }

  void check(const Tensor& tensor, const Tensor& like, int64_t channels, const char* name) const {
    STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == device && tensor.scalar_type() == type,
                    "linear_attention: ", name, " differs in device or dtype");
    STD_TORCH_CHECK(tensor.dim() == like.dim() && tensor.dim() >= 2 && tensor.size(-1) == channels,
                    "linear_attention: ", name, " differs in shape");
    for (int64_t i = 0; i + 2 < tensor.dim(); ++i) {
      STD_TORCH_CHECK(tensor.size(i) == like.size(i), "linear_attention: ", name, " differs in leading sizes");
    }
  }

  Launches launches(double eps) const { return {type == ScalarType::Float ? 4 : 2, tile, eps}; }

  // Scratch for `parts` partial sums of every leading index.
  Tensor partial(const Tensor& q, const Tensor& v, int parts) const {
    return empty(q, parts, (v.size(-1) + 1) * q.size(-1), ScalarType::Float);
  }

  void run(Kernel kernel, const Launches& launches) const { launch(kernel, type, channel_class, launches, stream); }
};

float* floats(const Tensor& tensor) { return static_cast<float*>(tensor.mutable_data_ptr()); }

}  // namespace

std::tuple<Tensors, Tensors> linear_attention_forward(Tensors q, Tensors k, Tensors v, double eps) {
  const Common common(q, k, v);
  const torch::stable::accelerator::DeviceGuard guard(common.device);
  std::vector<Maps> all;
  for (size_t i = 0; i < q.size(); ++i) all.push_back({describe(q[i]), describe(k[i]), describe(v[i])});
  set_splits(all, common.tile);

  Tensors outputs, states, scratch;
  Launches source = common.launches(eps), target = common.launches(eps);
  for (size_t i = 0; i < q.size(); ++i) {
    Maps& maps = all[i];
    outputs.push_back(empty(q[i], q[i].size(-2), maps.E(), common.type));
    states.push_back(empty(q[i], maps.E() + 1, maps.D(), ScalarType::Float));
    scratch.push_back(common.partial(q[i], v[i], maps.source_splits));
    maps.output = outputs[i].mutable_data_ptr();
    maps.state = floats(states[i]);
    maps.partial = floats(scratch[i]);
    add_forward_states(source, maps);
    add_forward_output(target, maps);
  }
  common.run(Kernel::forward_states, source);
  common.run(Kernel::forward_output, target);
  return {outputs, states};
}

std::tuple<Tensors, Tensors, Tensors> linear_attention_backward(Tensors grad, Tensors q, Tensors k, Tensors v,
                                                                Tensors states, double eps) {
  const Common common(q, k, v);
  STD_TORCH_CHECK(grad.size() == q.size() && states.size() == q.size(),
                  "linear_attention: grad and states have the length of q");
  const torch::stable::accelerator::DeviceGuard guard(common.device);
  std::vector<Maps> all;
  for (size_t i = 0; i < q.size(); ++i) {
    all.push_back({describe(q[i]), describe(k[i]), describe(v[i]), describe(grad[i])});
    const Maps& maps = all[i];
    common.check(grad[i], q[i], maps.E(), "grad");
    STD_TORCH_CHECK(maps.grad.tokens() == maps.q.tokens(), "linear_attention: grad and q differ in tokens");
    STD_TORCH_CHECK(states[i].is_cuda() && states[i].get_device_index() == common.device && states[i].is_contiguous() &&
                        states[i].scalar_type() == ScalarType::Float &&
                        states[i].numel() == maps.q.leading_size() * (maps.E() + 1) * maps.D(),
                    "linear_attention: states are contiguous float32 (..., E + 1, D)");
  }
  set_splits(all, common.tile);

  Tensors dq, dk, dv, scratch;
  Launches source = common.launches(eps), target = common.launches(eps);
  for (size_t i = 0; i < q.size(); ++i) {
    Maps& maps = all[i];
    dq.push_back(empty(q[i], maps.q.tokens(), maps.D(), common.type));
    dk.push_back(empty(k[i], maps.k.tokens(), maps.D(), common.type));
    dv.push_back(empty(v[i], maps.k.tokens(), maps.E(), common.type));
    scratch.push_back(common.partial(q[i], v[i], maps.target_splits));
    maps.state = floats(states[i]);
    maps.dq = dq[i].mutable_data_ptr();
    maps.dk = dk[i].mutable_data_ptr();
    maps.dv = dv[i].mutable_data_ptr();
    maps.partial = floats(scratch[i]);
    add_backward_queries(target, maps);
    add_backward_sources(source, maps);
  }
  common.run(Kernel::backward_queries, target);
  common.run(Kernel::backward_sources, source);
  return {dq, dk, dv};
}

}  // namespace seqca
