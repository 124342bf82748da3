// From tensors of any strides to the views that kernels read: pieces of leading indices, widths of accesses. Plain C++,
// run on the host and tested there.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "tiles.h"

namespace seqca {

// A tensor (..., tokens, channels).
struct Tensor3 {
  const void* data;
  std::vector<int64_t> sizes, strides;  // in numbers

  int64_t tokens() const { return sizes[sizes.size() - 2]; }
  int64_t channels() const { return sizes[sizes.size() - 1]; }
  int64_t leading_size() const {
    int64_t count = 1;
    for (size_t i = 0; i + 2 < sizes.size(); ++i) count *= sizes[i];
    return count;
  }
};

// Leading indices [first, first + outer * inner) of tensors, in which each tensor moves by two strides.
struct Piece {
  int64_t first, outer, inner;
  std::vector<int64_t> offset, outer_stride, inner_stride;  // by tensor
};

// Cuts the leading indices of tensors of equal leading sizes into pieces. Neighbouring dimensions that every tensor
// walks with one stride become one; of more than two that remain, the outer ones are gone through here.
inline std::vector<Piece> pieces_of(const std::vector<const Tensor3*>& tensors) {
  struct Dimension {
    int64_t size;
    std::vector<int64_t> stride;
  };
  std::vector<Dimension> dimensions;
  const std::vector<int64_t>& sizes = tensors[0]->sizes;
  for (size_t i = 0; i + 2 < sizes.size(); ++i) {
    if (sizes[i] == 1) continue;
    Dimension dimension{sizes[i], {}};
    for (const Tensor3* tensor : tensors) dimension.stride.push_back(tensor->strides[i]);
    bool merges = !dimensions.empty();
    for (size_t t = 0; merges && t < tensors.size(); ++t) {
      merges = dimensions.back().stride[t] == dimension.stride[t] * dimension.size;
    }
    if (merges) {
      dimensions.back().size *= dimension.size;
      dimensions.back().stride = dimension.stride;
    } else {
      dimensions.push_back(dimension);
    }
  }
  const std::vector<int64_t> still(tensors.size(), 0);
  while (dimensions.size() < 2) dimensions.insert(dimensions.begin(), {1, still});

  const Dimension outer = dimensions[dimensions.size() - 2], inner = dimensions.back();
  std::vector<Piece> pieces{{0, outer.size, inner.size, still, outer.stride, inner.stride}};
  int64_t inside = outer.size * inner.size;
  for (size_t i = dimensions.size() - 2; i-- > 0;) {
    std::vector<Piece> repeated;
    for (int64_t index = 0; index < dimensions[i].size; ++index) {
      for (Piece piece : pieces) {
        piece.first += index * inside;
        for (size_t t = 0; t < tensors.size(); ++t) piece.offset[t] += index * dimensions[i].stride[t];
        repeated.push_back(piece);
      }
    }
    inside *= dimensions[i].size;
    pieces = repeated;
  }
  return pieces;
}

// How kernels read one tensor of a piece, in tiles of `tile` tokens: along whichever of tokens and channels lies
// together, in the widest chunks to which everything is aligned.
inline View view_of(const Tensor3& tensor, const Piece& piece, size_t index, int number_bytes, int tile) {
  const size_t dimensions = tensor.sizes.size();
  const int64_t token_stride = tensor.strides[dimensions - 2], channel_stride = tensor.strides[dimensions - 1];
  View view{};
  view.data = static_cast<const char*>(tensor.data) + piece.offset[index] * number_bytes;
  view.outer_stride = piece.outer_stride[index];
  view.inner_stride = piece.inner_stride[index];
  view.inner_size = static_cast<int32_t>(piece.inner);
  view.channels = static_cast<int32_t>(tensor.channels());
  view.channel_major = channel_stride != 1 && (token_stride == 1 || std::abs(token_stride) < std::abs(channel_stride));
  view.row_stride = view.channel_major ? channel_stride : token_stride;
  view.column_stride = view.channel_major ? token_stride : channel_stride;

  const int row = view.channel_major ? tile : view.channels;
  view.chunk_bytes = number_bytes;
  for (int bytes = 16; bytes > number_bytes && view.column_stride == 1; bytes /= 2) {
    const auto aligned = [&](int64_t stride) { return stride * number_bytes % bytes == 0; };
    if (reinterpret_cast<uintptr_t>(view.data) % bytes == 0 && aligned(row) && aligned(view.row_stride) &&
        (piece.outer == 1 || aligned(view.outer_stride)) && (piece.inner == 1 || aligned(view.inner_stride))) {
      view.chunk_bytes = bytes;
      break;
    }
  }
  view.chunks_per_row = row * number_bytes / view.chunk_bytes;
  view.magic = chunk_magic(view.chunks_per_row);
  return view;
}

}  // namespace seqca
