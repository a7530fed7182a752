"""The doubling as a function: check, cast, choose, call."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gcn_kernels import reference
from gcn_kernels.core import backends
from gcn_kernels.core.checks import Memory, check_map, check_same, check_tensor, is_channels_last, shape_of, untraced
from gcn_kernels.core.operator import autocast
from gcn_kernels.upsample.spec import TRITON_UPSAMPLE, UPSAMPLE

#: The backends that have kernels, and those that ``"auto"`` may choose: on a GPU none, until one has shown Triton's to be faster.
KERNELS = (*UPSAMPLE.backends, *TRITON_UPSAMPLE.backends)
UNASKED = UPSAMPLE.backends


def fused_upsample(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, size: Sequence[int] | None = None, backend: str = "auto"
) -> Tensor:
    """Double a map by a learnt 4 x 4 kernel: the transposed convolution of the paper's decoder.

    Equal to ``conv_transpose2d(x, weight, bias, stride=2, padding=1)``, of which ``size`` takes the first rows and columns.

    Args:
        x: map, [N, C, H, W] or [C, H, W], any strides. N may be 0.
        weight: [C, O, 4, 4]
        bias: [O] or None.
        size: (H', W') of the result, at most (2H, 2W); that if None. A map that was halved from an odd size needs it.
        backend: ``"auto"``, or one of ``"cpu"``, ``"triton"``, ``"torch"``, which then runs or raises. On a GPU ``"auto"`` is
            ``"torch"``: no GPU has shown yet that the Triton kernels are faster.

    Returns:
        [N, O, H', W'] (or [O, H', W']) in the dtype of ``x``.

    Raises:
        TypeError: an argument is not a dense tensor of float32, float64, bfloat16 or float16.
        ValueError: sizes that do not go together; an unknown backend.
        RuntimeError: mixed dtypes (outside autocast) or devices; a backend that cannot run here.

    Example:
        >>> fused_upsample(torch.zeros(1, 21, 16, 16), torch.zeros(21, 21, 4, 4), size=(31, 32)).shape
        torch.Size([1, 21, 31, 32])

    Source: Peng, Zhang, Yu, Luo, Sun, *Large Kernel Matters*, CVPR 2017, figure 2 A.
    """
    tensors = (x, weight, bias)
    device_type = x.device.type if isinstance(x, Tensor) else "meta"
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        _check(tensors)
        dtype = torch.get_autocast_dtype(device_type)
        with torch.autocast(device_type, enabled=False):
            y = _run((autocast(dtype, x), autocast(dtype, weight), None if bias is None else autocast(dtype, bias)), backend)
    else:
        y = _run(tensors, backend)
    return y if size is None else _crop(y, size)


class _How(NamedTuple):
    """What was decided for a call: the backend that runs, the layout of y, and whether x comes without a batch."""

    backend: str
    channels_last: bool
    single: bool


def _check(tensors: Sequence[Any]) -> None:
    x, weight, bias = tensors
    check_tensor("x", x)
    check_tensor("weight", weight)
    if bias is not None:
        check_tensor("bias", bias)
    check_map(x)
    if weight.dim() != 4 or weight.shape[0] != x.shape[-3] or weight.shape[1] == 0 or weight.shape[2:] != (4, 4):
        raise ValueError(f"weight: expected [{x.shape[-3]}, O, 4, 4], the first the channels of x, got {shape_of(weight)}")
    if bias is not None and bias.shape != weight.shape[1:2]:
        raise ValueError(f"bias: expected shape [{weight.shape[1]}] to go with the weight, got {shape_of(bias)}")


def _decide(tensors: Sequence[Any], backend: str, _: str | None) -> _How:
    _check(tensors)
    x, weight, _bias = tensors
    check_same(x, ("weight", "bias"), tensors[1:])
    chosen = backends.choose(backend, "auto", x, KERNELS, UNASKED)
    batch = x if x.dim() == 4 else x.unsqueeze(0)
    return _How(chosen, weight.shape[1] > 1 and (is_channels_last(batch) or is_channels_last(weight)), x.dim() == 3)


_how = Memory(_decide)


def _run(tensors: tuple[Any, ...], backend: str) -> Tensor:
    how = _how(tensors, backend, backends.foreign_transform())
    if how.backend == "torch":
        return reference.upsample(*tensors)
    if how.single:
        tensors = (tensors[0].unsqueeze(0), *tensors[1:])
    if how.backend == "triton":
        y = TRITON_UPSAMPLE(tensors, (how.channels_last, backends.allow_tf32()))
    else:
        y = UPSAMPLE(tensors, (how.channels_last,))
    return y.squeeze(0) if how.single else y


def _crop(y: Tensor, size: Sequence[int]) -> Tensor:
    untraced(_check_size, y, size)
    return y[..., : size[0], : size[1]]


def _check_size(y: Tensor, size: Sequence[int]) -> None:
    if len(size) != 2 or not (1 <= size[0] <= y.shape[-2] and 1 <= size[1] <= y.shape[-1]):
        raise ValueError(f"size: expected (H', W') from (1, 1) to {tuple(y.shape[-2:])}, got {tuple(size)}")
