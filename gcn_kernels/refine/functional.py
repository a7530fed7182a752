"""Boundary refinement as a function: check, cast, choose, call."""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gcn_kernels import reference
from gcn_kernels.core import backends
from gcn_kernels.core.checks import Memory, check_map, check_same, check_tensor, is_channels_last, shape_of
from gcn_kernels.core.operator import autocast
from gcn_kernels.refine.spec import CUDA_REFINE, REFINE, TRITON_REFINE

#: The backends that have kernels, and those that ``"auto"`` may choose: on a GPU none, until one has shown kernels to be faster.
KERNELS = (*REFINE.backends, *CUDA_REFINE.backends, *TRITON_REFINE.backends)
UNASKED = REFINE.backends
NAMES = ("x", "w1", "w2", "b1", "b2")


def fused_refine(
    x: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None = None, b2: Tensor | None = None, *, backend: str = "auto"
) -> Tensor:
    """Refine a map: ``x + conv2d(relu(conv2d(x, w1, b1, padding=1)), w2, b2, padding=1)``, the boundary refinement of the paper.

    The map between the convolutions is never in memory as a whole: training saves x alone.

    Args:
        x: map, [N, C, H, W] or [C, H, W], any strides. N may be 0.
        w1: [M, C, 3, 3]
        w2: [C, M, 3, 3]
        b1: [M] or None.
        b2: [C] or None.
        backend: ``"auto"``, or one of ``"cpu"``, ``"cuda"``, ``"triton"``, ``"torch"``, which then runs or raises. On a GPU
            ``"auto"`` is ``"torch"``: the kernels have not run on one yet.

    Returns:
        A map like ``x``, in its dtype.

    Raises:
        TypeError: an argument is not a dense tensor of float32, float64, bfloat16 or float16.
        ValueError: sizes that do not go together; an unknown backend.
        RuntimeError: mixed dtypes (outside autocast) or devices; a backend that cannot run here.

    Example:
        >>> fused_refine(torch.zeros(1, 21, 16, 16), torch.zeros(24, 21, 3, 3), torch.zeros(21, 24, 3, 3)).shape
        torch.Size([1, 21, 16, 16])

    Source: Peng, Zhang, Yu, Luo, Sun, *Large Kernel Matters*, CVPR 2017, section 3.2 and figure 2 C.
    """
    tensors = (x, w1, w2, b1, b2)
    if backends.straight_to_cpu(x, backend) and x.dim() == 4 and w1 is not None and w2 is not None and backends.plain(tensors):
        # What the kernels refuse, the checks name.
        with contextlib.suppress(RuntimeError):
            return REFINE.run(tensors, (x.shape[1] > 1 and is_channels_last(x),))
    device_type = x.device.type if isinstance(x, Tensor) else "meta"
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        _check(tensors)
        dtype = torch.get_autocast_dtype(device_type)
        with torch.autocast(device_type, enabled=False):
            return _run(tuple(None if t is None else autocast(dtype, t) for t in tensors), backend)
    return _run(tensors, backend)


class _How(NamedTuple):
    """What was decided for a call: the backend that runs, the layout of y, and whether x comes without a batch."""

    backend: str
    channels_last: bool
    single: bool


def _check(tensors: Sequence[Any]) -> None:
    x, w1, w2, b1, b2 = tensors
    for name, t in zip(NAMES, tensors, strict=True):
        if t is not None or name not in ("b1", "b2"):
            check_tensor(name, t)
    check_map(x)
    channels = x.shape[-3]
    if w1.dim() != 4 or w1.shape[0] == 0 or w1.shape[1:] != (channels, 3, 3):
        raise ValueError(f"w1: expected [M, {channels}, 3, 3], the second the channels of x, got {shape_of(w1)}")
    if w2.shape != (channels, w1.shape[0], 3, 3):
        raise ValueError(f"w2: expected [{channels}, {w1.shape[0]}, 3, 3], back to the channels of x, got {shape_of(w2)}")
    for name, bias, weight in (("b1", b1, w1), ("b2", b2, w2)):
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"{name}: expected shape [{weight.shape[0]}] to go with its weight, got {shape_of(bias)}")


def _decide(tensors: Sequence[Any], backend: str, _: str | None) -> _How:
    _check(tensors)
    x = tensors[0]
    check_same(x, NAMES[1:], tensors[1:])
    chosen = backends.choose(backend, "auto", x, KERNELS, UNASKED)
    batch = x if x.dim() == 4 else x.unsqueeze(0)
    return _How(chosen, x.shape[-3] > 1 and is_channels_last(batch), x.dim() == 3)


_how = Memory(_decide)


def _run(tensors: tuple[Any, ...], backend: str) -> Tensor:
    how = _how(tensors, backend, backends.foreign_transform())
    if how.backend == "torch":
        return reference.refine(*tensors)
    if how.single:
        tensors = (tensors[0].unsqueeze(0), *tensors[1:])
    if how.backend == "cuda":
        y = CUDA_REFINE(tensors, (how.channels_last, backends.allow_tf32()))
    elif how.backend == "triton":
        y = TRITON_REFINE(tensors, (how.channels_last, backends.allow_tf32()))
    else:
        y = REFINE(tensors, (how.channels_last,))
    return y.squeeze(0) if how.single else y
