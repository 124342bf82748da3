// Tiles of tokens in shared memory: loads into them, and outputs on their way out.
#pragma once

#include "maps.h"
#ifdef __CUDACC__
#include "primitives.h"
#else
#include "emulated_primitives.h"
#endif

#include <type_traits>

namespace seqca {

template <class T>
inline constexpr bool is_half = sizeof(T) == 2;

// Sizes of a kernel for numbers T and up to C channels, all known to the compiler.
template <class T, int C>
struct Tiling : TileShape<C> {
  using Number = T;
  using Base = TileShape<C>;
  static constexpr int threads = 32 * Base::warps;
  static constexpr int token_pitch = pitch<sizeof(T)>(Base::padded);
  static constexpr int channel_pitch = pitch<sizeof(T)>(Base::tokens);
  static constexpr int by_tokens = Base::tokens * token_pitch;
  static constexpr int by_channels = Base::padded * channel_pitch;
  static constexpr int tile_numbers = by_tokens > by_channels ? by_tokens : by_channels;
  static constexpr int tile_bytes = tile_numbers * static_cast<int>(sizeof(T));
  // While one buffer is computed on the next one fills; fp32 at 72 channels has no memory left for that.
  static constexpr int buffers = sizeof(T) == 4 && C == 72 ? 1 : 2;
  static constexpr int state_bytes = Base::padded * token_pitch * 4;
  static constexpr int stage_bytes = Base::tokens * C * static_cast<int>(sizeof(T));
};

// A tile of S::tokens tokens in shared memory: the channels of a token side by side, or the tokens of a channel,
// whichever way they lie in global memory.
template <class S>
struct Tile {
  typename S::Number* data;
  bool channel_major;

