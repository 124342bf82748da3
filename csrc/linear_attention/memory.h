// What the kernels share on the device: their pieces of shared memory, and steps on the tiles in them.
#pragma once

#include "entries.h"

namespace seqca::linear_attention {

// Bytes of shared memory: tiles, then the matrix, its last row, staged outputs, factors of tokens.
template <class S>
struct Memory {
  static constexpr int last_bytes = S::padded * 4;
  static constexpr int factor_bytes = S::tokens * 4;
  static constexpr int forward_states = 2 * S::buffers * S::tile_bytes;
  static constexpr int forward_output = S::buffers * S::tile_bytes + S::state_bytes + last_bytes + S::stage_bytes;
  static constexpr int backward_queries =
      2 * S::buffers * S::tile_bytes + S::state_bytes + last_bytes + S::stage_bytes + 2 * factor_bytes;
  static constexpr int backward_sources =
      2 * S::buffers * S::tile_bytes + S::state_bytes + last_bytes + 2 * S::stage_bytes;
};

// Blocks on a multiprocessor that the compiler leaves registers for: as many as it can on sm_80, sm_90 and sm_100
// without spilling.
enum class Kernel { forward_states, forward_output, backward_queries, backward_sources };
SEQCA_MAP int resident_blocks(Kernel kernel, int channel_class) {
  const bool small = channel_class == 18, middle = channel_class == 36;
  switch (kernel) {
    case Kernel::forward_states: return small ? 5 : 4;
    case Kernel::forward_output: return small ? 6 : middle ? 4 : 3;
    case Kernel::backward_queries: return small ? 4 : 2;
    default: return small ? 5 : 4;
  }
}

// Cuts a kernel's shared memory into pieces.
struct Carver {
  char* next;

  template <class V>
  SEQCA_DEVICE V* take(int bytes) {
    V* piece = reinterpret_cast<V*>(next);
    next += bytes;
    return piece;
  }
};

// The tiles of one tensor, one for each buffer; padding as in fill_padding.
template <class S>
struct Buffered {
  Tile<S> first;

  SEQCA_DEVICE Buffered(Carver& memory, const View& view, bool ones)
      : first{memory.take<typename S::Number>(S::buffers * S::tile_bytes), view.channel_major} {
    SEQCA_UNROLL
    for (int i = 0; i < S::buffers; ++i) fill_padding((*this)[i], view.channels, ones);
  }

  SEQCA_DEVICE Tile<S> operator[](int buffer) const {
    return {first.data + buffer * S::tile_numbers, first.channel_major};
  }
};

// The 16 x 8 tiles of a product over channels, all starting at zero.
template <class S>
SEQCA_DEVICE void clear(Lanes<Sums> (&sums)[S::columns]) {
  SEQCA_UNROLL
  for (int j = 0; j < S::columns; ++j) {
    SEQCA_EACH_LANE(lane) sums[j][lane] = Sums{};
  }
}

// x·y of the two tokens of each lane, added to dots[0] and dots[1]; y is a row of fp32.
template <class S>
SEQCA_DEVICE void add_dots(Lanes<float> (&dots)[2], const Block<S>& block, const float* y) {
  SEQCA_EACH_LANE(lane) {
    SEQCA_UNROLL
    for (int i = 0; i < 8; ++i) {
      float& dot = dots[i % 4 / 2][lane];
      dot = fused_multiply_add(block.number(lane, i), y[block.channel + 8 * (i / 4) + sum_column(lane, i)], dot);
    }
  }
}

}  // namespace seqca::linear_attention
