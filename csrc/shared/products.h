// Products over the channels of tokens and over tokens, their operands in shared memory, and sums over all tokens.
#pragma once

#include "tiles.h"

namespace seqca {

// The two numbers in a word of 16-bit numbers.
template <class H>
SEQCA_DEVICE float low_half(H kind, uint32_t word) {
  kind.bits = static_cast<uint16_t>(word);
  return to_float(kind);
}
template <class H>
SEQCA_DEVICE float high_half(H kind, uint32_t word) {
  kind.bits = static_cast<uint16_t>(word >> 16);
  return to_float(kind);
}

// Numbers that are not inputs become operands as the sum of two bf16: 16 bits of mantissa, the exponents of fp32,
// so that sums over tokens and quotients neither overflow nor vanish. fp16 inputs are such sums exactly.
struct WordPair {
  uint32_t high, low;
};
SEQCA_DEVICE WordPair split(float x0, float x1) {
  const uint32_t high = pack(bf16{}, x0, x1);
  return {high, pack(bf16{}, x0 - low_half(bf16{}, high), x1 - high_half(bf16{}, high))};
}

template <class H>
SEQCA_DEVICE void split_word(H kind, uint32_t& word, uint32_t& rest) {
  const WordPair pair = split(low_half(kind, word), high_half(kind, word));
  word = pair.high;
  rest = pair.low;
}

// A matrix (rows e, columns d) of sums over tokens in shared memory, as an operand: fp32, or two planes of bf16.
template <class S>
struct State {
  char* data;

  static constexpr int plane = S::padded * S::token_pitch;

  SEQCA_DEVICE void set(int e, int d, float x) const {
    if constexpr (is_half<typename S::Number>) {
      const WordPair pair = split(x, 0.0f);
      bf16* to = reinterpret_cast<bf16*>(data) + e * S::token_pitch + d;
      to[0].bits = static_cast<uint16_t>(pair.high);
      to[plane].bits = static_cast<uint16_t>(pair.low);
    } else {
      reinterpret_cast<float*>(data)[e * S::token_pitch + d] = x;
    }
  }

  SEQCA_DEVICE float at(int e, int d) const { return reinterpret_cast<const float*>(data)[e * S::token_pitch + d]; }

  // The fragment of the right operand at (k0, n0), high plane in words 0 and 1, low plane in 2 and 3. `rows_are_n`
  // says that e is the column of the product, so that d is summed over.
  SEQCA_DEVICE void fragment(Lanes<Words<4>>& to, int k0, int n0, bool rows_are_n) const {
    Lanes<const void*> address;
    SEQCA_EACH_LANE(lane) {
      const Place place = right_place(lane % 16, rows_are_n);
      const int k = k0 + place.row, n = n0 + place.column;
      const int e = rows_are_n ? n : k, d = rows_are_n ? k : n;
      address[lane] = reinterpret_cast<const bf16*>(data) + (lane / 16) * plane + e * S::token_pitch + d;
    }
    load_matrices(to, address, !rows_are_n);
  }
};

// Tokens [token, token + 16) and channels [channel, channel + 16) of a tile as left operand of a product.
template <class S>
struct Block {
  using T = typename S::Number;
  Lanes<Words<4>> high, low;
  Tile<S> tile;
  int token, channel;

  SEQCA_DEVICE Block(const Tile<S>& from, int first_token, int first_channel)
      : tile(from), token(first_token), channel(first_channel) {
    if constexpr (is_half<T>) {
      Lanes<const void*> address;
      SEQCA_EACH_LANE(lane) {
        const Place place = left_place(lane, !tile.channel_major);
        address[lane] = &tile.at(token + place.row, channel + place.column);
      }
      load_matrices(high, address, tile.channel_major);
      if constexpr (std::is_same_v<T, fp16>) {
        SEQCA_EACH_LANE(lane) {
          SEQCA_UNROLL
          for (int i = 0; i < 4; ++i) split_word(T{}, high[lane].word[i], low[lane].word[i]);
        }
      }
    }
  }

