"""Adding a matrix product to an accumulator.

Tensor cores take tf32 factors as float32 and leave the lower 13 bits out. Cut off like that, a factor is up to 2^-10 too small
and never too large, and errors add up over a product's depth (on an H100 to 1.6 times what the tests' rule allows); rounded to
the nearest first, as cuDNN's convolutions have it, they are half as large and cancel.
"""

import triton
import triton.language as tl


@triton.jit
def _round_to_tf32(x):
    bits = (x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
    return tl.where(x == x, bits.to(tl.float32, bitcast=True), x)  # a nan could overflow into a number


@triton.jit
def add_product(a, b, total, PRECISION: tl.constexpr):
    """total + a @ b; float32 in ``PRECISION``, ``"tf32"`` or ``"ieee"``."""
    if PRECISION == "tf32":
        a = _round_to_tf32(a)
        b = _round_to_tf32(b)
    return tl.dot(a, b, total, input_precision=PRECISION)
