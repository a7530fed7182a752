"""Which sums of two chains of steps a fused operator computes.

A rule takes the two sides and the backend, and gives the function that computes their sum, or None. Another operator is another
rule; other kinds of steps that it needs are further classes in :mod:`gcn_kernels.swap.expression` and entries of
:data:`gcn_kernels.swap.scope.EXTEND`.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from gcn_kernels.gcn.functional import fused_gcn
from gcn_kernels.swap.expression import Convolution, Step, ZeroAdded


class Rule(Protocol):
    """See the module."""

    def __call__(self, *sides: Step, backend: str) -> Callable[[], Tensor] | None: ...


def gcn(*sides: Step, backend: str) -> Callable[[], Tensor] | None:
    """The block of Peng et al. 2017: k x 1, 1 x k plus 1 x k, k x 1 over the same map."""
    left, right = (step.source if isinstance(step, ZeroAdded) else step for step in sides)
    if not isinstance(left, Convolution) or not isinstance(right, Convolution):
        return None
    first_left, first_right = left.before, right.before
    if not isinstance(first_left, Convolution) or not isinstance(first_right, Convolution):
        return None
    if first_left.before is not first_right.before or left.axis == right.axis:
        return None
    x = left.x
    if any(a != b for t, a in first_left.stamps for u, b in first_right.stamps if t is u):
        return None
    if left.axis == 0:
        # The sum takes its layout from its left operand, which matters to the operator only through the first weights.
        left, right, first_left, first_right = right, left, first_right, first_left
    weights = (first_left.weight, left.weight, first_right.weight, right.weight)
    biases = (first_left.bias, left.bias, first_right.bias, right.bias)

    def compute() -> Tensor:
        if torch.compiler.is_compiling():
            return fused_gcn(x, *weights, *biases, backend=backend)
        # It may choose PyTorch's convolutions, which are not to wait for their results once more.
        with torch._C.DisableTorchFunction():
            return fused_gcn(x, *weights, *biases, backend=backend)

    return compute


RULES: list[Rule] = [gcn]
