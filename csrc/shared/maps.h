// Where things are: fragments of the tensor cores, tiles, chunks of loads, splits of reductions. Pure functions,
// the same on host and device; tests/csrc goes through all their arguments.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SEQCA_MAP __host__ __device__ constexpr
#else
#define SEQCA_MAP constexpr
#endif

namespace seqca {

SEQCA_MAP int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }
SEQCA_MAP int64_t ceil_divide(int64_t x, int64_t y) { return (x + y - 1) / y; }

// ---- Fragments of mma.m16n8k16 (PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type") ----

struct Place {
  int row, column;
};

// Row and column of accumulator i < 4 of a lane in the 16 x 8 product.
SEQCA_MAP int sum_row(int lane, int i) { return lane / 4 + 8 * (i / 2); }
SEQCA_MAP int sum_column(int lane, int i) { return 2 * (lane % 4) + i % 2; }

// Row and column in the 16 x 16 left operand of the lower number in word i < 4 of a lane; the upper number is the
// next one along k, the column.
SEQCA_MAP Place left_number(int lane, int i) { return {lane / 4 + 8 * (i % 2), 2 * (lane % 4) + 8 * (i / 2)}; }

// Where a lane points for ldmatrix to bring the left operand, row m and column k: rows of 8 numbers along k if k is
// contiguous, else along m (and transposed).
SEQCA_MAP Place left_place(int lane, bool k_contiguous) {
  const int matrix = lane / 8, j = lane % 8;
  const int m = 8 * (matrix % 2), k = 8 * (matrix / 2);
  return k_contiguous ? Place{m + j, k} : Place{m, k + j};
}

// The same for the 16 x 8 right operand, row k and column n, and lanes below 16.
SEQCA_MAP Place right_place(int lane, bool k_contiguous) {
  const int k = 8 * (lane / 8), j = lane % 8;
  return k_contiguous ? Place{k, j} : Place{k + j, 0};
}

// ---- Tiles ----

// Numbers from one row of a tile in shared memory to the next: rows start at multiples of 16 bytes, and an odd
// number of those, so that eight rows in a column lie in different banks.
template <int NumberBytes>
SEQCA_MAP int pitch(int numbers) {
  const int unit = 16 / NumberBytes;
  return ((numbers + unit - 1) / unit | 1) * unit;
}

// The classes of channel counts that kernels are compiled for; a call runs in the smallest that holds it.
inline constexpr int channel_classes[] = {18, 36, 72};
inline constexpr int max_channels = 72;

template <int C>
struct TileShape {
  static constexpr int channels = C;
  // One channel more than C, for the sum of the keys, up to whole fragments.
  static constexpr int padded = (C / 16 + 1) * 16;
  static constexpr int rows = padded / 16;
  static constexpr int columns = (C + 7) / 8;
  // A product over channels takes 16 tokens per warp. A product over tokens is shared by `column_groups` warps, each
  // with a part of its columns, and the tokens of a tile by `token_groups` of those. At 72 channels the accumulators
  // of all columns would not fit into the registers of one warp.
  static constexpr int warps = C > 36 ? 3 : 4;
  static constexpr int tokens = 16 * warps;
  static constexpr int column_groups = C > 36 ? 3 : 1;
  static constexpr int token_groups = warps / column_groups;
  static constexpr int group_columns = columns / column_groups;
  static constexpr int group_tokens = tokens / token_groups;
  static_assert(column_groups * token_groups == warps && group_columns * column_groups == columns);
};

SEQCA_MAP int tile_tokens(int channel_class) { return channel_class > 36 ? 48 : 64; }

// ---- Loads ----

// A tensor (leading indices, tokens, channels) as kernels read it. A row is what lies together: the channels of a
// token, or the tokens of a channel. Rows are read in chunks.
struct View {
  const void* data;
  int64_t outer_stride, inner_stride;  // of the leading index, outer * inner_size + inner
  int64_t row_stride, column_stride;   // in numbers
  int32_t inner_size;
  int32_t channels;
  int32_t chunk_bytes;     // 16, 8, 4; 2 for single half numbers; column_stride is 1 unless a chunk is one number
  int32_t chunks_per_row;  // of a tile
  uint32_t magic;          // for chunk_row
  bool channel_major;
};

SEQCA_MAP int64_t leading_offset(const View& view, int64_t leading) {
  return leading / view.inner_size * view.outer_stride + leading % view.inner_size * view.inner_stride;
}

// chunk / chunks_per_row without a division: exact for chunk < 2^20 / chunks_per_row, and tiles have at most
// 80 * 52 chunks of at most 72 a row.
inline constexpr int magic_bits = 20;
SEQCA_MAP uint32_t chunk_magic(int chunks_per_row) {
  return ((1u << magic_bits) + static_cast<uint32_t>(chunks_per_row) - 1) / static_cast<uint32_t>(chunks_per_row);
}
SEQCA_MAP int chunk_row(int chunk, uint32_t magic) {
  return static_cast<int>(static_cast<uint32_t>(chunk) * magic >> magic_bits);
}

// ---- Splits ----

struct Range {
  int64_t begin, end;
};

// Tiles of part `part` of `parts`: consecutive, disjoint, together all, their numbers differing by at most one.
SEQCA_MAP Range tiles_of_part(int64_t tiles, int parts, int part) {
  return {tiles * part / parts, tiles * (part + 1) / parts};
}

// Over how many blocks the tokens of one leading index, `tiles` of them, are split, so that about `blocks` run for
// the `all_tiles` of a call. It depends on the shapes alone, hence sums do not depend on the machine. Not more than
// `max_parts`, since every block that needs the sums reads all parts.
inline constexpr int max_parts = 32;
SEQCA_MAP int parts_for(int64_t tiles, int64_t all_tiles, int blocks) {
  const int64_t wanted = all_tiles > 0 ? tiles * blocks / all_tiles : 1;
  const int64_t most = tiles < max_parts ? tiles : max_parts;
  const int64_t parts = wanted < most ? wanted : most;
  return parts < 1 ? 1 : static_cast<int>(parts);
}

}  // namespace seqca
