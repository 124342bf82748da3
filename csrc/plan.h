// From tensors of any strides to what kernels take: views, pieces of leading indices, entries of launches. Plain
// C++, run on the host and tested there.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "linear_attention_kernels.h"

namespace seqca {

// A tensor (..., tokens, channels).
struct Tensor3 {
  const void* data;
  std::vector<int64_t> sizes, strides;  // in numbers

  int64_t tokens() const { return sizes[sizes.size() - 2]; }
  int64_t channels() const { return sizes[sizes.size() - 1]; }
  int64_t leads() const {
    int64_t count = 1;
    for (size_t i = 0; i + 2 < sizes.size(); ++i) count *= sizes[i];
    return count;
  }
};

// Leading indices [first, first + outer * inner) of tensors, in which each tensor moves by two strides.
struct Piece {
  int64_t first, outer, inner;
  std::vector<int64_t> offset, outer_stride, inner_stride;  // by tensor
};

// Cuts the leading indices of tensors of equal leading sizes into pieces. Neighbouring dimensions that every tensor
// walks with one stride become one; of more than two that remain, the outer ones are gone through here.
inline std::vector<Piece> pieces_of(const std::vector<const Tensor3*>& tensors) {
  struct Dimension {
    int64_t size;
    std::vector<int64_t> stride;
  };
  std::vector<Dimension> dimensions;
  const std::vector<int64_t>& sizes = tensors[0]->sizes;
  for (size_t i = 0; i + 2 < sizes.size(); ++i) {
    if (sizes[i] == 1) continue;
    Dimension dimension{sizes[i], {}};
    for (const Tensor3* tensor : tensors) dimension.stride.push_back(tensor->strides[i]);
    bool merges = !dimensions.empty();
    for (size_t t = 0; merges && t < tensors.size(); ++t) {
      merges = dimensions.back().stride[t] == dimension.stride[t] * dimension.size;
    }
    if (merges) {
      dimensions.back().size *= dimension.size;
      dimensions.back().stride = dimension.stride;
    } else {
      dimensions.push_back(dimension);
    }
  }
  const std::vector<int64_t> still(tensors.size(), 0);
  while (dimensions.size() < 2) dimensions.insert(dimensions.begin(), {1, still});

  const Dimension outer = dimensions[dimensions.size() - 2], inner = dimensions.back();
  std::vector<Piece> pieces{{0, outer.size, inner.size, still, outer.stride, inner.stride}};
  int64_t inside = outer.size * inner.size;
  for (size_t i = dimensions.size() - 2; i-- > 0;) {
    std::vector<Piece> repeated;
    for (int64_t index = 0; index < dimensions[i].size; ++index) {
      for (Piece piece : pieces) {
        piece.first += index * inside;
        for (size_t t = 0; t < tensors.size(); ++t) piece.offset[t] += index * dimensions[i].stride[t];
        repeated.push_back(piece);
      }
    }
    inside *= dimensions[i].size;
    pieces = repeated;
  }
  return pieces;
}

// How kernels read one tensor of a piece, in tiles of `tile` tokens: along whichever of tokens and channels lies
// together, in the widest chunks to which everything is aligned.
inline View view_of(const Tensor3& tensor, const Piece& piece, size_t index, int number_bytes, int tile) {
  const size_t dimensions = tensor.sizes.size();
  const int64_t token_stride = tensor.strides[dimensions - 2], channel_stride = tensor.strides[dimensions - 1];
  View view{};
  view.data = static_cast<const char*>(tensor.data) + piece.offset[index] * number_bytes;
  view.outer_stride = piece.outer_stride[index];
  view.inner_stride = piece.inner_stride[index];
  view.inner_leads = static_cast<int32_t>(piece.inner);
  view.channels = static_cast<int32_t>(tensor.channels());
  view.channel_major = channel_stride != 1 && (token_stride == 1 || std::abs(token_stride) < std::abs(channel_stride));
  view.row_stride = view.channel_major ? channel_stride : token_stride;
  view.column_stride = view.channel_major ? token_stride : channel_stride;

  const int row = view.channel_major ? tile : view.channels;
  view.chunk_bytes = number_bytes;
  for (int bytes = 16; bytes > number_bytes && view.column_stride == 1; bytes /= 2) {
    const auto aligned = [&](int64_t stride) { return stride * number_bytes % bytes == 0; };
    if (reinterpret_cast<uintptr_t>(view.data) % bytes == 0 && aligned(row) && aligned(view.row_stride) &&
        (piece.outer == 1 || aligned(view.outer_stride)) && (piece.inner == 1 || aligned(view.inner_stride))) {
      view.chunk_bytes = bytes;
      break;
    }
  }
  view.chunks_per_row = row * number_bytes / view.chunk_bytes;
  view.magic = chunk_magic(view.chunks_per_row);
  return view;
}

namespace linear_attention {

// Blocks that a launch aims at: four for each multiprocessor of a large GPU, and the same number on every GPU.
inline constexpr int target_blocks = 528;

// The smallest class that holds all channels, or 0.
inline int channel_class(int64_t channels) {
  for (const int c : channel_classes) {
    if (channels <= c) return c;
  }
  return 0;
}

// The tensors of one entry of a call. Outputs are dense, states (leads, E + 1, D), and `partial` has room for
// `parts` partial sums of every leading index: the splits of the source in forward, of the target in backward.
struct Maps {
  Tensor3 q, k, v;
  Tensor3 grad{};  // of the output; only backward
  float* state{};
  void* output{};
  void *dq{}, *dk{}, *dv{};
  float* partial{};
  int source_splits{}, target_splits{};

