"""The specification of the doubling: its operators, the shapes of their results, their definition.

There are three pairs: ``doubling`` and ``doubling_backward``, compiled for CPUs and GPUs; ``triton_upsample`` and
``triton_upsample_backward``; and ``upsample`` and ``upsample_backward``, which graphs saved by earlier versions call.
"""

import torch
from torch import Tensor

from gcn_kernels import reference
from gcn_kernels.core.operator import Operator


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    add: Tensor | None,
    height: int | None,
    width: int | None,
    groups: int,
    channels_last: bool,
) -> Tensor:
    n, _, h, w = x.shape
    size = (2 * h if height is None else height, 2 * w if width is None else width) if add is None else add.shape[2:]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((n, weight.shape[1] * groups, *size), dtype=x.dtype, device=x.device, memory_format=layout)


def _fake_upsample(x: Tensor, weight: Tensor, bias: Tensor | None, channels_last: bool) -> Tensor:
    return _fake(x, weight, bias, None, None, None, 1, channels_last)


def _definition(x: Tensor, weight: Tensor, bias: Tensor | None, *, groups: int) -> Tensor:
    return reference.upsample(x, weight, bias, groups=groups)


DOUBLING = Operator(
    schema=(
        "gcn_kernels::doubling(Tensor x, Tensor weight, Tensor? bias, Tensor? add, SymInt? height, SymInt? width, int groups, "
        "bool channels_last) -> Tensor"
    ),
    backward_schema=(
        "gcn_kernels::doubling_backward(Tensor dy, Tensor x, Tensor weight, int wanted, int groups) -> (Tensor, Tensor, Tensor)"
    ),
    results=("y",),
    definition=_definition,
    fake=_fake,
    vectors={"bias": ("dy", 1)},
    added=("add",),
    definition_options=("groups",),
    backends=("cpu", "cuda"),
)

#: For graphs that were saved: no call chooses it.
UPSAMPLE = Operator(
    schema="gcn_kernels::upsample(Tensor x, Tensor weight, Tensor? bias, bool channels_last) -> Tensor",
    backward_schema=(
        "gcn_kernels::upsample_backward(Tensor dy, Tensor x, Tensor weight, int wanted) -> (Tensor, Tensor, Tensor)"
    ),
    results=("y",),
    definition=reference.upsample,
    fake=_fake_upsample,
    vectors={"bias": ("weight", 1)},
    backends=(),
)

#: Declared, with their shapes, by :mod:`gcn_kernels.triton`.
TRITON_UPSAMPLE = Operator(
    schema=("gcn_kernels::triton_upsample(Tensor x, Tensor weight, Tensor? bias, bool channels_last, bool allow_tf32) -> Tensor"),
    backward_schema=(
        "gcn_kernels::triton_upsample_backward(Tensor dy, Tensor x, Tensor weight, int wanted, bool allow_tf32) "
        "-> (Tensor, Tensor, Tensor)"
    ),
    results=("y",),
    definition=reference.upsample,
    vectors={"bias": ("weight", 1)},
    backends=("triton",),
)
