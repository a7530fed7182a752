"""What valid strips are: the one place where the arguments of ``fused_strips`` are checked, before anything is launched."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from gcn_kernels.core.backends import PLAIN
from gcn_kernels.core.checks import check_map, check_tensor, shape_of, whole_numbers
from gcn_kernels.core.operator import autocast
from gcn_kernels.reference import Step

_LISTS = frozenset((tuple, list))
#: No kernel takes a larger dilation.
LARGEST_DILATION = 2**31


class Strips(NamedTuple):
    """Arguments in one order: steps are numbered the stem's first, then branch by branch.

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


def arrange(branches: Sequence[Sequence[Step]], stem: Step | None, skip: bool) -> Strips:
    """The steps in order, as they are: :func:`check` looks at what is in them.

    Raises:
        TypeError: branches or steps that are no sequences of the right length.
        ValueError: no branches, a branch without steps, a dilation below 1.
    """
    if not _is_sequence(branches) or not all([_is_sequence(branch) for branch in branches]):
        raise TypeError(f"branches: expected a sequence of branches, each a sequence of steps, got {type(branches).__name__}")
    if not branches or not all(branches):
        raise ValueError("branches: expected at least one branch, and at least one step in each")
    steps = [] if stem is None else [stem]
    for branch in branches:
        steps += branch
    lengths = tuple([len(branch) for branch in branches])
    weights: list[Any] = []
    biases: list[Any] = []
    dilations: list[tuple[int, int]] = []
    for step in steps:
        if not _is_sequence(step) or len(step) not in (2, 3):
            name = names(lengths, stem is not None)[len(weights)]
            raise TypeError(f"{name}: expected (weight, bias) or (weight, bias, dilation), got {type(step).__name__}")
        if len(step) == 2:
            dilations.append((1, 1))
        else:
            dilations.append(_plain_pair(step[2]) or dilation_pair(names(lengths, stem is not None)[len(weights)], step[2]))
        weights.append(step[0])
        biases.append(step[1])
    return Strips(tuple(weights), tuple(biases), tuple(dilations), lengths, stem is not None, bool(skip))


#: x, weights, biases, lengths, dilations and biased, as the operator takes them.
Plain = tuple[Tensor, list[Tensor], list[Tensor], list[int], list[int], list[int]]


def plain(x: Tensor, branches: Any, stem: Any) -> Plain | None:
    """The arguments as the operator takes them, in one pass; None unless they are given as they nearly always are.

    That is an ``x`` with a batch, tuples and lists of plain tensors on the CPU, dilations that are ints or pairs. Whether they
    go together is not looked at.
    """
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    lengths: list[int] = []
    dilations: list[int] = []
    biased: list[int] = []
    if type(branches) not in _LISTS or x.dim() != 4:
        return None
    for branch in branches if stem is None else ((stem,), *branches):
        if type(branch) not in _LISTS:
            return None
        lengths.append(len(branch))
        for step in branch:
            if type(step) is not tuple:
                return None
            if len(step) == 3:
                weight, bias, d = step
                if type(d) is int:
                    dilations += (d, d)
                elif type(d) is tuple and len(d) == 2 and type(d[0]) is type(d[1]) is int:
                    dilations += d
                else:
                    return None
            elif len(step) == 2:
                weight, bias = step
                dilations += (1, 1)
            else:
                return None
            if type(weight) not in PLAIN or not weight.is_cpu:
                return None
            weights.append(weight)
            if bias is None:
                biased.append(0)
            elif type(bias) in PLAIN and bias.is_cpu:
                biases.append(bias)
                biased.append(1)
            else:
                return None
    return x, weights, biases, lengths if stem is None else lengths[1:], dilations, biased


def _plain_pair(d: Any) -> tuple[int, int] | None:
    """What nearly all dilations are given as, without the names of steps that a message would need; None for any other."""
    if type(d) is int:
        d = (d, d)
    elif type(d) is not tuple or len(d) != 2 or not type(d[0]) is type(d[1]) is int:
        return None
    return d if 0 < d[0] <= LARGEST_DILATION and 0 < d[1] <= LARGEST_DILATION else None


def _is_sequence(given: object) -> TypeGuard[Sequence[Any]]:
    # The first question is answered ten times as fast, and by nearly all that is given.
    return isinstance(given, (tuple, list)) or isinstance(given, Sequence)  # noqa: SIM101


def names(lengths: Sequence[int], stem: bool) -> list[str]:
    """What messages call the steps."""
    return ["stem"] * stem + [f"branches[{b}][{i}]" for b, length in enumerate(lengths) for i in range(length)]


def check(x: Tensor, strips: Strips) -> None:
    """Raise unless the steps are depthwise convolutions of ``x`` ([N, C, H, W] or [C, H, W]).

    Raises:
        TypeError: something else than dense tensors of a supported dtype.
        ValueError: ranks or sizes that do not go together.
    """
    check_tensor("x", x)
    check_map(x)
    steps = zip(names(strips.lengths, strips.stem), strips.weights, strips.biases, strict=True)
    for name, weight, bias in steps:
        _check_step(name, weight, bias, x.shape[-3])


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
    """(dh, dw) from a positive int or a pair of them, NumPy's included."""
    pair = whole_numbers(dilation if _is_sequence(dilation) else (dilation, dilation))
    if len(pair) != 2 or not all(1 <= d <= LARGEST_DILATION for d in pair):
        raise ValueError(f"{name}: expected a dilation from 1 to 2**31, an int or (dh, dw), got {dilation!r}")
    return pair[0], pair[1]


def _check_step(name: str, weight: Tensor, bias: Tensor | None, channels: int) -> None:
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