  // The number at place i < 8 of a lane: i < 4 where accumulators of the left 8 channels are, i >= 4 of the right.
  SEQCA_DEVICE float number(int lane, int i) const {
    if constexpr (is_half<T>) {
      const uint32_t word = high[lane].word[i / 2];
      float x = i % 2 ? high_half(bf16{}, word) : low_half(bf16{}, word);
      if constexpr (std::is_same_v<T, fp16>) {
        const uint32_t rest = low[lane].word[i / 2];
        x += i % 2 ? high_half(bf16{}, rest) : low_half(bf16{}, rest);
      }
      return x;
    } else {
      return tile.at(token + sum_row(lane, i % 4), channel + 8 * (i / 4) + sum_column(lane, i % 4));
    }
  }
};

// sums += block · state, summed over the block's channels; see State::fragment for `rows_are_n`.
template <class S>
SEQCA_DEVICE void multiply(Lanes<Sums> (&sums)[S::columns], const Block<S>& block, const State<S>& state,
                           bool rows_are_n) {
  if constexpr (is_half<typename S::Number>) {
    SEQCA_UNROLL
    for (int j = 0; j < S::columns; ++j) {
      Lanes<Words<4>> right;
      state.fragment(right, block.channel, 8 * j, rows_are_n);
      multiply_add(bf16{}, sums[j], block.high, right, 0);
      multiply_add(bf16{}, sums[j], block.high, right, 2);
      if constexpr (std::is_same_v<typename S::Number, fp16>) multiply_add(bf16{}, sums[j], block.low, right, 0);
    }
  } else {
    SEQCA_EACH_LANE(lane) {
      const int row = sum_row(lane, 0), column = sum_column(lane, 0);
      const int end = S::channels - block.channel < 16 ? S::channels - block.channel : 16;
      SEQCA_UNROLL_BY(2)
      for (int k = 0; k < end; ++k) {
        const int channel = block.channel + k;
        const float x0 = block.tile.at(block.token + row, channel);
        const float x1 = block.tile.at(block.token + row + 8, channel);
        SEQCA_UNROLL
        for (int j = 0; j < S::columns; ++j) {
          const int n = 8 * j + column;
          const float y0 = rows_are_n ? state.at(n, channel) : state.at(channel, n);
          const float y1 = rows_are_n ? state.at(n + 1, channel) : state.at(channel, n + 1);
          float (&s)[4] = sums[j][lane].value;
          s[0] = fused_multiply_add(x0, y0, s[0]);
          s[1] = fused_multiply_add(x0, y1, s[1]);
          s[2] = fused_multiply_add(x1, y0, s[2]);
          s[3] = fused_multiply_add(x1, y1, s[3]);
        }
      }
    }
  }
}

// The scale of left operands in a product over tokens: none.
struct Unscaled {
  static constexpr bool scaled = false;
};
// Numbers of token t times factor[t]; row `last_row` is instead last[t].
struct Scaled {
  static constexpr bool scaled = true;
  const float* factor;
  const float* last;
  int last_row;

  SEQCA_DEVICE float operator()(float x, int row, int token) const {
    return row == last_row ? last[token] : x * factor[token];
  }
};

// Accumulators of one warp in a product over tokens, and where they are: all rows, the columns of its group.
template <class S>
struct TokenSums {
  Lanes<Sums> sums[S::rows][S::group_columns];

  SEQCA_DEVICE void clear() {
    SEQCA_UNROLL
    for (int m = 0; m < S::rows; ++m) {
      SEQCA_UNROLL
      for (int j = 0; j < S::group_columns; ++j) {
        SEQCA_EACH_LANE(lane) sums[m][j][lane] = Sums{};
      }
    }
  }

