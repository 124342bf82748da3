// Goes through all arguments of the maps in csrc/shared/maps.h; prints what it checked, aborts at the first violation.
//
// The layouts that they are compared with are written down from the PTX ISA, "Warp-level matrix instructions".
#include "shared/maps.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <utility>
#include <vector>

#include "emulated_primitives.h"

using namespace seqca;

// Accumulators, C and D of m16n8k16: row = groupID for c0, c1 and groupID + 8 for c2, c3;
// column = 2 threadID + (i & 1).
void accumulators_are_where_the_isa_has_them() {
  std::set<std::pair<int, int>> seen;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int group = lane >> 2, thread = lane & 3;
      require(sum_row(lane, i) == (i < 2 ? group : group + 8), "row of an accumulator");
      require(sum_column(lane, i) == thread * 2 + (i & 1), "column of an accumulator");
      seen.insert({sum_row(lane, i), sum_column(lane, i)});
    }
  }
  require(seen.size() == 16 * 8, "accumulators cover the product");
}

// A of m16n8k16, words of two: a0 a1 | a2 a3 | a4 a5 | a6 a7 are rows g, g + 8, g, g + 8 and columns 2t, 2t,
// 2t + 8, 2t + 8.
Place left_in_isa(int lane, int word) {
  static constexpr int row[] = {0, 8, 0, 8}, column[] = {0, 0, 8, 8};
  return {(lane >> 2) + row[word], (lane & 3) * 2 + column[word]};
}

void left_operands_arrive_where_products_expect_them() {
  std::set<std::pair<int, int>> seen;
  for (int lane = 0; lane < 32; ++lane) {
    for (int word = 0; word < 4; ++word) {
      const Place place = left_number(lane, word), isa = left_in_isa(lane, word);
      require(place.row == isa.row && place.column == isa.column, "number of a left operand");
      seen.insert({place.row, place.column});
      seen.insert({place.row, place.column + 1});
    }
  }
  require(seen.size() == 16 * 16, "left operands are covered");

  for (const bool k_contiguous : {true, false}) {
    alignas(16) uint16_t stored[16][16];
    for (int m = 0; m < 16; ++m) {
      for (int k = 0; k < 16; ++k) (k_contiguous ? stored[m][k] : stored[k][m]) = static_cast<uint16_t>(m * 16 + k);
    }
    Lanes<const void*> address;
    for (int lane = 0; lane < 32; ++lane) {
      const Place place = left_place(lane, k_contiguous);
      address[lane] = k_contiguous ? &stored[place.row][place.column] : &stored[place.column][place.row];
    }
    Lanes<Words<4>> words;
    load_matrices(words, address, !k_contiguous);
    for (int lane = 0; lane < 32; ++lane) {
      for (int word = 0; word < 4; ++word) {
        const Place isa = left_in_isa(lane, word);
        const uint32_t low = isa.row * 16 + isa.column;
        require(words[lane].word[word] == (low | (low + 1) << 16), "left operand through ldmatrix");
      }
    }
  }
}

// B of m16n8k16: b0 b1 | b2 b3 are rows 2t and 2t + 8, column g.
void right_operands_arrive_where_products_expect_them() {
  for (const bool k_contiguous : {true, false}) {
    alignas(16) uint16_t stored[16][16];
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 8; ++n) (k_contiguous ? stored[n][k] : stored[k][n]) = static_cast<uint16_t>(k * 8 + n);
    }
    Lanes<const void*> address;
    for (int lane = 0; lane < 32; ++lane) {
      const Place place = right_place(lane % 16, k_contiguous);
      address[lane] = k_contiguous ? &stored[place.column][place.row] : &stored[place.row][place.column];
    }
    Lanes<Words<2>> words;
    load_matrices(words, address, !k_contiguous);
    for (int lane = 0; lane < 32; ++lane) {
      for (int word = 0; word < 2; ++word) {
        const int k = (lane & 3) * 2 + 8 * word, n = lane >> 2;
        require(words[lane].word[word] == static_cast<uint32_t>((k * 8 + n) | (k * 8 + 8 + n) << 16),
                "right operand through ldmatrix");
      }
    }
  }
}