  int64_t D() const { return q.channels(); }
  int64_t E() const { return v.channels(); }
};

// Sets over how many blocks each entry is split.
inline void set_splits(std::vector<Maps>& call, int tile, int blocks = target_blocks) {
  int64_t source = 0, target = 0;
  const auto tiles = [&](const Tensor3& tensor) { return ceil_divide(tensor.tokens(), tile); };
  for (const Maps& maps : call) {
    source += tiles(maps.k) * maps.k.leads();
    target += tiles(maps.q) * maps.q.leads();
  }
  for (Maps& maps : call) {
    maps.source_splits = parts_for(tiles(maps.k), source, blocks);
    maps.target_splits = parts_for(tiles(maps.q), target, blocks);
  }
}

struct Launch {
  Entries entries;
  int64_t blocks;
};

// Collects the entries of a call into launches of at most `max_entries` pieces.
class Launches {
 public:
  Launches(int number_bytes, int tile, double eps)
      : number_bytes_(number_bytes), tile_(tile), eps_(static_cast<float>(eps)) {}

  // `entry` has the pointers to its first leading index, splits, parts, D and E; `b` is null where one tensor is read.
  void add(Entry entry, const Tensor3& a, const Tensor3* b, int64_t out_a_channels) {
    std::vector<const Tensor3*> tensors{&a};
    if (b != nullptr) tensors.push_back(b);
    const int64_t size = int64_t{entry.E + 1} * entry.D;
    entry.tokens = a.tokens();
    for (const Piece& piece : pieces_of(tensors)) {
      Entry part = entry;
      part.a = view_of(a, piece, 0, number_bytes_, tile_);
      if (b != nullptr) part.b = view_of(*b, piece, 1, number_bytes_, tile_);
      part.leads = piece.outer * piece.inner;
      const int64_t run = piece.first * a.tokens() * number_bytes_;
      part.partial = shifted(entry.partial, piece.first * entry.parts * size * 4);
      part.state_in = shifted(entry.state_in, piece.first * size * 4);
      part.state_out = shifted(entry.state_out, piece.first * size * 4);
      part.out_a = shifted(entry.out_a, run * out_a_channels);
      part.out_b = shifted(entry.out_b, run * entry.E);
      if (part.leads > 0) append(part);
    }
  }

  const std::vector<Launch>& all() const { return launches_; }

 private:
  template <class V>
  static V* shifted(V* pointer, int64_t bytes) {
    if (pointer == nullptr) return nullptr;
    return reinterpret_cast<V*>(reinterpret_cast<uintptr_t>(pointer) + static_cast<uintptr_t>(bytes));
  }

  void append(Entry entry) {
    if (launches_.empty() || launches_.back().entries.count == max_entries) {
      launches_.push_back({});
      launches_.back().entries.eps = eps_;
    }
    Launch& launch = launches_.back();
    entry.first_block = launch.blocks;
    launch.blocks += entry.leads * entry.splits;
    launch.entries.entry[launch.entries.count++] = entry;
  }

  int number_bytes_, tile_;
  float eps_;
  std::vector<Launch> launches_;
};

inline Entry entry_of(const Maps& maps, int splits, int parts) {
  Entry entry{};
  entry.splits = splits;
  entry.parts = parts;
  entry.D = static_cast<int32_t>(maps.D());
  entry.E = static_cast<int32_t>(maps.E());
  entry.partial = maps.partial;
  return entry;
}

inline void add_sum_source(Launches& launches, const Maps& maps) {
  launches.add(entry_of(maps, maps.source_splits, maps.source_splits), maps.k, &maps.v, 0);
}

inline void add_map_target(Launches& launches, const Maps& maps) {
  Entry entry = entry_of(maps, maps.target_splits, maps.source_splits);
  entry.state_out = maps.state;
  entry.out_a = maps.output;
  launches.add(entry, maps.q, nullptr, maps.E());
}

inline void add_differentiate_target(Launches& launches, const Maps& maps) {
  Entry entry = entry_of(maps, maps.target_splits, maps.target_splits);
  entry.state_in = maps.state;
  entry.out_a = maps.dq;
  launches.add(entry, maps.q, &maps.grad, maps.D());
}

inline void add_differentiate_source(Launches& launches, const Maps& maps) {
  Entry entry = entry_of(maps, maps.source_splits, maps.target_splits);
  entry.out_a = maps.dk;
  entry.out_b = maps.dv;
  launches.add(entry, maps.k, &maps.v, maps.D());
}

}  // namespace linear_attention
}  // namespace seqca
