"""Modules with batch normalisation after the convolutions of a block, as public code writes them, and look-alikes.

``FOLDED`` gives what one call in eval mode makes of each with the normalisations folded, and without.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from families import BlockA
from look_alikes import NormBetween, OneNorm
from refine_families import RefineBody, norm_after, norm_between, own, square
from strips_families import Between, dw
from torch import Tensor, nn

C = 6


class ConvModule(nn.Module):
    """A convolution, its normalisation and an activation, any of the last two left out, as mmcv has it."""

    def __init__(self, conv: nn.Conv2d, norm: bool = True, act: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.with_norm, self.act = conv, norm, act
        if norm:
            self.add_module("bn", nn.BatchNorm2d(conv.out_channels))

    @property
    def norm(self) -> Any:
        return self.bn

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.with_norm:
            x = self.norm(x)
        return self.act(x) if self.act is not None else x


class Pair(nn.Module):
    """Two strips in such wrappers: the module around them holds the chain."""

    def __init__(self) -> None:
        super().__init__()
        self.row, self.column = ConvModule(dw(C, 1, 11, bias=False)), ConvModule(dw(C, 11, 1, bias=False))
        self.project = ConvModule(nn.Conv2d(C, C, 1), act=nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.project(self.column(self.row(x)))


class Parallel(nn.Module):
    """SLaK: a long rectangle along each axis and a small square, each with its normalisation."""

    def __init__(self) -> None:
        super().__init__()
        for name, (kh, kw) in {"LoRA1": (13, 5), "LoRA2": (5, 13), "small_conv": (5, 5)}.items():
            setattr(self, name, nn.Sequential())
            getattr(self, name).add_module("conv", dw(C, kh, kw, bias=False))
            getattr(self, name).add_module("bn", nn.BatchNorm2d(C))

    def forward(self, x: Tensor) -> Tensor:
        out = self.LoRA1(x) + self.LoRA2(x)
        out += self.small_conv(x)
        return out


class Stem(nn.Module):
    """A first convolution that chains and the sum read, everything normalised, in straight-line code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.row, self.column = dw(C, 5, 5), dw(C, 1, 7), dw(C, 7, 1)
        self.bn0, self.bn1, self.bn2 = nn.BatchNorm2d(C), nn.BatchNorm2d(C, affine=False), nn.BatchNorm2d(C, eps=0.1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.bn0(self.conv0(x))
        b = self.bn2(self.column(self.bn1(self.row(a))))
        return a + b


class Ghost(nn.Sequential):
    """The attention of a GhostModuleV2: a pointwise convolution and a pair of strips, each normalised."""

    def __init__(self) -> None:
        strips = dw(C, 1, 5, bias=False), nn.BatchNorm2d(C), dw(C, 5, 1, bias=False), nn.BatchNorm2d(C)
        super().__init__(nn.Conv2d(C, C, 1, bias=False), nn.BatchNorm2d(C), *strips)


class BasicBlock(nn.Module):
    """The residual block of a ResNet, ReLU on the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = square(bias=False), nn.BatchNorm2d(C), nn.ReLU(inplace=True)
        self.conv2, self.bn2 = square(bias=False), nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        out += identity
        return self.relu(out)


class NormAtTheEnds(BlockA):
    """A GCN block with a normalisation at the end of each branch."""

    def __init__(self) -> None:
        super().__init__(C, 4)
        self.bn_l, self.bn_r = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn_l(self.conv_l2(self.conv_l1(x))) + self.bn_r(self.conv_r2(self.conv_r1(x)))


#: Name: what makes it, the operator and the steps of each of its calls in eval mode with normalisations folded, and without.
Calls = list[tuple[str, int]]
FOLDED: dict[str, tuple[Callable[[], nn.Module], Calls, Calls]] = {
    "strips": (lambda: Between(nn.BatchNorm2d(C), C), [("strips", 2)], [("strips", 1)] * 2),
    "one strip": (lambda: nn.Sequential(dw(C, 13, 5), nn.BatchNorm2d(C)), [("strips", 1)], [("strips", 1)]),
    "strips in wrappers": (Pair, [("strips", 2)], [("strips", 1)] * 2),
    "parallel strips": (Parallel, [("strips", 3)], [("strips", 1)] * 3),
    "stem and skip": (Stem, [("strips", 3)], [("strips", 1)] * 3),
    "ghost": (Ghost, [("strips", 2)], [("strips", 1)] * 2),
    "synchronised": (lambda: Between(nn.SyncBatchNorm(C), C), [("strips", 2)], [("strips", 1)] * 2),
    "GCN": (NormBetween, [("gcn", 4)], []),
    "GCN, one for all": (OneNorm, [("gcn", 4)], []),
    "GCN, at the ends": (NormAtTheEnds, [("gcn", 4)], []),
    "refinement": (own(norm_between), [("refine", 2)], []),
    "refinement, after": (own(norm_after), [("refine", 2)], []),
    "residual block": (BasicBlock, [("refine", 2)], []),
    "refinement in a body": (
        lambda: RefineBody(square(), nn.BatchNorm2d(C), nn.ReLU(True), square(), nn.BatchNorm2d(C)),
        [("refine", 2)],
        [],
    ),
}


def normalised_first(m: Any, x: Tensor) -> Tensor:
    return x + m.conv2(F.relu(m.bn2(m.conv1(m.bn1(x)))))


def normalised_after_relu(m: Any, x: Tensor) -> Tensor:
    return x + m.conv2(m.bn1(F.relu(m.conv1(x))))


def sum_normalised(m: Any, x: Tensor) -> Tensor:
    return m.bn2(x + m.conv2(m.conv1(x)))


#: Name: what makes a module in which a normalisation cannot be folded exactly, and how often strips run in it nevertheless.
NOT_FOLDED: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "before the first convolution": (own(normalised_first), 0),
    "after the ReLU": (own(normalised_after_relu), 0),
    "after the sum": (own(sum_normalised), 0),
    "before a strip": (lambda: nn.Sequential(nn.BatchNorm2d(C), dw(C, 1, 11)), 1),
    "after a ReLU": (lambda: nn.Sequential(dw(C, 1, 11), nn.ReLU(), nn.BatchNorm2d(C), dw(C, 11, 1)), 2),
    "statistics of the batch": (lambda: Between(nn.BatchNorm2d(C, track_running_stats=False), C), 2),
    "InstanceNorm": (lambda: Between(nn.InstanceNorm2d(C, track_running_stats=True, affine=True), C), 2),
    "GroupNorm": (lambda: Between(nn.GroupNorm(2, C), C), 2),
}
