"""The doubling as a function: check, cast, choose, call."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gcn_kernels import reference
from gcn_kernels.core import backends
from gcn_kernels.core.checks import (
    Memory,
    check_map,
    check_same,
    check_tensor,
    is_channels_last,
    shape_of,
    tracing_state,
    untraced,
)
from gcn_kernels.core.operator import autocast, is_traced, records
from gcn_kernels.upsample.spec import DOUBLING, SIZES, TRITON_DOUBLING

#: The backends that have kernels, and those that ``"auto"`` may choose: on a GPU none, until one has shown kernels to be faster.
KERNELS = (*DOUBLING.backends, *TRITON_DOUBLING.backends)
UNASKED = ("cpu",)
#: Bytes of a result that caches do not hold: each channel by itself, PyTorch writes it faster in channels_last and inference.
LARGE = 8 << 20


def fused_upsample(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    add: Tensor | None = None,
    size: Sequence[int] | None = None,
    groups: int = 1,
    backend: str = "auto",
) -> Tensor:
    """Double a map by a learnt kernel: the transposed convolution of the paper's decoder, and others like it.

    The kernel's size tells which one: 4 x 4 is ``conv_transpose2d(x, weight, bias, stride=2, padding=1)``, 3 x 3 the same with
    ``output_padding=1``, 2 x 2 that with ``stride=2`` alone. Of its result ``size`` takes the first rows and columns, and ``add``
    is added in the same pass, with the numbers of ``add + fused_upsample(x, weight, bias, size=add.shape[-2:])``.

    Args:
        x: map, [N, C, H, W] or [C, H, W], any strides. N may be 0.
        weight: [C, O, k, k], k of 2, 3 or 4; [C, 1, k, k] with ``groups`` of C.
        bias: [O] or None.
        add: [N, O, H', W'] (or [O, H', W']), any strides, or None: the lateral map of a decoder. Its gradient is the result's.
        size: (H', W') of the result, at most (2H, 2W); that of ``add``, or else 2H x 2W, if None. A map that was halved from an
            odd size needs it.
        groups: 1, or C: each channel is doubled by itself, as bilinear interpolation does; then O is C.
        backend: ``"auto"``, or one of ``"cpu"``, ``"cuda"``, ``"triton"``, ``"torch"``, which then runs or raises. On a GPU
            ``"auto"`` is ``"torch"``: no GPU has shown yet that the kernels are faster.

    Returns:
        [N, O, H', W'] (or [O, H', W']) in the dtype of ``x``.

    Raises:
        TypeError: an argument is not a dense tensor of float32, float64, bfloat16 or float16.
        ValueError: sizes that do not go together; an unknown backend.
        RuntimeError: mixed dtypes (outside autocast) or devices; a backend that cannot run here, or not this dtype.

    Example:
        >>> fused_upsample(torch.zeros(1, 21, 16, 16), torch.zeros(21, 21, 4, 4), size=(31, 32)).shape
        torch.Size([1, 21, 31, 32])
        >>> fused_upsample(torch.zeros(1, 21, 16, 16), torch.zeros(21, 1, 4, 4), add=torch.zeros(1, 21, 32, 32), groups=21).shape
        torch.Size([1, 21, 32, 32])

    Source: Peng, Zhang, Yu, Luo, Sun, *Large Kernel Matters*, CVPR 2017, figure 2 A.
    """
    if (size is not None or type(groups) is not int) and not torch.compiler.is_compiling():
        _check_numbers(size, groups)
    tensors = (x, weight, bias, add)
    device_type = x.device.type if isinstance(x, Tensor) else "meta"
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return _run(tensors, size, groups, backend)
    untraced(_check, tensors, size, groups)
    dtype = torch.get_autocast_dtype(device_type)
    x, weight, bias = (None if t is None else autocast(dtype, t) for t in tensors[:3])  # type: ignore[assignment]
    with torch.autocast(device_type, enabled=False):
        if add is None or add.dtype == x.dtype:
            return _run((x, weight, bias, add), size, groups, backend)
        # A sum of two dtypes, which is not autocast's to change.
        return add + _run((x, weight, bias, None), add.shape[-2:], groups, backend)


class _How(NamedTuple):
    """What was decided for a call: the backend that runs, the layout of y, and whether x comes without a batch."""

    backend: str
    channels_last: bool
    single: bool


def _check_numbers(size: object, groups: object) -> None:
    """Raise unless both are of whole numbers, NumPy's and traced ones included; which ones, :func:`_check` looks at."""
    if not hasattr(groups, "__index__"):
        raise ValueError(f"groups: expected 1, or as many as x has channels, got {groups!r}")
    if size is not None and not (isinstance(size, Collection) and all(hasattr(number, "__index__") for number in size)):
        raise ValueError(f"size: expected two whole numbers (H', W'), got {size!r}")


