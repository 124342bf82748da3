// The four kernels of linear attention. With S = Σ v kᵀ and z = Σ k over the tokens of a source, d = max(z·q, eps):
//
//   forward_states     partial (S; z) of a part of the source's tokens
//   forward_output     merges them; o = S q / d of a part of the target's tokens
//   backward_queries   u = Sᵀ g; dd = -(u·q) / d² where the clamp is not active, else 0;
//                  dq = u / d + dd z; partial (dS; dz) = Σ (g / d; dd) qᵀ of a part of the target's tokens
//   backward_sources   merges them; dv = dS k; dk = dSᵀ v + dz of a part of the source's tokens
//
// The two merges are done by every block that needs the sums, part after part in one order: the sums are small, the
// same bits in every block, and need no launch of their own, no atomics and no waiting of blocks for each other.
// A block works on one leading index of one entry. The states are fp32 (leading_size, E + 1, D).
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

// ---- Shared memory: tiles, then the matrix, its last row, staged outputs, factors of tokens ----

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
