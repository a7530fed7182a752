"""What a valid problem is: the one place where arguments are checked, before anything is allocated or launched.

Every message says what was expected, what came and what to do. The kinds of error follow ``conv2d``: ``TypeError`` for
something that is not a usable tensor, ``ValueError`` for sizes, ``RuntimeError`` for dtypes or devices that do not go
together.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
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
        RuntimeError: dtypes or devices differ, or a gradient is asked for on the meta device.
    """
    _check_tensor("x", x)
    for name, w in zip(WEIGHTS, weights, strict=True):
        _check_tensor(name, w)
    for name, b in zip(BIASES, biases, strict=True):
        if b is not None:
            _check_tensor(name, b)

    if x.dim() not in (3, 4):
        raise ValueError(f"x: expected [N, C, H, W] or [C, H, W], got {x.dim()} dimensions: {_shape(x)}")
    channels, height, width = x.shape[-3:]
    if channels == 0 or height == 0 or width == 0:
        raise ValueError(f"x: expected C, H and W of at least 1 (only the batch may be empty), got {_shape(x)}")

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
            raise ValueError(f"{name}: expected shape [{size}] to go with its weight, got {_shape(b)}")


def check_same(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
    """Raise unless all tensors share ``x``'s dtype and device (checked after autocast has had its say)."""
    dtype, device = x.dtype, x.device
    records = x.requires_grad
    for name, t in zip(WEIGHTS + BIASES, [*weights, *biases], strict=True):
        if t is None:
            continue
        records = records or t.requires_grad
        if t.dtype != dtype:
            raise RuntimeError(
                f"x and {name} should have the same dtype, got {dtype} and {t.dtype}: convert one of them, or use torch.autocast"
            )
        if t.device != device:
            raise RuntimeError(f"x and {name} should be on the same device, got {device} and {t.device}: move one of them")
    if device.type == "meta" and records and torch.is_grad_enabled():
        raise RuntimeError(
            "expected tensors with data to record a gradient, got device 'meta' with requires_grad=True: "
            "use torch.no_grad() for shape inference, or materialise the tensors first"
        )


def _check_tensor(name: str, t: object) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(t).__name__}")
    if t.is_nested:
        raise TypeError(f"{name}: expected a dense (strided) tensor, got a nested one: call it once for each tensor inside")
    if t.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense (strided) tensor, got layout {t.layout}: call .to_dense() first")
    if t.dtype not in DTYPES:
        expected = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        raise TypeError(f"{name}: expected one of the dtypes {expected}, got {str(t.dtype).removeprefix('torch.')}")


def _check_weight(name: str, w: Tensor, channels: int, source: str) -> int:
    """Check one weight against the channels it reads; return the channels it gives."""
    kernel_dim = KERNEL_DIM[name]
    form = "[out, in, k, 1]" if kernel_dim == 2 else "[out, in, 1, k]"
    shape = w.shape
    if len(shape) != 4 or shape[5 - kernel_dim] != 1:
        raise ValueError(f"{name}: expected {form}, got {_shape(w)}")
    if shape[kernel_dim] % 2 != 1:
        raise ValueError(f"{name}: expected {form} with an odd k, got {_shape(w)}: an even k has no 'same' padding")
    if shape[0] == 0:
        raise ValueError(f"{name}: expected at least one output channel, got {_shape(w)}")
    if shape[1] != channels:
        raise ValueError(f"{name}: expected {channels} input channels because {source} {channels}, got {_shape(w)}")
    return shape[0]


def _shape(t: Tensor) -> str:
    return f"shape {list(t.shape)}"
