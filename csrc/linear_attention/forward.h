// The kernels of the pass forward, see kernels.h.
#pragma once

#include "memory.h"

namespace seqca::linear_attention {

template <class S>
SEQCA_DEVICE void forward_states(const Entries& entries, int64_t block, char* shared) {
  const Position at = position(entries, block);
  const Entry& entry = entries.entry[at.entry];
  const Range tiles = tiles_of_part(ceil_divide(entry.tokens, S::tokens), entry.splits, at.split);

  Carver memory{shared};
  const Buffered<S> keys(memory, entry.a, false), values(memory, entry.b, true);
  Warps<TokenSums<S>> sums;
  SEQCA_EACH_WARP(warp) sums[warp].clear();

  for_each_tile<S>(
      tiles.begin, tiles.end,
      [&](int buffer, int64_t tile) {
        load_tile(keys[buffer], entry.a, at.leading, tile * S::tokens, entry.tokens);
        load_tile(values[buffer], entry.b, at.leading, tile * S::tokens, entry.tokens);
      },
      [&](int buffer, int64_t) {
        SEQCA_EACH_WARP(warp) {
          const int first = warp / S::column_groups * S::group_tokens;
          const int column = warp % S::column_groups * 8 * S::group_columns;
          SEQCA_UNROLL
          for (int t = 0; t < S::group_tokens; t += 16) {
            sums[warp].add(values[buffer], keys[buffer], first + t, column, Unscaled{});
          }
        }
      });
  const int64_t part = at.leading * entry.splits + at.split;
  write_sums(sums, reinterpret_cast<float*>(shared), entry.partial + part * (entry.E + 1) * entry.D, entry.E + 1,
             entry.D);
}

template <class S>
SEQCA_DEVICE void forward_output(const Entries& entries, int64_t block, char* shared) {
  const Position at = position(entries, block);
  const Entry& entry = entries.entry[at.entry];
  const Range tiles = tiles_of_part(ceil_divide(entry.tokens, S::tokens), entry.splits, at.split);
  const int size = (entry.E + 1) * entry.D;

  Carver memory{shared};
  const Buffered<S> queries(memory, entry.a, false);
  const State<S> state{memory.take<char>(S::state_bytes)};
  float* const z = memory.take<float>(Memory<S>::last_bytes);
  auto* const stage = memory.take<typename S::Number>(S::stage_bytes);
  read_sums(entry.partial + at.leading * entry.parts * size, entry.parts, entry.E, entry.D, state, z,
            at.split == 0 ? entry.state_out + at.leading * size : nullptr);

  for_each_tile<S>(
      tiles.begin, tiles.end,
      [&](int buffer, int64_t tile) {
        load_tile(queries[buffer], entry.a, at.leading, tile * S::tokens, entry.tokens);
      },
      [&](int buffer, int64_t tile) {
        SEQCA_EACH_WARP(warp) {
          Lanes<Sums> out[S::columns];
          Lanes<float> d[2];
          clear<S>(out);
          SEQCA_EACH_LANE(lane) d[0][lane] = d[1][lane] = 0.0f;
          SEQCA_UNROLL_BY(1)  // more blocks fit into the registers
          for (int channel = 0; channel < S::channels; channel += 16) {
            const Block<S> q(queries[buffer], 16 * warp, channel);
            add_dots(d, q, z);
            multiply(out, q, state, true);
          }
          sum_over_quad(d[0]);
          sum_over_quad(d[1]);
          SEQCA_EACH_LANE(lane) {
            SEQCA_UNROLL
            for (int half = 0; half < 2; ++half) {
              const float inverse = 1.0f / (d[half][lane] < entries.eps ? entries.eps : d[half][lane]);
              SEQCA_UNROLL
              for (int j = 0; j < S::columns; ++j) {
                out[j][lane].value[2 * half] *= inverse;
                out[j][lane].value[2 * half + 1] *= inverse;
              }
            }
          }
          stage_sums<S>(stage, out, 16 * warp, entry.E);
        }
        barrier();
        write_stage<S>(stage, entry.out_a, at.leading, tile * S::tokens, entry.tokens, entry.E);
      });
}

}  // namespace seqca::linear_attention
