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

#include "backward.h"
#include "forward.h"
