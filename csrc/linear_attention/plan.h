// From the tensors of a call to the launches of the four kernels. Plain C++, run on the host and tested there.
#pragma once

#include <cstdint>
#include <vector>

#include "../shared/views.h"
#include "kernels.h"

namespace seqca {

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

// The tensors of one entry of a call. Outputs are dense, states (leading_size, E + 1, D), and `partial` has space for
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
    source += tiles(maps.k) * maps.k.leading_size();
    target += tiles(maps.q) * maps.q.leading_size();
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
      part.leading_size = piece.outer * piece.inner;
      const int64_t run = piece.first * a.tokens() * number_bytes_;
      part.partial = shifted(entry.partial, piece.first * entry.parts * size * 4);
      part.state_in = shifted(entry.state_in, piece.first * size * 4);
      part.state_out = shifted(entry.state_out, piece.first * size * 4);
      part.out_a = shifted(entry.out_a, run * out_a_channels);
      part.out_b = shifted(entry.out_b, run * entry.E);
      if (part.leading_size > 0) append(part);
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
    launch.blocks += entry.leading_size * entry.splits;
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

inline void add_forward_states(Launches& launches, const Maps& maps) {
  launches.add(entry_of(maps, maps.source_splits, maps.source_splits), maps.k, &maps.v, 0);
}

inline void add_forward_output(Launches& launches, const Maps& maps) {
  Entry entry = entry_of(maps, maps.target_splits, maps.source_splits);
  entry.state_out = maps.state;
  entry.out_a = maps.output;
  launches.add(entry, maps.q, nullptr, maps.E());
}

inline void add_backward_queries(Launches& launches, const Maps& maps) {
  Entry entry = entry_of(maps, maps.target_splits, maps.target_splits);
  entry.state_in = maps.state;
  entry.out_a = maps.dq;
  launches.add(entry, maps.q, &maps.grad, maps.D());
}

inline void add_backward_sources(Launches& launches, const Maps& maps) {
  Entry entry = entry_of(maps, maps.source_splits, maps.target_splits);
  entry.out_a = maps.dk;
  entry.out_b = maps.dv;
  launches.add(entry, maps.k, &maps.v, maps.D());
}

}  // namespace linear_attention
}  // namespace seqca
