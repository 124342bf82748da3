// The maps of a call, and which of them a block works on.
#pragma once

#include "../shared/products.h"

namespace seqca::linear_attention {

// One pair of maps of a call. For sums over and gradients of the source: a = keys, b = values. For the target:
// a = queries, b = gradients of the output.
struct Entry {
  View a, b;
  int64_t tokens, leading_size;
  int64_t first_block;    // of the grid
  float* partial;         // (leading_size, parts, E + 1, D)
  const float* state_in;  // merged already
  float* state_out;
  void* out_a;     // dense (leading_size, tokens, D), or the output of the target (leading_size, tokens, E)
  void* out_b;     // dense (leading_size, tokens, E)
  int32_t splits;  // blocks for each leading index
  int32_t parts;   // partial sums for each leading index
  int32_t D, E;
};

inline constexpr int max_entries = 18;

// By value in constant memory, at most 4 KB.
struct Entries {
  Entry entry[max_entries];
  int32_t count;
  float eps;
};
static_assert(sizeof(Entries) <= 4096);

struct Position {
  int entry, split;
  int64_t leading;
};

SEQCA_MAP Position position(const Entries& entries, int64_t block) {
  int index = 0;
  while (index + 1 < entries.count && block >= entries.entry[index + 1].first_block) ++index;
  const Entry& entry = entries.entry[index];
  const int64_t local = block - entry.first_block;
  return {index, static_cast<int>(local % entry.splits), local / entry.splits};
}

}  // namespace seqca::linear_attention