// A quarter of a warp reads 8 rows of 16 bytes at once: without conflicts if they fall into all 32 banks.
template <int NumberBytes>
void rows_lie_in_different_banks() {
  for (int numbers = 1; numbers <= 128; ++numbers) {
    const int bytes = pitch<NumberBytes>(numbers) * NumberBytes;
    require(bytes >= numbers * NumberBytes && bytes < numbers * NumberBytes + 32, "pitch is just wide enough");
    std::set<int> banks;
    for (int row = 0; row < 8; ++row) {
      require(row * bytes % 16 == 0, "rows are aligned");
      for (int word = 0; word < 4; ++word) banks.insert((row * bytes / 4 + word) % 32);
    }
    require(banks.size() == 32, "eight rows use all banks");
  }
}

void chunks_cover_rows() {
  for (int per_row = 1; per_row <= 80; ++per_row) {
    const uint32_t magic = chunk_magic(per_row);
    for (int chunk = 0; chunk < 80 * per_row; ++chunk) {
      require(chunk_row(chunk, magic) == chunk / per_row, "row of a chunk");
    }
  }
}

void parts_share_the_tiles() {
  for (int64_t tiles = 0; tiles <= 300; ++tiles) {
    for (int parts = 1; parts <= max_parts; ++parts) {
      int64_t next = 0;
      for (int part = 0; part < parts; ++part) {
        const Range range = tiles_of_part(tiles, parts, part);
        require(range.begin == next && range.end >= range.begin, "parts follow each other");
        require(range.end - range.begin - tiles / parts <= 1, "parts are of one size");
        next = range.end;
      }
      require(next == tiles, "parts cover all tiles");
    }
  }
  for (int64_t tiles = 0; tiles <= 300; ++tiles) {
    for (int64_t leading_size : {1, 2, 7, 96, 5000}) {
      const int parts = parts_for(tiles, tiles * leading_size, 528);
      require(parts >= 1 && parts <= max_parts && (parts == 1 || parts <= tiles), "number of parts");
      require(parts == 1 || parts * leading_size <= 528, "about the blocks that were wanted");
    }
  }
  const int64_t many = int64_t{1} << 40;
  require(tiles_of_part(many, max_parts, max_parts - 1).end == many, "64-bit tiles");
}

template <int C>
void shape_holds_its_channels() {
  using S = TileShape<C>;
  require(S::padded % 16 == 0 && S::padded > C && S::padded <= C + 16, "space for the sum of the keys");
  require(8 * S::columns >= C && 8 * S::columns <= S::padded, "columns");
  require(S::tokens == tile_tokens(C), "tokens of a tile");
  // Every 16 x 8 tile of the sums, and every token, belongs to exactly one warp.
  std::vector<int> seen(S::columns * S::tokens / 16);
  for (int warp = 0; warp < S::warps; ++warp) {
    for (int j = 0; j < S::group_columns; ++j) {
      for (int t = 0; t < S::group_tokens; t += 16) {
        const int column = warp % S::column_groups * S::group_columns + j;
        const int token = warp / S::column_groups * S::group_tokens + t;
        ++seen[column * (S::tokens / 16) + token / 16];
      }
    }
  }
  for (const int times : seen) require(times == 1, "each product is done once");
}

void leading_indices_use_64_bits() {
  View view{};
  view.inner_size = 3;
  view.outer_stride = int64_t{1} << 33;
  view.inner_stride = int64_t{5} << 31;
  require(leading_offset(view, 7) == 2 * view.outer_stride + view.inner_stride, "offset of a leading index");
}

int main() {
  accumulators_are_where_the_isa_has_them();
  left_operands_arrive_where_products_expect_them();
  right_operands_arrive_where_products_expect_them();
  rows_lie_in_different_banks<2>();
  rows_lie_in_different_banks<4>();
  chunks_cover_rows();
  parts_share_the_tiles();
  shape_holds_its_channels<18>();
  shape_holds_its_channels<36>();
  shape_holds_its_channels<72>();
  leading_indices_use_64_bits();
  std::puts("all maps hold");
}
