"""The strips as a function: check, cast, choose, call."""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gcn_kernels import reference
from gcn_kernels.core import backends
from gcn_kernels.core.checks import Memory, is_channels_last, untraced
from gcn_kernels.reference import Step
from gcn_kernels.strips import problem
from gcn_kernels.strips.spec import CUDA_STRIPS, STRIPS, TRITON_STRIPS, form_of

#: The backends that have kernels, and those that ``"auto"`` may choose: no GPU has run Triton's, or the CUDA kernels as they are.
KERNELS = (*STRIPS.backends, *TRITON_STRIPS.backends)
UNASKED = ("cpu",)


def fused_strips(
    x: Tensor,
    branches: Sequence[Sequence[Step]],
    *,
    stem: Step | None = None,
    skip: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Depthwise strips: the sum of chains of depthwise convolutions, with an optional stem before them.

    Equal to (see :func:`gcn_kernels.reference.strips`)::

        a = conv(x, stem)           if there is a stem, else x
        y = (a if skip else 0) + sum over branches of conv_n( ... conv_1(a))

    where every conv is depthwise with stride 1 and zero padding that keeps the size. All of it is one operator with its own
    backward pass, which saves x and computes the maps between the steps again. The attention of SegNeXt (MSCA), Strip R-CNN,
    LSKA, PKINet, and the branches of SLaK and InceptionNeXt have this form.

    Args:
        x: map, [N, C, H, W] or [C, H, W], any strides: a slice of the channels of a larger map is read in place. N may be 0.
        branches: chains of steps. A step is ``(weight, bias)`` or ``(weight, bias, dilation)``: weight [C, 1, kh, kw] with odd
            kh and kw, which may exceed the map; bias [C] or None; dilation an int or (dh, dw).
        stem: a step before all branches, or None.
        skip: whether the branches' input is added to their sum.
        backend: ``"auto"``, or one of ``"cpu"``, ``"cuda"``, ``"triton"``, ``"torch"`` (plain convolutions), which then runs or
            raises. On a GPU ``"auto"`` is ``"torch"``: no GPU has shown yet that the kernels, as they are, are faster.

    Returns:
        A map of the shape and dtype of ``x``, channels_last where ``x`` is.

    Raises:
        TypeError: an argument is not a dense tensor of float32, float64, bfloat16 or float16; a step is no tuple.
        ValueError: sizes or dilations that do not form strips; an unknown backend.
        RuntimeError: mixed dtypes (outside autocast) or devices; a backend that cannot run here.

    Example:
        >>> x = torch.randn(1, 64, 32, 32)
        >>> row, column = torch.randn(64, 1, 1, 11), torch.randn(64, 1, 11, 1)
        >>> fused_strips(x, [[(row, None), (column, None)]]).shape
        torch.Size([1, 64, 32, 32])

    Source: Guo et al., *SegNeXt*, NeurIPS 2022, section 3.1; Yuan et al., *Strip R-CNN*, 2025, section 3.
    """
    if backends.straight_to_cpu(x, backend) and (plain := problem.plain(x, branches, stem)) is not None:
        *tensors, lengths, dilations, biased = plain
        options = lengths, dilations, biased, stem is not None, bool(skip), is_channels_last(x)
        # What the kernels refuse, the checks name.
        with contextlib.suppress(RuntimeError):
            return STRIPS.run(tensors, options)
    strips = problem.arrange(branches, stem, skip)
    device_type = x.device.type if isinstance(x, Tensor) else "meta"
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        untraced(problem.check, x, strips)
        dtype = torch.get_autocast_dtype(device_type)
        with torch.autocast(device_type, enabled=False):
            return _run(x if x.dtype == torch.float64 else x.to(dtype), strips.to(dtype), backend)
    return _run(x, strips, backend)


class _How(NamedTuple):
    """What was decided for a call: the backend that runs, what it is told of the strips, and whether x comes without a batch."""

    backend: str
    options: tuple[object, ...]
    single: bool


def _decide(tensors: Sequence[Any], rest: tuple[Any, ...], backend: str, _: str | None) -> _How:
    x, parameters, steps = tensors[0], tuple(tensors[1:]), len(tensors) // 2
    strips = problem.Strips(parameters[:steps], parameters[steps:], *rest)
    problem.check(x, strips)
    problem.check_same(x, strips)
    chosen = backends.choose(backend, "auto", x, KERNELS, UNASKED)
    batch = x if x.dim() == 4 else x.unsqueeze(0)
    return _How(chosen, (*form_of(strips), is_channels_last(batch)), x.dim() == 3)


_how = Memory(_decide)


def _run(x: Tensor, strips: problem.Strips, backend: str) -> Tensor:
    weights, biases, *rest = strips
    how = _how((x, *weights, *biases), tuple(rest), backend, backends.foreign_transform())
    if how.backend == "torch":
        branches, stem = strips.steps()
        return reference.strips(x, branches, stem=stem, skip=strips.skip)
    tensors = (x.unsqueeze(0) if how.single else x, list(weights), [b for b in biases if b is not None])
    if how.backend == "cuda":
        y = CUDA_STRIPS(tensors, (*how.options, backends.allow_tf32()))
    else:
        y = (TRITON_STRIPS if how.backend == "triton" else STRIPS)(tensors, how.options)
    return y.squeeze(0) if how.single else y
