"""The problems that every backend is tested on, and the tensors that state them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import pytest
import torch
from suites import in_suites
from torch import Tensor

from gcn_kernels import reference

WEIGHTS = ("w_l1", "w_l2", "w_r1", "w_r2")
BIASES = ("b_l1", "b_l2", "b_r1", "b_r2")
INPUTS = ("x", *WEIGHTS, *BIASES)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Case:
    """The sizes of one problem; ``k`` is (k1, k2, k3, k4), in the order of the weights."""

    name: str
    n: int = 2
    c: int = 12
    h: int = 13
    w: int = 10
    mid_l: int = 5
    mid_r: int = 5
    out: int = 5
    k: tuple[int, int, int, int] = (7, 7, 7, 7)
    biases: tuple[str, ...] = BIASES

    def weight_shapes(self) -> dict[str, tuple[int, int, int, int]]:
        k1, k2, k3, k4 = self.k
        return {
            "w_l1": (self.mid_l, self.c, k1, 1),
            "w_l2": (self.out, self.mid_l, 1, k2),
            "w_r1": (self.mid_r, self.c, 1, k3),
            "w_r2": (self.out, self.mid_r, k4, 1),
        }


def square(k: int) -> tuple[int, int, int, int]:
    return (k, k, k, k)


def paper(name: str, c: int, size: int, k: int, classes: int) -> Case:
    """A crop of one of the paper's score maps: as many middle channels as classes."""
    return Case(f"{name}-k{k}-M{classes}", n=1, c=c, h=size, w=size, mid_l=classes, mid_r=classes, out=classes, k=square(k))


CASES = (
    paper("res5", c=2048, size=16, k=15, classes=21),
    paper("res4", c=1024, size=18, k=15, classes=21),
    paper("res3", c=512, size=24, k=7, classes=19),
    paper("res2", c=256, size=31, k=25, classes=19),
    Case("small"),
    Case("map1x1", h=1, w=1),
    Case("map1x1-k63", h=1, w=1, k=square(63)),
    Case("k_gt_map", h=5, w=7, k=square(15)),
    Case("one-row", h=1, w=70, k=square(31)),
    Case("one-column", h=70, w=1, k=square(31)),
    Case("long-row", n=1, c=5, h=2, w=1500, k=square(63)),
    Case("long-column", n=1, c=5, h=1500, w=2, k=square(63)),
    Case("batch0", n=0),
    Case("batch1", n=1),
    Case("batch5", n=5),
    Case("mid!=out", mid_l=7, mid_r=7, out=12),
    Case("mid_l!=mid_r", mid_l=9, mid_r=2, out=4),
    Case("per-conv-k", k=(3, 11, 5, 9)),
    Case("kh!=kw", k=(3, 9, 9, 3)),
    Case("k1", k=square(1)),
    Case("k63", n=1, c=7, h=66, w=71, k=square(63)),
    Case("k127", n=1, c=3, h=20, w=131, k=square(127)),
    Case("one-class", c=33, mid_l=1, mid_r=1, out=1, k=(9, 13, 13, 9)),
    Case("one-channel-everywhere", n=1, c=1, mid_l=1, mid_r=1, out=1),
    Case("odd-sizes", n=3, c=37, h=23, w=29, mid_l=13, mid_r=11, out=17, k=(5, 7, 9, 11)),
    Case("wide", n=1, c=96, h=14, w=18, mid_l=160, mid_r=160, out=245),
    Case("no-bias", biases=()),
    *(Case(f"only-{b}", biases=(b,)) for b in BIASES),
)

#: Enough variety for properties that do not depend on every size.
SMALL = Case("small", k=(5, 7, 9, 3), mid_l=4, mid_r=6, out=3)

#: Large, and each with another beside it that the everyday suite keeps.
FOR_THE_PROOF = ("res4-k15-M21", "res2-k25-M19", "k127", "long-column", "wide")
every_case = pytest.mark.parametrize(
    "case", in_suites(CASES, everyday=lambda case: case.name not in FOR_THE_PROOF), ids=lambda case: case.name
)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@dataclass(frozen=True)
class Block:
    """The operator's arguments and the gradient of its result."""

    x: Tensor
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]
    dy: Tensor

    @property
    def definition(self) -> Callable[..., Tensor]:
        """What the arguments are tested against."""
        return reference.gcn

    @property
    def arguments(self) -> tuple[Tensor | None, ...]:
        return (self.x, *self.weights, *self.biases)

    @property
    def named(self) -> dict[str, Tensor]:
        """The arguments that are there."""
        return {name: t for name, t in zip(INPUTS, self.arguments, strict=True) if t is not None}

    def map(self, change: Callable[[Tensor], Tensor]) -> "Block":
        """Apply ``change`` to every tensor."""
        biases = tuple(None if b is None else change(b) for b in self.biases)
        return Block(change(self.x), tuple(change(w) for w in self.weights), biases, change(self.dy))

    def to(self, target: torch.dtype | torch.device | str) -> "Block":
        return self.map(lambda t: t.to(target))

    def in_layout(self, layout: str) -> "Block":
        """``x`` and ``dy`` in a layout; the weights stay as a module that was not converted holds them."""
        memory_format = LAYOUTS[layout]
        return replace(self, x=self.x.contiguous(memory_format=memory_format), dy=self.dy.contiguous(memory_format=memory_format))

    def leaves(self) -> "Block":
        """Fresh leaves of autograd over the same memory."""
        fresh = self.map(lambda t: t.detach().requires_grad_())
        return replace(fresh, dy=self.dy.detach())


@lru_cache(maxsize=8)
def make(case: Case, dtype: torch.dtype = torch.float32, seed: int = 0) -> Block:
    """Draw a block whose values are of order one everywhere, with biases away from zero."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x = normal(case.n, case.c, case.h, case.w)
    weights = tuple(normal(*shape) / math.sqrt(math.prod(shape[1:])) for shape in case.weight_shapes().values())
    drawn = [(name, normal(w.shape[0])) for name, w in zip(BIASES, weights, strict=True)]
    biases = tuple(b + b.sign() if name in case.biases else None for name, b in drawn)
    dy = normal(case.n, case.out, case.h, case.w)
    return Block(x, weights, biases, dy).to(dtype)
