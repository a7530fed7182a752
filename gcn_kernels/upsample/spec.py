"""The specification of the doubling: its operators, the shapes of their results, their definition.

There are two pairs: ``upsample`` and ``upsample_backward``, compiled, and ``triton_upsample`` and ``triton_upsample_backward``.
"""

import torch
from torch import Tensor

from gcn_kernels import reference
from gcn_kernels.core.operator import Operator


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, channels_last: bool) -> Tensor:
    n, _, h, w = x.shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((n, weight.shape[1], 2 * h, 2 * w), dtype=x.dtype, device=x.device, memory_format=layout)


UPSAMPLE = Operator(
    schema="gcn_kernels::upsample(Tensor x, Tensor weight, Tensor? bias, bool channels_last) -> Tensor",
    backward_schema=(
        "gcn_kernels::upsample_backward(Tensor dy, Tensor x, Tensor weight, int wanted) -> (Tensor, Tensor, Tensor)"
    ),
    results=("y",),
    definition=reference.upsample,
    fake=_fake,
    vectors={"bias": ("weight", 1)},
    backends=("cpu",),
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
