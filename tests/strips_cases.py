"""The strips that every test of ``fused_strips`` takes its problems from."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from cases import LAYOUTS
from torch import Tensor

from gcn_kernels import fused_strips, reference
from gcn_kernels.reference import Step

#: kh, kw, and (dh, dw).
Size = tuple[int, int, tuple[int, int]]


def row(k: int, d: int = 1) -> Size:
    return (1, k, (1, d))


def column(k: int, d: int = 1) -> Size:
    return (k, 1, (d, 1))


def square(k: int, d: int = 1) -> Size:
    return (k, k, (d, d))


@dataclass(frozen=True)
class Case:
    """Sizes of one problem."""

    name: str
    branches: tuple[tuple[Size, ...], ...]
    stem: Size | None = None
    skip: bool = False
    n: int = 2
    c: int = 19
    h: int = 13
    w: int = 21
    bias: bool | str = True  # or a pattern of 0 and 1, repeated over the steps

    @property
    def steps(self) -> list[Size]:
        return [*([self.stem] if self.stem else []), *(size for branch in self.branches for size in branch)]

    def has_bias(self, step: int) -> bool:
        return self.bias if isinstance(self.bias, bool) else self.bias[step % len(self.bias)] == "1"


def pairs(*ks: int) -> tuple[tuple[Size, ...], ...]:
    return tuple((row(k), column(k)) for k in ks)


MSCA = Case("msca", pairs(7, 11, 21), square(5), skip=True)
STRIP_BLOCK = Case("strip-block", ((square(5), row(19), column(19)),))
PAIR = Case("pair", pairs(11), c=33)
LSKA = Case("lska", ((row(3), column(3), row(5, 3), column(5, 3)),), bias=False, h=29)
CASES = (
    MSCA,
    STRIP_BLOCK,
    PAIR,
    LSKA,
    Case("squares", ((square(5),), (square(7),), (square(9),), (square(11),)), square(3), skip=True),
    Case("rectangles", (((51, 5, (1, 1)),), ((5, 51, (1, 1)),), (square(5),)), h=60, w=17, n=1, c=5),
    Case("one-square", ((square(3),),), c=64),
    Case("one-row", ((row(11),),), c=8),
    Case("one-column", ((column(11),),), c=8),
    Case("k1", ((square(1), row(3)),), square(1), skip=True),
    Case("stem-alone-in-front", ((column(3),),), square(3)),
    Case("skip-without-stem", pairs(5, 9), skip=True),
    Case("dilated", ((square(3, 2), row(5, 4)), (column(5, 5),)), bias="10"),
    Case("dilation-beyond-map", ((row(3, 30), column(3, 30)),)),
    Case("k-beyond-map", pairs(31), square(9), skip=True, h=4, w=3),
    Case("map1x1", pairs(7), square(3), skip=True, h=1, w=1),
    Case("one-line", pairs(7, 9), h=1, w=70),
    Case("one-file", pairs(7, 9), h=70, w=1),
    Case("one-channel", pairs(7), c=1),
    Case("tall", pairs(7, 21), square(5), skip=True, n=1, c=17, h=131, w=9),
    Case("wide", pairs(7, 21), square(5), skip=True, n=1, c=4, h=37, w=700),
    Case("batch0", pairs(5), n=0),
    Case("batch17", pairs(5), n=17, c=3, h=5, w=6),
    Case("bias-of-the-first", ((row(7), column(7)),), bias="10"),
)


@dataclass(frozen=True)
class Strips:
    """The arguments of a problem, flat: x, weights, biases. The interface that ``rule`` knows."""

    case: Case
    x: Tensor
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]
    dy: Tensor

    @property
    def arguments(self) -> tuple[Tensor | None, ...]:
        return (self.x, *self.weights, *self.biases)

    @property
    def named(self) -> dict[str, Tensor]:
        count = len(self.weights)
        names = ["x", *(f"w{i}" for i in range(count)), *(f"b{i}" for i in range(count))]
        return {name: t for name, t in zip(names, self.arguments, strict=True) if t is not None}

    @property
    def definition(self) -> "Run":
        return Run(self.case, None)

    @property
    def fused(self) -> "Run":
        return Run(self.case, "cpu")

    def map(self, change: Callable[[Tensor], Tensor]) -> "Strips":
        biases = tuple(None if b is None else change(b) for b in self.biases)
        return replace(self, x=change(self.x), weights=tuple(map(change, self.weights)), biases=biases, dy=change(self.dy))

    def to(self, target: torch.dtype | str) -> "Strips":
        return self.map(lambda t: t.to(target))

    def in_layout(self, layout: str) -> "Strips":
        return self.with_maps(lambda t: t.contiguous(memory_format=LAYOUTS[layout]))

    def with_maps(self, change: Callable[[Tensor], Tensor]) -> "Strips":
        return replace(self, x=change(self.x), dy=change(self.dy))

    def leaves(self) -> "Strips":
        return replace(self.map(lambda t: t.detach().requires_grad_()), dy=self.dy.detach())


@dataclass(frozen=True)
class Run:
    """Calling it with flat arguments computes a case by the definition, or by a backend of ``fused_strips``."""

    case: Case
    backend: str | None

    def __call__(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        count = len(self.case.steps)
        steps: list[Step] = [
            (w, b, size[2])  # type: ignore[misc]
            for w, b, size in zip(parameters[:count], parameters[count:], self.case.steps, strict=True)
        ]
        stem = steps.pop(0) if self.case.stem else None
        branches = [[steps.pop(0) for _ in branch] for branch in self.case.branches]
        if self.backend is None:
            return reference.strips(x, branches, stem=stem, skip=self.case.skip)
        return fused_strips(x, branches, stem=stem, skip=self.case.skip, backend=self.backend)


def _rounded(t: Tensor) -> Tensor:
    """To the nearest of ten stored bits, as tf32 has them, ties away from zero."""
    bits = (t.contiguous().view(torch.int32) + 0x1000) & -0x2000
    return torch.where(t.isfinite(), bits.view(torch.float32), t)


class _RoundedConv(torch.autograd.Function):
    """A depthwise convolution in float32 whose factors, and those of its gradients, are rounded to tf32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: tuple[int, int]) -> Tensor:
        ctx.factors, ctx.dilation = (_rounded(x), _rounded(weight)), dilation
        return _RoundedConv.plain(*ctx.factors, dilation)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = (t.detach().requires_grad_() for t in ctx.factors)
        with torch.enable_grad():
            y = _RoundedConv.plain(x, weight, ctx.dilation)
        of_x, of_weight = torch.autograd.grad(y, (x, weight), _rounded(dy))
        return of_x, of_weight, None

    @staticmethod
    def plain(x: Tensor, weight: Tensor, dilation: tuple[int, int]) -> Tensor:
        padding = [d * (k // 2) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        return F.conv2d(x, weight, padding=padding, dilation=dilation, groups=x.shape[1])


@dataclass(frozen=True)
class InTf32:
    """What PyTorch's convolutions may be where they may round their factors to tf32, as a function of flat arguments."""

    case: Case
    backend = "torch"

    def __call__(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        count = len(self.case.steps)
        steps = list(zip(parameters[:count], parameters[count:], self.case.steps, strict=True))

        def conv(t: Tensor) -> Tensor:
            weight, bias, (_, _, dilation) = steps.pop(0)
            product: Tensor = _RoundedConv.apply(t, weight, dilation)  # type: ignore[no-untyped-call]
            return product if bias is None else product + bias[:, None, None]

        start = conv(x) if self.case.stem else x
        ends = [start] if self.case.skip else []
        for branch in self.case.branches:
            t = start
            for _ in branch:
                t = conv(t)
            ends.append(t)
        y = ends[0]
        for end in ends[1:]:
            y = y + end
        return y


def make(case: Case, dtype: torch.dtype = torch.float32, seed: int = 0) -> Strips:
    """Draw a problem whose values are of order one everywhere, with biases away from zero."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weights = tuple(normal(case.c, 1, kh, kw) / (kh * kw) ** 0.5 for kh, kw, _ in case.steps)
    drawn = [normal(case.c) for _ in case.steps]
    biases = tuple(b + b.sign() if case.has_bias(i) else None for i, b in enumerate(drawn))
    maps = [normal(case.n, case.c, case.h, case.w) for _ in range(2)]
    return Strips(case, maps[0], weights, biases, maps[1]).to(dtype)


def draw(seed: int) -> Case:
    """A small problem of random form and sizes."""
    r = random.Random(seed)

    def size() -> Size:
        k, d = r.choice((1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 31, 37, 51)), r.choice((1, 1, 1, 2, 3))
        kind = r.randrange(6)
        if kind < 2:
            return row(k, d)
        if kind < 4:
            return column(k, d)
        if kind == 4:
            return square(min(k, 11), d)
        return (k, 3, (1, d)) if r.random() < 0.5 else (5, k, (d, 1))

    branches = tuple(tuple(size() for _ in range(r.randint(1, 3))) for _ in range(r.randint(1, 3)))
    stem = size() if r.random() < 0.5 else None
    h, w = (r.choice((1, 2, 5, 8, 14, 16, 17, 24, 33, 40)) for _ in range(2))
    c = r.choice((1, 3, 8, 15, 16, 17, 32, 35))
    return Case(
        f"drawn{seed}", branches, stem, r.random() < 0.5, r.choice((1, 1, 2, 3)), c, h, w, r.choice(("1", "0", "10", "110"))
    )
