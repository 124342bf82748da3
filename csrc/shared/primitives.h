// What kernels need of the machine: numbers of 16 bits, the lanes of a warp, fragments and products of the
// tensor cores, asynchronous copies, barriers.
//
// Kernel bodies are written once and run on two machines. On the GPU every thread executes them, a `Lanes` is
// one register, and the functions of this header are instructions. On the host, where tests run whole kernels
// under g++, tests/csrc/emulated_primitives.h takes the place of this header: there a `Lanes` holds the 32
// values of a warp and every function does the work of all its lanes. Hence the form of kernel bodies: code of a
// single thread stands in SEQCA_EACH_THREAD or SEQCA_EACH_LANE, collective instructions stand between those,
// and values that outlive such a block are `Lanes`.
#pragma once

#include <cstdint>

#define SEQCA_DEVICE __device__ __forceinline__
#define SEQCA_PRAGMA(text) _Pragma(#text)
#define SEQCA_UNROLL SEQCA_PRAGMA(unroll)
#define SEQCA_UNROLL_BY(times) SEQCA_PRAGMA(unroll times)
#define SEQCA_EACH_WARP(warp) if (const int warp = static_cast<int>(threadIdx.x) / 32; true)
#define SEQCA_EACH_LANE(lane) if (const int lane = static_cast<int>(threadIdx.x) % 32; true)
#define SEQCA_EACH_THREAD(thread, threads) if (const int thread = static_cast<int>(threadIdx.x); true)

namespace seqca {

struct bf16 {
  uint16_t bits;
};
struct fp16 {
  uint16_t bits;
};

// A value of every lane of a warp.
template <class V>
struct Lanes {
  V value;
  SEQCA_DEVICE V& operator[](int) { return value; }
  SEQCA_DEVICE const V& operator[](int) const { return value; }
};

// A value of every warp of a block.
template <class V>
struct Warps {
  V value;
  SEQCA_DEVICE V& operator[](int) { return value; }
};

// Registers of one lane: two 16-bit numbers in each word, the lower one first.
template <int N>
struct Words {
  uint32_t word[N];
};
// Accumulators of one lane in a 16 x 8 tile, at row(lane, i), column(lane, i) of fragments.h.
struct Sums {
  float value[4];
};

// What is written in one access of a thread.
using Wide = uint4;

SEQCA_DEVICE float fused_multiply_add(float x, float y, float z) { return __fmaf_rn(x, y, z); }

SEQCA_DEVICE float to_float(float x) { return x; }
SEQCA_DEVICE float to_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
SEQCA_DEVICE float to_float(fp16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

// Rounds to nearest even and packs; `low` goes into the lower half.
SEQCA_DEVICE uint32_t pack(bf16, float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
SEQCA_DEVICE uint32_t pack(fp16, float low, float high) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

SEQCA_DEVICE uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Loads N 8 x 8 matrices of 16-bit numbers. Lane 8 i + j gives the address of row j of matrix i, a multiple of
// 16 bytes. Lane l receives from matrix i into word i the elements (l / 4, 2 (l % 4)) and its right neighbour,
// or, transposed, (2 (l % 4), l / 4) and the one below.
SEQCA_DEVICE void load_matrices(Lanes<Words<4>>& to, const Lanes<const void*>& row, bool transposed) {
  uint32_t (&w)[4] = to.value.word;
  if (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "r"(shared_address(row.value))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "r"(shared_address(row.value))
                 : "memory");
  }
}

SEQCA_DEVICE void load_matrices(Lanes<Words<2>>& to, const Lanes<const void*>& row, bool transposed) {
  uint32_t (&w)[2] = to.value.word;
  if (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(w[0]), "=r"(w[1])
                 : "r"(shared_address(row.value))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(w[0]), "=r"(w[1])
                 : "r"(shared_address(row.value))
                 : "memory");
  }
}

// sums += a b, with a (16, 16) and b (16, 8) of bf16 or fp16, summed in fp32; b is in two words from `word` on.
template <int N>
SEQCA_DEVICE void multiply_add(bf16, Lanes<Sums>& sums, const Lanes<Words<4>>& a, const Lanes<Words<N>>& b, int word) {
  float (&s)[4] = sums.value.value;
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
      : "r"(a.value.word[0]), "r"(a.value.word[1]), "r"(a.value.word[2]), "r"(a.value.word[3]), "r"(b.value.word[word]),
        "r"(b.value.word[word + 1]));
}
template <int N>
SEQCA_DEVICE void multiply_add(fp16, Lanes<Sums>& sums, const Lanes<Words<4>>& a, const Lanes<Words<N>>& b, int word) {
  float (&s)[4] = sums.value.value;
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
      : "r"(a.value.word[0]), "r"(a.value.word[1]), "r"(a.value.word[2]), "r"(a.value.word[3]), "r"(b.value.word[word]),
        "r"(b.value.word[word + 1]));
}

// Adds over the four lanes that share a row of accumulators; all of them receive the same bits.
SEQCA_DEVICE void sum_over_quad(Lanes<float>& x) {
  x.value += __shfl_xor_sync(0xffffffffu, x.value, 1);
  x.value += __shfl_xor_sync(0xffffffffu, x.value, 2);
}

// Starts copying `valid` bytes, 0 <= valid <= Bytes, from global to shared memory; the rest becomes zero. Both
// addresses are multiples of Bytes; `from` is not read where valid is 0.
template <int Bytes>
SEQCA_DEVICE void copy_async(void* to, const void* from, int valid) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "sizes that the hardware copies");
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(Bytes),
               "r"(valid)
               : "memory");
}

// Closes the group of copies started since the last call.
SEQCA_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's groups but the last `Pending`.
template <int Pending>
SEQCA_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

SEQCA_DEVICE void barrier() { __syncthreads(); }

}  // namespace seqca
