// The kernels of the pass backward, see kernels.h.
#pragma once

#include "memory.h"

namespace seqca::linear_attention {

template <class S>
SEQCA_DEVICE void backward_queries(const Entries& entries, int64_t block, char* shared) {
  const Position at = position(entries, block);
  const Entry& entry = entries.entry[at.entry];
  const Range tiles = tiles_of_part(ceil_divide(entry.tokens, S::tokens), entry.splits, at.split);
  const int size = (entry.E + 1) * entry.D;

  Carver memory{shared};
  const Buffered<S> queries(memory, entry.a, false), gradients(memory, entry.b, false);
  const State<S> state{memory.take<char>(S::state_bytes)};
  float* const z = memory.take<float>(Memory<S>::last_bytes);
  auto* const stage = memory.take<typename S::Number>(S::stage_bytes);
  float* const inverses = memory.take<float>(Memory<S>::factor_bytes);
  float* const dds = memory.take<float>(Memory<S>::factor_bytes);
  read_sums(entry.state_in + at.leading * size, 1, entry.E, entry.D, state, z, nullptr);
  Warps<TokenSums<S>> sums;
  SEQCA_EACH_WARP(warp) sums[warp].clear();

  for_each_tile<S>(
      tiles.begin, tiles.end,
      [&](int buffer, int64_t tile) {
        load_tile(queries[buffer], entry.a, at.leading, tile * S::tokens, entry.tokens);
        load_tile(gradients[buffer], entry.b, at.leading, tile * S::tokens, entry.tokens);
      },
      [&](int buffer, int64_t tile) {
        SEQCA_EACH_WARP(warp) {
          Lanes<Sums> u[S::columns];
          clear<S>(u);
          SEQCA_UNROLL
          for (int channel = 0; channel < S::channels; channel += 16) {
            multiply(u, Block<S>(gradients[buffer], 16 * warp, channel), state, false);
          }
          Lanes<float> zq[2], uq[2];
          SEQCA_EACH_LANE(lane) zq[0][lane] = zq[1][lane] = uq[0][lane] = uq[1][lane] = 0.0f;
          SEQCA_UNROLL
          for (int channel = 0; channel < S::channels; channel += 16) {
            const Block<S> q(queries[buffer], 16 * warp, channel);
            add_dots(zq, q, z);
            SEQCA_EACH_LANE(lane) {
              SEQCA_UNROLL
              for (int i = 0; i < 8; ++i) {
                const int j = channel / 8 + i / 4;
                if (j < S::columns) {
                  float& dot = uq[i % 4 / 2][lane];
                  dot = fused_multiply_add(q.number(lane, i), u[j][lane].value[i % 4], dot);
                }
              }
            }
          }
          SEQCA_UNROLL
          for (int half = 0; half < 2; ++half) {
            sum_over_quad(zq[half]);
            sum_over_quad(uq[half]);
          }
          SEQCA_EACH_LANE(lane) {
            SEQCA_UNROLL
            for (int half = 0; half < 2; ++half) {
              const int token = 16 * warp + sum_row(lane, 2 * half);
              const bool inside = tile * S::tokens + token < entry.tokens;
              const bool clamped = zq[half][lane] < entries.eps;
              const float inverse = inside ? 1.0f / (clamped ? entries.eps : zq[half][lane]) : 0.0f;
              const float dd = clamped || !inside ? 0.0f : -(uq[half][lane] * inverse) * inverse;
              if (lane % 4 == 0) {
                inverses[token] = inverse;
                dds[token] = dd;
              }
              SEQCA_UNROLL
              for (int j = 0; j < S::columns; ++j) {
                SEQCA_UNROLL
                for (int i = 0; i < 2; ++i) {
                  float& dq = u[j][lane].value[2 * half + i];
                  dq = fused_multiply_add(dd, z[8 * j + sum_column(lane, i)], dq * inverse);
                }
              }
            }
          }
          stage_sums<S>(stage, u, 16 * warp, entry.D);
        }
        barrier();
        write_stage<S>(stage, entry.out_a, at.leading, tile * S::tokens, entry.tokens, entry.D);
        SEQCA_EACH_WARP(warp) {
          const int first = warp / S::column_groups * S::group_tokens;
          const int column = warp % S::column_groups * 8 * S::group_columns;
          SEQCA_UNROLL
          for (int t = 0; t < S::group_tokens; t += 16) {
            sums[warp].add(gradients[buffer], queries[buffer], first + t, column, Scaled{inverses, dds, entry.E});
          }
        }
      });
  const int64_t part = at.leading * entry.splits + at.split;
  write_sums(sums, reinterpret_cast<float*>(shared), entry.partial + part * size, entry.E + 1, entry.D);
}

template <class S>
SEQCA_DEVICE void backward_sources(const Entries& entries, int64_t block, char* shared) {
  const Position at = position(entries, block);
  const Entry& entry = entries.entry[at.entry];
  const Range tiles = tiles_of_part(ceil_divide(entry.tokens, S::tokens), entry.splits, at.split);
  const int size = (entry.E + 1) * entry.D;

  Carver memory{shared};
  const Buffered<S> keys(memory, entry.a, false), values(memory, entry.b, false);
  const State<S> dstate{memory.take<char>(S::state_bytes)};
  float* const dz = memory.take<float>(Memory<S>::last_bytes);
  auto* const stage_dk = memory.take<typename S::Number>(S::stage_bytes);
  auto* const stage_dv = memory.take<typename S::Number>(S::stage_bytes);
  read_sums(entry.partial + at.leading * entry.parts * size, entry.parts, entry.E, entry.D, dstate, dz, nullptr);

  for_each_tile<S>(
      tiles.begin, tiles.end,
      [&](int buffer, int64_t tile) {
        load_tile(keys[buffer], entry.a, at.leading, tile * S::tokens, entry.tokens);
        load_tile(values[buffer], entry.b, at.leading, tile * S::tokens, entry.tokens);
      },
      [&](int buffer, int64_t tile) {
        SEQCA_EACH_WARP(warp) {
          Lanes<Sums> sums[S::columns];
          clear<S>(sums);
          SEQCA_UNROLL
          for (int channel = 0; channel < S::channels; channel += 16) {
            multiply(sums, Block<S>(keys[buffer], 16 * warp, channel), dstate, true);
          }
          stage_sums<S>(stage_dv, sums, 16 * warp, entry.E);
          clear<S>(sums);
          SEQCA_UNROLL
          for (int channel = 0; channel < S::channels; channel += 16) {
            multiply(sums, Block<S>(values[buffer], 16 * warp, channel), dstate, false);
          }
          SEQCA_EACH_LANE(lane) {
            SEQCA_UNROLL
            for (int j = 0; j < S::columns; ++j) {
              SEQCA_UNROLL
              for (int i = 0; i < 4; ++i) sums[j][lane].value[i] += dz[8 * j + sum_column(lane, i)];
            }
          }
          stage_sums<S>(stage_dk, sums, 16 * warp, entry.D);
        }
        barrier();
        write_stage<S>(stage_dk, entry.out_a, at.leading, tile * S::tokens, entry.tokens, entry.D);
        write_stage<S>(stage_dv, entry.out_b, at.leading, tile * S::tokens, entry.tokens, entry.E);
      });
}

}  // namespace seqca::linear_attention
