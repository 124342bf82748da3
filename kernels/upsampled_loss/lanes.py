"""Loads and stores of tiles whose last axis is shared out among threads, the others lying in the registers of each.

As tensors of one axis: of several axes the compiler makes that one the threads' whose addresses it takes for
contiguous, by rules that differ between its versions, and a layout other than the arithmetic's is an exchange through
shared memory in every iteration.
"""

import triton
import triton.language as tl


@triton.jit
def load_lanes(pointers):
    """Values of the shape of their addresses."""
    return tl.load(pointers.reshape([pointers.numel])).reshape(pointers.shape)


@triton.jit
def load_lanes_where(pointers, mask):
    """Values of the shape of their addresses, 0 where not `mask`."""
    flat = tl.load(pointers.reshape([pointers.numel]), mask=mask.reshape([pointers.numel]), other=0.0)
    return flat.reshape(pointers.shape)


@triton.jit
def store_lanes(pointers, values, mask):
    """`values` where `mask`, all of one shape."""
    COUNT: tl.constexpr = values.numel
    tl.store(pointers.reshape([COUNT]), values.reshape([COUNT]), mask=mask.reshape([COUNT]))
