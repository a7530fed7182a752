"""What a valid problem is: the one place where arguments are checked, before anything is allocated or launched.

Every message says what was expected, what came and what to do. The kinds of error follow ``conv2d``: ``TypeError`` for
something that is not a usable tensor, ``ValueError`` for sizes, ``RuntimeError`` for dtypes or devices that do not go
together.
"""

from collections.abc import Sequence

from torch import Tensor

from gcn_kernels.core.checks import check_map, check_tensor, shape_of

WEIGHTS = ("w_l1", "w_l2", "w_r1", "w_r2")
BIASES = ("b_l1", "b_l2", "b_r1", "b_r2")
#: Which dimension of each weight carries the kernel: 2 for a k x 1 convolution (along H), 3 for 1 x k (along W).
KERNEL_DIM = {"w_l1": 2, "w_l2": 3, "w_r1": 3, "w_r2": 2}


def check(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
    """Raise unless ``x`` ([N, C, H, W] or [C, H, W]) and the eight parameters form one GCN block.

    Args:
        x: input map.
        weights: ``w_l1, w_l2, w_r1, w_r2`` in this order.
        biases: ``b_l1, b_l2, b_r1, b_r2`` in this order, each a tensor or None.

    Raises:
        TypeError: an argument is not a dense tensor of a supported floating dtype.
        ValueError: ranks or sizes do not form a block.
    """
    check_tensor("x", x)
    for name, w in zip(WEIGHTS, weights, strict=True):
        check_tensor(name, w)
    for name, b in zip(BIASES, biases, strict=True):
        if b is not None:
            check_tensor(name, b)

    check_map(x)
    channels = x.shape[-3]
    w_l1, w_l2, w_r1, w_r2 = weights
    middle_l = _check_weight("w_l1", w_l1, channels, "x has")
    middle_r = _check_weight("w_r1", w_r1, channels, "x has")
    out_l = _check_weight("w_l2", w_l2, middle_l, "w_l1 gives")
    out_r = _check_weight("w_r2", w_r2, middle_r, "w_r1 gives")
    if out_l != out_r:
        raise ValueError(
            f"w_l2 and w_r2: expected equal output channels, because the branches are summed; got {out_l} and {out_r}"
        )
    for name, b, size in zip(BIASES, biases, (middle_l, out_l, middle_r, out_r), strict=True):
        if b is not None and b.shape != (size,):
            raise ValueError(f"{name}: expected shape [{size}] to go with its weight, got {shape_of(b)}")


def _check_weight(name: str, w: Tensor, channels: int, source: str) -> int:
    """Check one weight against the channels it reads; return the channels it gives."""
    kernel_dim = KERNEL_DIM[name]
    form = "[out, in, k, 1]" if kernel_dim == 2 else "[out, in, 1, k]"
    shape = w.shape
    if len(shape) != 4 or shape[5 - kernel_dim] != 1:
        raise ValueError(f"{name}: expected {form}, got {shape_of(w)}")
    if shape[kernel_dim] % 2 != 1:
        raise ValueError(f"{name}: expected {form} with an odd k, got {shape_of(w)}: an even k has no 'same' padding")
    if shape[0] == 0:
        raise ValueError(f"{name}: expected at least one output channel, got {shape_of(w)}")
    if shape[1] != channels:
        raise ValueError(f"{name}: expected {channels} input channels because {source} {channels}, got {shape_of(w)}")
    return shape[0]
