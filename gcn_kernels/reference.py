"""The definitions of the operators: plain convolutions and sums.

Every backend is tested against :func:`gcn` or :func:`strips` in float64. They run wherever PyTorch runs, support every dtype and
every derivative that :func:`torch.nn.functional.conv2d` supports, and are what ``backend="torch"`` means.
"""

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch.nn.functional as F
from torch import Tensor

from gcn_kernels.core.checks import tracing_state, untraced

#: (weight [C, 1, kh, kw], bias [C] or None) or (weight, bias, dilation) of one depthwise convolution.
Step = tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, int | tuple[int, int]]


def gcn(
    x: Tensor,
    w_l1: Tensor,
    w_l2: Tensor,
    w_r1: Tensor,
    w_r2: Tensor,
    b_l1: Tensor | None = None,
    b_l2: Tensor | None = None,
    b_r1: Tensor | None = None,
    b_r2: Tensor | None = None,
) -> Tensor:
    """Global convolution (Peng et al. 2017, section 3.1) as four :func:`torch.nn.functional.conv2d` calls.

    Shapes are those of :func:`gcn_kernels.fused_gcn`; every convolution is zero-padded to keep the map's size.
    """
    # int(): a kernel's size is a constant, also where map sizes are symbolic.
    l1, l2, r1, r2 = [untraced(_sizes, w) if tracing_state() else w.shape for w in (w_l1, w_l2, w_r1, w_r2)]
    left = F.conv2d(x, w_l1, b_l1, padding=(int(l1[2]) // 2, 0))
    left = F.conv2d(left, w_l2, b_l2, padding=(0, int(l2[3]) // 2))
    right = F.conv2d(x, w_r1, b_r1, padding=(0, int(r1[3]) // 2))
    right = F.conv2d(right, w_r2, b_r2, padding=(int(r2[2]) // 2, 0))
    return left + right


def upsample(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    add: Tensor | None = None,
    size: Sequence[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """Doubling of a map by a learnt kernel (Peng et al. 2017, figure 2 A): a transposed convolution with stride 2.

    Arguments are those of :func:`gcn_kernels.fused_upsample`. A kernel of 4 x 4 is padded by 1, one of 3 x 3 by 1 with one more
    row and column at the end of the result, one of 2 x 2 not at all.
    """
    kernel = int((untraced(_sizes, weight) if tracing_state() else weight.shape)[2])
    y = F.conv_transpose2d(x, weight, bias, 2, int(kernel > 2), int(kernel == 3), groups)
    if add is not None:
        size = add.shape[-2:]
    y = y if size is None else y[..., : size[0], : size[1]]
    return y if add is None else add + y


def refine(x: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None = None, b2: Tensor | None = None) -> Tensor:
    """Boundary refinement (Peng et al. 2017, figure 2 C): a map plus two 3 x 3 convolutions of it with a ReLU between.

    Shapes are those of :func:`gcn_kernels.fused_refine`; both convolutions are zero-padded to keep the map's size.
    """
    return x + F.conv2d(F.relu(F.conv2d(x, w1, b1, padding=1)), w2, b2, padding=1)


def strips(x: Tensor, branches: Sequence[Sequence[Step]], *, stem: Step | None = None, skip: bool = False) -> Tensor:
    """Depthwise strips: a stem, then the sum of chains of depthwise convolutions (and of their input if ``skip``).

    Arguments are those of :func:`gcn_kernels.fused_strips`; every convolution pads its own input with zeros to keep the size.
    """

    def conv(t: Tensor, step: Step) -> Tensor:
        weight, bias, dilation = step if len(step) == 3 else (*step, 1)
        dh, dw = (dilation, dilation) if isinstance(dilation, int) else dilation
        channels, _, kh, kw = untraced(_sizes, weight) if tracing_state() else weight.shape
        padding = dh * (int(kh) // 2), dw * (int(kw) // 2)
        return F.conv2d(t, weight, bias, padding=padding, dilation=(dh, dw), groups=int(channels))

    a = x if stem is None else conv(x, stem)
    chains = [reduce(conv, branch, a) for branch in branches]
    return reduce(add, chains, a) if skip else reduce(add, chains)


def _sizes(t: Tensor) -> Sequence[int]:
    return t.shape