  // sums += Σ left_t right_tᵀ over the 16 tokens from `token` on, `left` scaled.
  template <class Scale>
  SEQCA_DEVICE void add(const Tile<S>& left, const Tile<S>& right, int token, int first_column, const Scale& scale) {
    using T = typename S::Number;
    if constexpr (is_half<T>) {
      // Unscaled operands are inputs, exact in T; scaled ones are pairs of bf16, and so are fp16 inputs beside them.
      using Kind = std::conditional_t<Scale::scaled, bf16, T>;
      constexpr bool split_right = Scale::scaled && std::is_same_v<T, fp16>;
      Lanes<Words<2>> high[S::group_columns], low[S::group_columns];
      SEQCA_UNROLL
      for (int j = 0; j < S::group_columns; ++j) {
        Lanes<const void*> address;
        SEQCA_EACH_LANE(lane) {
          const Place place = right_place(lane % 16, right.channel_major);
          address[lane] = &right.at(token + place.row, first_column + 8 * j + place.column);
        }
        load_matrices(high[j], address, !right.channel_major);
        if constexpr (split_right) {
          SEQCA_EACH_LANE(lane) {
            SEQCA_UNROLL
            for (int i = 0; i < 2; ++i) split_word(T{}, high[j][lane].word[i], low[j][lane].word[i]);
          }
        }
      }
      SEQCA_UNROLL
      for (int m = 0; m < S::rows; ++m) {
        Lanes<Words<4>> a, rest;
        Lanes<const void*> address;
        SEQCA_EACH_LANE(lane) {
          const Place place = left_place(lane, left.channel_major);
          address[lane] = &left.at(token + place.column, 16 * m + place.row);
        }
        load_matrices(a, address, !left.channel_major);
        if constexpr (Scale::scaled) {
          SEQCA_EACH_LANE(lane) {
            SEQCA_UNROLL
            for (int i = 0; i < 4; ++i) {
              const Place place = left_number(lane, i);
              const int row = 16 * m + place.row, t = token + place.column;
              const uint32_t word = a[lane].word[i];
              const WordPair pair = split(scale(low_half(T{}, word), row, t), scale(high_half(T{}, word), row, t + 1));
              a[lane].word[i] = pair.high;
              rest[lane].word[i] = pair.low;
            }
          }
        }
        SEQCA_UNROLL
        for (int j = 0; j < S::group_columns; ++j) {
          multiply_add(Kind{}, sums[m][j], a, high[j], 0);
          if constexpr (Scale::scaled) multiply_add(Kind{}, sums[m][j], rest, high[j], 0);
          if constexpr (split_right) multiply_add(Kind{}, sums[m][j], a, low[j], 0);
        }
      }
    } else {
      SEQCA_EACH_LANE(lane) {
        const int row = sum_row(lane, 0), column = first_column + sum_column(lane, 0);
        for (int t = token; t < token + 16; ++t) {
          float y[S::group_columns][2];
          SEQCA_UNROLL
          for (int j = 0; j < S::group_columns; ++j) {
            y[j][0] = right.at(t, column + 8 * j);
            y[j][1] = right.at(t, column + 8 * j + 1);
          }
          SEQCA_UNROLL
          for (int m = 0; m < S::rows; ++m) {
            float x[2] = {left.at(t, 16 * m + row), left.at(t, 16 * m + row + 8)};
            if constexpr (Scale::scaled) {
              x[0] = scale(x[0], 16 * m + row, t);
              x[1] = scale(x[1], 16 * m + row + 8, t);
            }
            SEQCA_UNROLL
            for (int j = 0; j < S::group_columns; ++j) {
              float (&s)[4] = sums[m][j][lane].value;
              SEQCA_UNROLL
              for (int i = 0; i < 4; ++i) s[i] = fused_multiply_add(x[i / 2], y[j][i % 2], s[i]);
            }
          }
        }
      }
    }
  }
};

// Adds the sums of all warps, group of tokens by group of tokens, in `matrix`, fp32 (padded, 8 columns), and writes
// rows [0, rows) and columns [0, columns) of it densely to `to`.
template <class S>
SEQCA_DEVICE void write_sums(Warps<TokenSums<S>>& all, float* matrix, float* to, int rows, int columns) {
  constexpr int width = 8 * S::columns;
  static_assert(S::padded * width * 4 <= 2 * S::buffers * S::tile_bytes, "the matrix lies where the tiles were");
  barrier();
  SEQCA_UNROLL
  for (int group = 0; group < S::token_groups; ++group) {
    SEQCA_EACH_WARP(warp) {
      if (warp / S::column_groups == group) {
        const int first = warp % S::column_groups * 8 * S::group_columns;
        SEQCA_UNROLL
        for (int m = 0; m < S::rows; ++m) {
          SEQCA_UNROLL
          for (int j = 0; j < S::group_columns; ++j) {
            SEQCA_EACH_LANE(lane) {
              SEQCA_UNROLL
              for (int i = 0; i < 4; ++i) {
                float& sum = matrix[(16 * m + sum_row(lane, i)) * width + first + 8 * j + sum_column(lane, i)];
                sum = group == 0 ? all[warp].sums[m][j][lane].value[i] : sum + all[warp].sums[m][j][lane].value[i];
              }
            }
          }
        }
      }
    }
    barrier();
  }
  SEQCA_EACH_THREAD(thread, S::threads) {
    for (int i = thread; i < rows * columns; i += S::threads) to[i] = matrix[i / columns * width + i % columns];
  }
}

// Adds `parts` partial sums (E + 1, D), one after the other; the first E rows go to `state`, the last to `last`, both
// zero beyond, and all to `copy` unless it is null.
template <class S>
SEQCA_DEVICE void read_sums(const float* from, int parts, int E, int D, const State<S>& state, float* last,
                            float* copy) {
  SEQCA_EACH_THREAD(thread, S::threads) {
    for (int i = thread; i < S::padded * S::padded; i += S::threads) state.set(i / S::padded, i % S::padded, 0.0f);
    for (int d = thread; d < S::padded; d += S::threads) last[d] = 0.0f;
  }
  barrier();
  const int size = (E + 1) * D;
  SEQCA_EACH_THREAD(thread, S::threads) {
    for (int i = thread; i < size; i += S::threads) {
      float sum = from[i];
      for (int part = 1; part < parts; ++part) sum += from[static_cast<int64_t>(part) * size + i];
      const int e = i / D, d = i - e * D;
      if (e < E) {
        state.set(e, d, sum);
      } else {
        last[d] = sum;
      }
      if (copy != nullptr) copy[i] = sum;
    }
  }
  barrier();
}

}  // namespace seqca
