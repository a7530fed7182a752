"""The specification of boundary refinement: its operators, the shapes of their results, their definition.

There are two pairs of compiled operators: ``refine`` and ``refine_backward`` for CPUs, and ``cuda_refine`` and
``cuda_refine_backward``, which have a switch for tf32, as ``triton_refine`` and ``triton_refine_backward`` have.
Only x and the parameters are saved: the backward kernels compute the map between the convolutions again.
"""

import torch
from torch import Tensor

from gcn_kernels import reference
from gcn_kernels.core.operator import Operator


def _fake(x: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None, channels_last: bool) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout)


REFINE = Operator(
    schema=("gcn_kernels::refine(Tensor x, Tensor w1, Tensor w2, Tensor? b1, Tensor? b2, bool channels_last) -> Tensor"),
    backward_schema=(
        "gcn_kernels::refine_backward(Tensor dy, Tensor x, Tensor w1, Tensor w2, Tensor? b1, int wanted) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    results=("y",),
    definition=reference.refine,
    fake=_fake,
    vectors={"b1": ("w1", 0), "b2": ("w2", 0)},
    read=("b1",),
    backends=("cpu",),
)


def gpu_fake(
    x: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None, channels_last: bool, allow_tf32: bool
) -> Tensor:
    """The forward operators of both GPU backends for tensors without data."""
    return _fake(x, w1, w2, b1, b2, channels_last)


CUDA_REFINE = Operator(
    schema=(
        "gcn_kernels::cuda_refine(Tensor x, Tensor w1, Tensor w2, Tensor? b1, Tensor? b2, bool channels_last, bool allow_tf32) "
        "-> Tensor"
    ),
    backward_schema=(
        "gcn_kernels::cuda_refine_backward(Tensor dy, Tensor x, Tensor w1, Tensor w2, Tensor? b1, int wanted, bool allow_tf32) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    results=("y",),
    definition=reference.refine,
    fake=gpu_fake,
    vectors={"b1": ("w1", 0), "b2": ("w2", 0)},
    read=("b1",),
    backends=("cuda",),
)

#: Declared, with their shapes, by :mod:`gcn_kernels.triton`.
TRITON_REFINE = Operator(
    schema=(
        "gcn_kernels::triton_refine(Tensor x, Tensor w1, Tensor w2, Tensor? b1, Tensor? b2, bool channels_last, bool allow_tf32) "
        "-> Tensor"
    ),
    backward_schema=(
        "gcn_kernels::triton_refine_backward(Tensor dy, Tensor x, Tensor w1, Tensor w2, Tensor? b1, int wanted, bool allow_tf32) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    results=("y",),
    definition=reference.refine,
    vectors={"b1": ("w1", 0), "b2": ("w2", 0)},
    read=("b1",),
    backends=("triton",),
)
