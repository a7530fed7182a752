"""What valid strips are: the one place where the arguments of ``fused_strips`` are checked, before anything is launched."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gcn_kernels.core.checks import check_map, check_tensor, shape_of
from gcn_kernels.core.operator import autocast
from gcn_kernels.reference import Step


@dataclass(frozen=True)
class Strips:
    """Checked arguments. Steps are numbered the stem's first, then branch by branch.

    Attributes:
        weights: [C, 1, kh, kw] of every step.
        biases: [C] or None of every step.
        dilations: (dh, dw) of every step.
        lengths: steps of each branch.
        stem: whether the first step is a stem.
        skip: whether the branches' input is added to their sum.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]
    dilations: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]
    stem: bool
    skip: bool

    def to(self, dtype: torch.dtype) -> "Strips":
        """With all parameters but those of float64 in another dtype, as autocast casts them for ``conv2d``."""

        biases = tuple(None if b is None else autocast(dtype, b) for b in self.biases)
        return Strips(tuple(autocast(dtype, w) for w in self.weights), biases, self.dilations, self.lengths, self.stem, self.skip)

    def steps(self) -> tuple[list[list[Step]], Step | None]:
        """The branches and the stem, as :func:`gcn_kernels.reference.strips` takes them."""
        remaining: Iterator[Step] = zip(self.weights, self.biases, self.dilations, strict=True)
        stem = next(remaining) if self.stem else None
        return [[next(remaining) for _ in range(length)] for length in self.lengths], stem


def check(x: Tensor, branches: Sequence[Sequence[Step]], stem: Step | None, skip: bool) -> Strips:
    """Raise unless the arguments form depthwise strips over ``x`` ([N, C, H, W] or [C, H, W]).

    Raises:
        TypeError: something else than dense tensors of a supported dtype, or steps that are no tuples.
        ValueError: ranks, sizes or dilations that do not go together.
    """
    check_tensor("x", x)
    check_map(x)
    channels = x.shape[-3]
    if not isinstance(branches, Sequence) or not all(isinstance(branch, Sequence) for branch in branches):
        raise TypeError(f"branches: expected a sequence of branches, each a sequence of steps, got {type(branches).__name__}")
    if not branches or not all(branches):
        raise ValueError("branches: expected at least one branch, and at least one step in each")
    named = [("stem", stem)] if stem is not None else []
    named += [(f"branches[{b}][{i}]", step) for b, branch in enumerate(branches) for i, step in enumerate(branch)]
    weights, biases, dilations = zip(*(_check_step(name, step, channels) for name, step in named), strict=True)
    return Strips(weights, biases, dilations, tuple(len(branch) for branch in branches), stem is not None, bool(skip))


def check_same(x: Tensor, strips: Strips) -> None:
    """Raise unless all tensors share ``x``'s dtype and device (checked after autocast has had its say)."""
    tensors = [*strips.weights, *(b for b in strips.biases if b is not None)]
    for t in tensors:
        if t.dtype != x.dtype:
            raise RuntimeError(
                f"x and all weights and biases should have the same dtype, got {x.dtype} and {t.dtype}: convert one of them, "
                "or use torch.autocast"
            )
        if t.device != x.device:
            raise RuntimeError(
                f"x and all weights and biases should be on the same device, got {x.device} and {t.device}: move one of them"
            )
    if x.device.type == "meta" and torch.is_grad_enabled() and any(t.requires_grad for t in (x, *tensors)):
        raise RuntimeError(
            "expected tensors with data to record a gradient, got device 'meta' with requires_grad=True: "
            "use torch.no_grad() for shape inference, or materialise the tensors first"
        )


def dilation_pair(name: str, dilation: object) -> tuple[int, int]:
    """(dh, dw) from a positive int or a pair of them."""
    pair: tuple[Any, ...] = tuple(dilation) if isinstance(dilation, Sequence) else (dilation, dilation)
    if len(pair) != 2 or not all(isinstance(d, int) and d >= 1 for d in pair):
        raise ValueError(f"{name}: expected a dilation of at least 1, an int or (dh, dw), got {dilation!r}")
    return pair[0], pair[1]


def _check_step(name: str, step: Step, channels: int) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
    if not isinstance(step, Sequence) or len(step) not in (2, 3):
        raise TypeError(f"{name}: expected (weight, bias) or (weight, bias, dilation), got {type(step).__name__}")
    weight, bias = step[:2]
    check_tensor(f"{name} weight", weight)
    if weight.dim() != 4 or weight.shape[:2] != (channels, 1):
        raise ValueError(
            f"{name} weight: expected [{channels}, 1, kh, kw], one kernel for each channel of x, got {shape_of(weight)}"
        )
    if weight.shape[2] % 2 != 1 or weight.shape[3] % 2 != 1:
        raise ValueError(f"{name} weight: expected odd kh and kw, got {shape_of(weight)}: an even k has no 'same' padding")
    if bias is not None:
        check_tensor(f"{name} bias", bias)
        if bias.shape != (channels,):
            raise ValueError(f"{name} bias: expected shape [{channels}] to go with x, got {shape_of(bias)}")
    return weight, bias, dilation_pair(name, step[2] if len(step) == 3 else 1)