  SEQCA_DEVICE typename S::Number& at(int token, int channel) const {
    return data[channel_major ? channel * S::channel_pitch + token : token * S::token_pitch + channel];
  }
};

// Fills the channels behind the last one, which loads never touch: zeros, and ones in the first of them if asked.
// With the ones, the product of values and keys has the sum of the keys as its last row.
template <class S>
SEQCA_DEVICE void fill_padding(const Tile<S>& tile, int channels, bool ones) {
  const int width = S::padded - channels;
  SEQCA_EACH_THREAD(thread, S::threads) {
    for (int i = thread; i < S::tokens * width; i += S::threads) {
      const int channel = i % width;
      typename S::Number x{};
      if (ones && channel == 0) {
        if constexpr (is_half<typename S::Number>) {
          x.bits = static_cast<uint16_t>(pack(x, 1.0f, 1.0f));
        } else {
          x = 1.0f;
        }
      }
      tile.at(i / width, channels + channel) = x;
    }
  }
}

template <class S, int Bytes>
SEQCA_DEVICE void copy_chunks(const Tile<S>& tile, const View& view, const char* data, int rows, int row_limit,
                              int column_limit) {
  using T = typename S::Number;
  constexpr int width = Bytes / static_cast<int>(sizeof(T));
  const int row_pitch = view.channel_major ? S::channel_pitch : S::token_pitch;
  SEQCA_EACH_THREAD(thread, S::threads) {
    SEQCA_UNROLL_BY(4)
    for (int i = thread; i < rows * view.chunks_per_row; i += S::threads) {
      const int row = chunk_row(i, view.magic);
      const int column = (i - row * view.chunks_per_row) * width;
      const int valid = row < row_limit ? clamp(column_limit - column, 0, width) : 0;
      const T* from = reinterpret_cast<const T*>(data);
      if (valid > 0) from += row * view.row_stride + column * view.column_stride;
      T* to = tile.data + row * row_pitch + column;
      if constexpr (Bytes >= 4) {
        copy_async<Bytes>(to, from, valid * static_cast<int>(sizeof(T)));
      } else {
        *to = valid > 0 ? *from : T{};
      }
    }
  }
}

// Starts to load the tokens from `first` on, of `tokens` in all; those past the end become zero. `leading` is the
// leading index. The data is there after wait_for_copies and a barrier.
template <class S>
SEQCA_DEVICE void load_tile(const Tile<S>& tile, const View& view, int64_t leading, int64_t first, int64_t tokens) {
  const int64_t token_stride = view.channel_major ? view.column_stride : view.row_stride;
  const int64_t offset = leading_offset(view, leading) + first * token_stride;
  const char* data = static_cast<const char*>(view.data) + offset * static_cast<int64_t>(sizeof(typename S::Number));
  const int left = tokens - first < S::tokens ? static_cast<int>(tokens - first) : S::tokens;
  const int rows = view.channel_major ? view.channels : S::tokens;
  const int row_limit = view.channel_major ? view.channels : left;
  const int column_limit = view.channel_major ? left : view.channels;
  switch (view.chunk_bytes) {
    case 16: return copy_chunks<S, 16>(tile, view, data, rows, row_limit, column_limit);
    case 8: return copy_chunks<S, 8>(tile, view, data, rows, row_limit, column_limit);
    case 4: return copy_chunks<S, 4>(tile, view, data, rows, row_limit, column_limit);
    default:
      if constexpr (is_half<typename S::Number>) copy_chunks<S, 2>(tile, view, data, rows, row_limit, column_limit);
  }
}

// Runs `use(buffer, tile)` on the tiles [begin, end) while `load(buffer, tile)` fetches the one after.
template <class S, class Load, class Use>
SEQCA_DEVICE void for_each_tile(int64_t begin, int64_t end, Load load, Use use) {
  if constexpr (S::buffers == 2) {
    if (begin < end) load(0, begin);
    commit_copies();
  }
  for (int64_t tile = begin; tile < end; ++tile) {
    const int buffer = S::buffers == 2 ? static_cast<int>((tile - begin) % 2) : 0;
    if constexpr (S::buffers == 2) {
      if (tile + 1 < end) load(1 - buffer, tile + 1);
      commit_copies();
      wait_for_copies<1>();
    } else {
      load(0, tile);
      commit_copies();
      wait_for_copies<0>();
    }
    barrier();
    use(buffer, tile);
    barrier();
  }
}

// Puts accumulators of 16 tokens from `token` on into `stage`, dense (tokens, channels).
template <class S>
SEQCA_DEVICE void stage_sums(typename S::Number* stage, Lanes<Sums> (&sums)[S::columns], int token, int channels) {
  using T = typename S::Number;
  SEQCA_EACH_LANE(lane) {
    SEQCA_UNROLL
    for (int j = 0; j < S::columns; ++j) {
      const int channel = 8 * j + sum_column(lane, 0);
      SEQCA_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float x0 = sums[j][lane].value[2 * half], x1 = sums[j][lane].value[2 * half + 1];
        T* to = stage + (token + sum_row(lane, 2 * half)) * channels + channel;
        if constexpr (is_half<T>) {
          const uint32_t word = pack(T{}, x0, x1);
          if (channel < channels) to[0].bits = static_cast<uint16_t>(word);
          if (channel + 1 < channels) to[1].bits = static_cast<uint16_t>(word >> 16);
        } else {
          if (channel < channels) to[0] = x0;
          if (channel + 1 < channels) to[1] = x1;
        }
      }
    }
  }
}

template <class S, class Word>
SEQCA_DEVICE void write_words(void* to, const void* stage, int64_t bytes) {
  SEQCA_EACH_THREAD(thread, S::threads) {
    for (int64_t i = thread; i < bytes / static_cast<int64_t>(sizeof(Word)); i += S::threads) {
      static_cast<Word*>(to)[i] = static_cast<const Word*>(stage)[i];
    }
  }
}

// Writes the first tokens of `stage` to the dense tensor `to` (leading_size, tokens, channels): one run of memory.
template <class S>
SEQCA_DEVICE void write_stage(const typename S::Number* stage, void* to, int64_t leading, int64_t first, int64_t tokens,
                              int channels) {
  using T = typename S::Number;
  T* begin = static_cast<T*>(to) + (leading * tokens + first) * channels;
  const int64_t left = tokens - first < S::tokens ? tokens - first : S::tokens;
  const int64_t bytes = left * channels * static_cast<int64_t>(sizeof(T));
  const uintptr_t alignment = reinterpret_cast<uintptr_t>(begin) | static_cast<uintptr_t>(bytes);
  if (alignment % 16 == 0) return write_words<S, Wide>(begin, stage, bytes);
  if (alignment % 4 == 0) return write_words<S, uint32_t>(begin, stage, bytes);
  write_words<S, T>(begin, stage, bytes);
}

}  // namespace seqca
