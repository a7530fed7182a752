"""Whether places lie inside a map."""

import triton
import triton.language as tl


@triton.jit
def is_below(index, size):
    """0 <= index < size, as one comparison: a negative index is a large number without a sign."""
    return index.to(tl.uint32, bitcast=True) < tl.cast(size, tl.uint32)
