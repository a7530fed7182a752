"""The specification of the doubling: its operators, the shapes of their results, their definition.

There are two pairs, ``doubling`` and ``doubling_backward``, compiled for CPUs and GPUs, and ``triton_doubling`` and
``triton_doubling_backward``. Graphs saved by earlier versions call two others, ``upsample`` and ``upsample_backward``, and
``triton_upsample`` and ``triton_upsample_backward``, of 4 x 4 alone.
"""

import torch
from torch import Tensor

from gcn_kernels import reference
from gcn_kernels.core.operator import Operator

#: Kernels k x k; a transposed convolution with stride 2 doubles with padding k > 2 and output_padding k == 3.
SIZES = (2, 3, 4)


def fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    add: Tensor | None,
    height: int | None,
    width: int | None,
    groups: int,
    channels_last: bool,
) -> Tensor:
    """y without data."""
    n, _, h, w = x.shape
    size = (2 * h if height is None else height, 2 * w if width is None else width) if add is None else add.shape[2:]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((n, weight.shape[1] * groups, *size), dtype=x.dtype, device=x.device, memory_format=layout)


def _fake_upsample(x: Tensor, weight: Tensor, bias: Tensor | None, channels_last: bool) -> Tensor:
    return fake(x, weight, bias, None, None, None, 1, channels_last)


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
    fake=fake,
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
TRITON_DOUBLING = Operator(
    schema=(
        "gcn_kernels::triton_doubling(Tensor x, Tensor weight, Tensor? bias, Tensor? add, SymInt? height, SymInt? width, "
        "SymInt groups, bool channels_last, bool allow_tf32) -> Tensor"
    ),
    backward_schema=(
        "gcn_kernels::triton_doubling_backward(Tensor dy, Tensor x, Tensor weight, SymInt wanted, SymInt groups, "
        "bool allow_tf32) -> (Tensor, Tensor, Tensor)"
    ),
    results=("y",),
    definition=_definition,
    vectors={"bias": ("dy", 1)},
    added=("add",),
    definition_options=("groups",),
    backends=("triton",),
)

#: The same, for graphs that were saved: no call chooses it.
TRITON_UPSAMPLE = Operator(
    schema=("gcn_kernels::triton_upsample(Tensor x, Tensor weight, Tensor? bias, bool channels_last, bool allow_tf32) -> Tensor"),
    backward_schema=(
        "gcn_kernels::triton_upsample_backward(Tensor dy, Tensor x, Tensor weight, SymInt wanted, bool allow_tf32) "
        "-> (Tensor, Tensor, Tensor)"
    ),
    results=("y",),
    definition=reference.upsample,
    vectors={"bias": ("weight", 1)},
    backends=(),
)
