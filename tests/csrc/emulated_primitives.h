// csrc/shared/primitives.h on the host: every function does the work of all 32 lanes of a warp.
//
// Fragments are written down here from the PTX ISA, independently of the maps in csrc/shared/maps.h: a kernel that
// mixes up rows and columns gives wrong sums. Asynchronous copies arrive only when waited for, so that reading
// too early finds what the memory was poisoned with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define SEQCA_DEVICE inline
#define SEQCA_UNROLL
#define SEQCA_UNROLL_BY(times)
#define SEQCA_EACH_WARP(warp) for (int warp = 0; warp < seqca::emulated_warps; ++warp)
#define SEQCA_EACH_LANE(lane) for (int lane = 0; lane < 32; ++lane)
#define SEQCA_EACH_THREAD(thread, threads) for (int thread = 0; thread < (threads); ++thread)

namespace seqca {

inline int emulated_warps = 4;
inline long products_done = 0;

struct bf16 {
  uint16_t bits;
};
struct fp16 {
  uint16_t bits;
};

template <class V>
struct Lanes {
  V value[32];
  V& operator[](int lane) { return value[lane]; }
  const V& operator[](int lane) const { return value[lane]; }
};

template <class V>
struct Warps {
  V value[4];
  V& operator[](int warp) { return value[warp]; }
};

template <int N>
struct Words {
  uint32_t word[N];
};
struct Sums {
  float value[4];
};

inline void require(bool condition, const char* what) {
  if (!condition) {
    std::fprintf(stderr, "violated: %s\n", what);
    std::abort();
  }
}

inline float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t to_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

struct alignas(16) Wide {
  uint64_t half[2];
};

inline float fused_multiply_add(float x, float y, float z) { return std::fma(x, y, z); }

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return from_bits(static_cast<uint32_t>(x.bits) << 16); }
inline float to_float(fp16 x) {
  const int exponent = (x.bits >> 10) & 31, mantissa = x.bits & 1023;
  const float sign = x.bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024.0f + mantissa, exponent - 25) : std::ldexp(float(mantissa), -24));
}

inline bf16 round_to(bf16, float x) {
  uint32_t bits = to_bits(x);
  if (std::isnan(x)) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
inline fp16 round_to(fp16, float x) {
  if (std::isnan(x)) return {0x7fff};
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float magnitude = std::fabs(x);
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
  if (magnitude == 0.0f) return {sign};
  const int exponent = std::max(std::ilogb(magnitude), -14);
  // nearbyint rounds to nearest even; a carry moves into the exponent by itself.
  const int mantissa = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return {static_cast<uint16_t>(sign | (mantissa + ((exponent + 14) << 10)))};
}

template <class H>
uint32_t pack(H kind, float low, float high) {
  return round_to(kind, low).bits | static_cast<uint32_t>(round_to(kind, high).bits) << 16;
}

template <int N>
void load_matrices(Lanes<Words<N>>& to, const Lanes<const void*>& row, bool transposed) {
  for (int matrix = 0; matrix < N; ++matrix) {
    uint16_t element[8][8];
    for (int j = 0; j < 8; ++j) {
      const void* address = row[8 * matrix + j];
      require(reinterpret_cast<uintptr_t>(address) % 16 == 0, "rows of matrices are aligned to 16 bytes");
      std::memcpy(element[j], address, 16);
    }
    for (int lane = 0; lane < 32; ++lane) {
      const int r = lane / 4, c = 2 * (lane % 4);
      const uint16_t low = transposed ? element[c][r] : element[r][c];
      const uint16_t high = transposed ? element[c + 1][r] : element[r][c + 1];
      to[lane].word[matrix] = low | static_cast<uint32_t>(high) << 16;
    }
  }
}

// "Matrix fragments for mma.m16n8k16 with floating point type": groupID = lane / 4, threadID_in_group = lane % 4.
template <class H, int N>
void multiply_add(H, Lanes<Sums>& sums, const Lanes<Words<4>>& a, const Lanes<Words<N>>& b, int first) {
  ++products_done;
  static float matrix_a[16][16], matrix_b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, thread = lane % 4;
    for (int i = 0; i < 8; ++i) {
      const int row = (i < 2 || (i >= 4 && i < 6)) ? group : group + 8;
      const int column = thread * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      matrix_a[row][column] = to_float(H{static_cast<uint16_t>(a[lane].word[i / 2] >> (16 * (i % 2)))});
    }
    for (int i = 0; i < 4; ++i) {
      const int row = thread * 2 + (i & 1) + (i >= 2 ? 8 : 0);
      const uint32_t word = b[lane].word[first + i / 2];
      matrix_b[row][group] = to_float(H{static_cast<uint16_t>(word >> (16 * (i % 2)))});
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? lane / 4 : lane / 4 + 8;
      const int column = (lane % 4) * 2 + (i & 1);
      float sum = sums[lane].value[i];
      for (int k = 0; k < 16; ++k) sum += matrix_a[row][k] * matrix_b[k][column];
      sums[lane].value[i] = sum;
    }
  }
}

inline void sum_over_quad(Lanes<float>& x) {
  for (int distance = 1; distance < 4; distance *= 2) {
    const Lanes<float> before = x;
    for (int lane = 0; lane < 32; ++lane) x[lane] = before[lane] + before[lane ^ distance];
  }
}

struct Copy {
  void* to;
  const void* from;
  int bytes, valid;
};
inline std::vector<std::vector<Copy>> copy_groups(1);

template <int Bytes>
void copy_async(void* to, const void* from, int valid) {
  require(reinterpret_cast<uintptr_t>(to) % Bytes == 0, "copies are aligned in shared memory");
  require(valid == 0 || reinterpret_cast<uintptr_t>(from) % Bytes == 0, "copies are aligned in global memory");
  require(valid >= 0 && valid <= Bytes, "a copy reads no more than its size");
  copy_groups.back().push_back({to, from, Bytes, valid});
}

inline void commit_copies() { copy_groups.emplace_back(); }

template <int Pending>
void wait_for_copies() {
  while (copy_groups.size() > Pending + 1) {
    for (const Copy& copy : copy_groups.front()) {
      std::memset(copy.to, 0, copy.bytes);
      std::memcpy(copy.to, copy.from, copy.valid);
    }
    copy_groups.erase(copy_groups.begin());
  }
}

inline void barrier() {}

}  // namespace seqca
