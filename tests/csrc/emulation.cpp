// The kernels of linear attention on the host, from plan to output, called from Python through ctypes.
#include <cstdio>
#include <cstring>
#include <memory>

#include "linear_attention/plan.h"

namespace {

using namespace seqca;
using namespace seqca::linear_attention;

constexpr int guard_bytes = 256;

// Runs every block, the last one first, in shared memory that is full of NaN and of exactly the size that the
// launcher would ask for.
template <class Kernel>
void run(const Launches& launches, int memory, Kernel kernel) {
  for (const Launch& launch : launches.all()) {
    for (int64_t block = launch.blocks; block-- > 0;) {
      std::unique_ptr<Wide[]> shared(new Wide[(memory + guard_bytes) / sizeof(Wide)]);
      char* const bytes = reinterpret_cast<char*>(shared.get());
      std::memset(bytes, 0xff, memory + guard_bytes);
      kernel(launch.entries, block, bytes);
      require(copy_groups.back().empty(), "all copies were committed");
      copy_groups.assign(1, {});
      for (int i = 0; i < guard_bytes; ++i) {
        require(static_cast<unsigned char>(bytes[memory + i]) == 0xff, "kernels stay in their shared memory");
      }
    }
  }
}

template <class S>
void forward(std::vector<Maps>& call, double eps) {
  emulated_warps = S::warps;
  Launches source(sizeof(typename S::Number), S::tokens, eps), target = source;
  for (const Maps& maps : call) {
    add_forward_states(source, maps);
    add_forward_output(target, maps);
  }
  run(source, Memory<S>::forward_states, forward_states<S>);
  run(target, Memory<S>::forward_output, forward_output<S>);
}

template <class S>
void backward(std::vector<Maps>& call, double eps) {
  emulated_warps = S::warps;
  Launches source(sizeof(typename S::Number), S::tokens, eps), target = source;
  for (const Maps& maps : call) {
    add_backward_queries(target, maps);
    add_backward_sources(source, maps);
  }
  run(target, Memory<S>::backward_queries, backward_queries<S>);
  run(source, Memory<S>::backward_sources, backward_sources<S>);
}

template <class T>
void dispatch(bool is_forward, int channels, std::vector<Maps>& call, double eps) {
  switch (channels) {
    case 18: return is_forward ? forward<Tiling<T, 18>>(call, eps) : backward<Tiling<T, 18>>(call, eps);
    case 36: return is_forward ? forward<Tiling<T, 36>>(call, eps) : backward<Tiling<T, 36>>(call, eps);
    default: return is_forward ? forward<Tiling<T, 72>>(call, eps) : backward<Tiling<T, 72>>(call, eps);
  }
}

}  // namespace

extern "C" {

struct HostTensor {
  void* data;
  int64_t dimensions;
  int64_t sizes[8], strides[8];
};

struct HostMaps {
  HostTensor q, k, v, grad;
  void *state, *output, *dq, *dk, *dv;
};

// number: 0 float32, 1 bfloat16, 2 float16. `blocks` is what launches aim at. Returns the products that tensor cores
// would have done.
int64_t linear_attention(int is_forward, int number, HostMaps* entries, int64_t count, double eps, int blocks) {
  const auto describe = [](const HostTensor& t) {
    return Tensor3{t.data, {t.sizes, t.sizes + t.dimensions}, {t.strides, t.strides + t.dimensions}};
  };
  std::vector<Maps> call;
  int64_t channels = 1;
  for (HostMaps* e = entries; e < entries + count; ++e) {
    Maps maps{describe(e->q), describe(e->k), describe(e->v), describe(e->grad)};
    maps.state = static_cast<float*>(e->state);
    maps.output = e->output;
    maps.dq = e->dq;
    maps.dk = e->dk;
    maps.dv = e->dv;
    channels = std::max({channels, maps.D(), maps.E()});
    call.push_back(maps);
  }
  const int size = channel_class(channels);
  set_splits(call, tile_tokens(size), blocks);
  std::vector<std::vector<float>> scratch;
  for (Maps& maps : call) {
    const int parts = is_forward ? maps.source_splits : maps.target_splits;
    scratch.emplace_back(maps.q.leading_size() * parts * (maps.E() + 1) * maps.D(), NAN);
    maps.partial = scratch.back().data();
  }
  products_done = 0;
  switch (number) {
    case 0: dispatch<float>(is_forward, size, call, eps); break;
    case 1: dispatch<bf16>(is_forward, size, call, eps); break;
    default: dispatch<fp16>(is_forward, size, call, eps);
  }
  return products_done;
}

// Bytes of shared memory of the kernels in the order of the file, at a number type and class.
void shared_memory(int number, int size, int32_t* bytes) {
  const auto write = [&](auto shape) {
    using M = Memory<decltype(shape)>;
    bytes[0] = M::forward_states;
    bytes[1] = M::forward_output;
    bytes[2] = M::backward_queries;
    bytes[3] = M::backward_sources;
  };
  const auto by_class = [&](auto x) {
    using T = decltype(x);
    if (size == 18) return write(Tiling<T, 18>{});
    if (size == 36) return write(Tiling<T, 36>{});
    write(Tiling<T, 72>{});
  };
  if (number == 0) return by_class(0.0f);
  if (number == 1) return by_class(bf16{});
  by_class(fp16{});
}
}
