// Linear attention on CUDA: kernels for every number type and class of channels, and the two operators.
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "linear_attention.h"
#include "plan.h"

#include <algorithm>

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
__global__ void __launch_bounds__(S::threads, resident_blocks(Kernel::sum_source, S::channels))
    sum_source(const __grid_constant__ Entries entries) {
  extern __shared__ __align__(16) char shared[];
  linear_attention::sum_source<S>(entries, blockIdx.x, shared);
}

template <class S>
__global__ void __launch_bounds__(S::threads, resident_blocks(Kernel::map_target, S::channels))
    map_target(const __grid_constant__ Entries entries) {
  extern __shared__ __align__(16) char shared[];
  linear_attention::map_target<S>(entries, blockIdx.x, shared);
}

template <class S>
__global__ void __launch_bounds__(S::threads, resident_blocks(Kernel::differentiate_target, S::channels))
    differentiate_target(const __grid_constant__ Entries entries) {
  extern __shared__ __align__(16) char shared[];
  linear_attention::differentiate_target<S>(entries, blockIdx.x, shared);
}

template <class S>
__global__ void __launch_bounds__(S::threads, resident_blocks(Kernel::differentiate_source, S::channels))
    differentiate_source(const __grid_constant__ Entries entries) {
  extern __shared__ __align__(16) char shared[];
  linear_attention::differentiate_source<S>(entries, blockIdx.x, shared);
}

template <class S>
auto kernel_and_memory(Kernel kernel) {
  using Result = std::pair<void (*)(Entries), int>;
  switch (kernel) {
    case Kernel::sum_source: return Result{sum_source<S>, Memory<S>::sum_source};
    case Kernel::map_target: return Result{map_target<S>, Memory<S>::map_target};
    case Kernel::differentiate_target: return Result{differentiate_target<S>, Memory<S>::differentiate_target};
    default: return Result{differentiate_source<S>, Memory<S>::differentiate_source};
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
    case 18: return launch<Shape<T, 18>>(kernel, launches, stream);
    case 36: return launch<Shape<T, 36>>(kernel, launches, stream);
    default: return launch<Shape<T, 72>>(kernel, launches, stream);
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
struct Call {
  ScalarType type;
  int channel_class, tile, device;
  cudaStream_t stream;

  Call(const Tensors& q, const Tensors& k, const Tensors& v) {
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
  const Call call(q, k, v);
  const torch::stable::accelerator::DeviceGuard guard(call.device);
  std::vector<Maps> all;
  for (size_t i = 0; i < q.size(); ++i) all.push_back({describe(q[i]), describe(k[i]), describe(v[i])});
  set_splits(all, call.tile);

  Tensors outputs, states, scratch;
  Launches source = call.launches(eps), target = call.launches(eps);
  for (size_t i = 0; i < q.size(); ++i) {
    Maps& maps = all[i];
    outputs.push_back(empty(q[i], q[i].size(-2), maps.E(), call.type));
    states.push_back(empty(q[i], maps.E() + 1, maps.D(), ScalarType::Float));
    scratch.push_back(call.partial(q[i], v[i], maps.source_splits));
    maps.output = outputs[i].mutable_data_ptr();
    maps.state = floats(states[i]);
    maps.partial = floats(scratch[i]);
    add_sum_source(source, maps);
    add_map_target(target, maps);
  }
  call.run(Kernel::sum_source, source);
  call.run(Kernel::map_target, target);
  return {outputs, states};
}

std::tuple<Tensors, Tensors, Tensors> linear_attention_backward(Tensors grad, Tensors q, Tensors k, Tensors v,
                                                                Tensors states, double eps) {
  const Call call(q, k, v);
  STD_TORCH_CHECK(grad.size() == q.size() && states.size() == q.size(),
                  "linear_attention: grad and states have the length of q");
  const torch::stable::accelerator::DeviceGuard guard(call.device);
  std::vector<Maps> all;
  for (size_t i = 0; i < q.size(); ++i) {
    all.push_back({describe(q[i]), describe(k[i]), describe(v[i]), describe(grad[i])});
    const Maps& maps = all[i];
    call.check(grad[i], q[i], maps.E(), "grad");
    STD_TORCH_CHECK(maps.grad.tokens() == maps.q.tokens(), "linear_attention: grad and q differ in tokens");
    STD_TORCH_CHECK(states[i].is_cuda() && states[i].get_device_index() == call.device &&
                        states[i].is_contiguous() && states[i].scalar_type() == ScalarType::Float &&
                        states[i].numel() == maps.q.leads() * (maps.E() + 1) * maps.D(),
                    "linear_attention: states are contiguous float32 (..., E + 1, D)");
  }
  set_splits(all, call.tile);

  Tensors dq, dk, dv, scratch;
  Launches source = call.launches(eps), target = call.launches(eps);
  for (size_t i = 0; i < q.size(); ++i) {
    Maps& maps = all[i];
    dq.push_back(empty(q[i], maps.q.tokens(), maps.D(), call.type));
    dk.push_back(empty(k[i], maps.k.tokens(), maps.D(), call.type));
    dv.push_back(empty(v[i], maps.k.tokens(), maps.E(), call.type));
    scratch.push_back(call.partial(q[i], v[i], maps.target_splits));
    maps.state = floats(states[i]);
    maps.dq = dq[i].mutable_data_ptr();
    maps.dk = dk[i].mutable_data_ptr();
    maps.dv = dv[i].mutable_data_ptr();
    maps.partial = floats(scratch[i]);
    add_differentiate_target(target, maps);
    add_differentiate_source(source, maps);
  }
  call.run(Kernel::differentiate_target, target);
  call.run(Kernel::differentiate_source, source);
  return {dq, dk, dv};
}

}  // namespace seqca