def _check(tensors: Sequence[Any], size: Sequence[int] | None, groups: int) -> None:
    x, weight, bias, add = tensors
    check_tensor("x", x)
    check_tensor("weight", weight)
    if bias is not None:
        check_tensor("bias", bias)
    if add is not None:
        check_tensor("add", add)
    check_map(x)
    channels, height, width = x.shape[-3:]
    if groups != 1 and groups != channels:  # "in" knows no symbolic size
        raise ValueError(f"groups: expected 1, or {channels} as x has channels, got {groups!r}")
    fits = weight.dim() == 4 and weight.shape[0] == channels and weight.shape[2] in SIZES and weight.shape[2] == weight.shape[3]
    if not fits or weight.shape[1] == 0 or (groups > 1 and weight.shape[1] != 1):
        expected = f"[{channels}, {'O' if groups == 1 else 1}, k, k]"
        raise ValueError(f"weight: expected {expected} with k of 2, 3 or 4, the first the channels of x, got {shape_of(weight)}")
    outputs = weight.shape[1] * groups
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"bias: expected shape [{outputs}] to go with the weight, got {shape_of(bias)}")
    if size is not None and (len(size) != 2 or not (1 <= size[0] <= 2 * height and 1 <= size[1] <= 2 * width)):
        raise ValueError(f"size: expected (H', W') from (1, 1) to {(2 * height, 2 * width)}, got {tuple(size)}")
    if add is not None:
        form = [*x.shape[:-3], outputs]
        if (
            add.dim() != x.dim()
            or list(add.shape[:-2]) != form
            or not (1 <= add.shape[-2] <= 2 * height and 1 <= add.shape[-1] <= 2 * width)
        ):
            listed = ", ".join(map(str, form))
            raise ValueError(
                f"add: expected [{listed}, H', W'] with H' and W' from (1, 1) to {(2 * height, 2 * width)}, got {shape_of(add)}"
            )
        if size is not None and (add.shape[-2] != size[0] or add.shape[-1] != size[1]):
            raise ValueError(f"add: expected a map of the size {tuple(size)} that is asked for, got {shape_of(add)}")


def _decide(
    tensors: Sequence[Any], size: Sequence[int] | None, groups: int, backend: str, _: str | None, inference: bool = False
) -> _How:
    _check(tensors, size, groups)
    x, weight, bias, add = tensors
    check_same(x, ("weight", "bias", "add"), tensors[1:])
    chosen = backends.choose(backend, "auto", x, KERNELS, UNASKED)
    like = x if add is None else add
    batch = like if like.dim() == 4 else like.unsqueeze(0)
    channels_last = is_channels_last(batch) or (add is None and is_channels_last(weight))
    # With a bias, PyTorch takes twenty times as long.
    if inference and bias is None and channels_last and backend == "auto" and chosen == "cpu" and x.dtype == torch.float32:
        chosen = "torch" if 4 * x.numel() * x.element_size() > LARGE else chosen
    return _How(chosen, weight.shape[1] * groups > 1 and channels_last, x.dim() == 3)


_how = Memory(_decide)


def _run(tensors: tuple[Any, ...], size: Sequence[int] | None, groups: int, backend: str) -> Tensor:
    asked = None if size is None else tuple(size)
    inference = groups > 1 and tensors[3] is None and not is_traced() and not records(tensors)
    how = _how(tensors, asked, groups, backend, backends.foreign_transform(), inference)
    if how.backend == "torch":
        x, weight, bias, add = tensors
        return reference.upsample(x, weight, bias, add=add, size=size, groups=groups)
    if how.single:
        x, weight, bias, add = tensors
        tensors = (x.unsqueeze(0), weight, bias, None if add is None else add.unsqueeze(0))
    form: tuple[object, ...] = (groups, how.channels_last)
    operator = DOUBLING
    if how.backend == "triton":
        form, operator = (*form, backends.allow_tf32()), TRITON_DOUBLING
    if asked is None or tensors[3] is not None:
        y = operator(tensors, (None, None, *form))
    elif tracing_state():  # which would take the size for a constant
        y = _cropped(operator(tensors, (None, None, *form)), size)
    else:
        y = operator(tensors, (*asked, *form))
    return y.squeeze(0) if how.single else y


def _cropped(y: Tensor, size: Sequence[int] | None) -> Tensor:
    return y if size is None else y[..., : size[0], : size[1]]
