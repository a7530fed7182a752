"""The specification of the strips: their operators, the shapes of their results, their definition.

There are two pairs of compiled operators: ``strips`` and ``strips_backward``, and ``cuda_strips`` and
``cuda_strips_backward``, which have a switch for tf32. On a GPU the first, which saved graphs hold, are the second without
tf32. Triton has ``triton_strips`` and ``triton_strips_backward``.
Only x and the parameters are saved: the backward kernels compute the maps between the steps again.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gcn_kernels import reference
from gcn_kernels.core.operator import Operator
from gcn_kernels.strips.problem import Strips

#: What the operators are told of the strips beside their tensors: see csrc/strips.cpp.
_FORM = "int[] lengths, int[] dilations, int[] biased, bool stem, bool skip"


def form_of(strips: Strips) -> tuple[list[int], list[int], list[int], bool, bool]:
    """The options of the operators that describe ``strips``."""
    dilations = [d for pair in strips.dilations for d in pair]
    return list(strips.lengths), dilations, [int(b is not None) for b in strips.biases], strips.stem, strips.skip


def _definition(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    lengths: Sequence[int],
    dilations: Sequence[int],
    biased: Sequence[int],
    stem: bool,
    skip: bool,
) -> Tensor:
    remaining = iter(biases)
    all_biases = tuple(next(remaining) if has_bias else None for has_bias in biased)
    pairs = tuple(zip(dilations[::2], dilations[1::2], strict=True))
    branches, first = Strips(tuple(weights), all_biases, pairs, tuple(lengths), stem, skip).steps()
    return reference.strips(x, branches, stem=first, skip=skip)


def _unread(lengths: Sequence[int], _: Sequence[int], biased: Sequence[int], stem: bool, *__: bool) -> list[bool]:
    """Which biases are those of last steps: no map that the backward pass computes again depends on them."""
    ends, step = [False] * len(biased), int(stem) - 1
    for length in lengths:
        step += length
        ends[step] = True
    return [end for end, has_bias in zip(ends, biased, strict=True) if has_bias]


def fake(x: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any) -> Tensor:
    """The forward operators for tensors without data, of every device."""
    *_, channels_last = options
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout)


STRIPS = Operator(
    schema=f"gcn_kernels::strips(Tensor x, Tensor[] weights, Tensor[] biases, {_FORM}, bool channels_last) -> Tensor",
    backward_schema=(
        f"gcn_kernels::strips_backward(Tensor dy, Tensor x, Tensor[] weights, Tensor[] biases, int wanted, {_FORM}) "
        "-> (Tensor, Tensor[], Tensor[])"
    ),
    results=("y",),
    definition=_definition,
    unread=("biases", _unread),
    fake=fake,
    definition_options=("lengths", "dilations", "biased", "stem", "skip"),
    backends=("cpu", "cuda"),
)


def _cuda_fake(x: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any) -> Tensor:
    *rest, _ = options
    return fake(x, weights, biases, *rest)


CUDA_STRIPS = Operator(
    schema=(
        f"gcn_kernels::cuda_strips(Tensor x, Tensor[] weights, Tensor[] biases, {_FORM}, bool channels_last, bool allow_tf32) "
        "-> Tensor"
    ),
    backward_schema=(
        f"gcn_kernels::cuda_strips_backward(Tensor dy, Tensor x, Tensor[] weights, Tensor[] biases, int wanted, {_FORM}, "
        "bool allow_tf32) -> (Tensor, Tensor[], Tensor[])"
    ),
    results=("y",),
    definition=_definition,
    unread=("biases", _unread),
    fake=_cuda_fake,
    definition_options=("lengths", "dilations", "biased", "stem", "skip"),
    backends=("cuda",),
)

#: Declared, with their shapes, by :mod:`gcn_kernels.triton`.
TRITON_STRIPS = Operator(
    schema=f"gcn_kernels::triton_strips(Tensor x, Tensor[] weights, Tensor[] biases, {_FORM}, bool channels_last) -> Tensor",
    backward_schema=(
        f"gcn_kernels::triton_strips_backward(Tensor dy, Tensor x, Tensor[] weights, Tensor[] biases, int wanted, {_FORM}) "
        "-> (Tensor, Tensor[], Tensor[])"
    ),
    results=("y",),
    definition=_definition,
    unread=("biases", _unread),
    definition_options=("lengths", "dilations", "biased", "stem", "skip"),
    backends=("triton",),
)
