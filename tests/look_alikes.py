"""Modules with the names and shapes of a GCN block that compute something else (``LOOK_ALIKES``) or more."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from families import BlockA, line
from torch import Tensor, nn


class ExchangedPadding(BlockA):
    """The right branch's paddings exchanged: equal output shape, other values."""

    def __init__(self) -> None:
        super().__init__(6, 4)
        self.conv_r1.padding, self.conv_r2.padding = (3, 0), (0, 3)


class NormBetween(BlockA):
    def __init__(self) -> None:
        super().__init__(6, 4)
        self.bn_l, self.bn_r = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_l2(self.bn_l(self.conv_l1(x))) + self.conv_r2(self.bn_r(self.conv_r1(x)))


class NormAfter(BlockA):
    def __init__(self) -> None:
        super().__init__(6, 4)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(super().forward(x))


class OneNorm(BlockA):
    """One BatchNorm after each of the four convolutions."""

    def __init__(self) -> None:
        super().__init__(6, 4)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn(self.conv_l2(self.bn(self.conv_l1(x))))
        return left + self.bn(self.conv_r2(self.bn(self.conv_r1(x))))


class ReluBetween(BlockA):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv_l2(F.relu(self.conv_l1(x))) + self.conv_r2(F.relu(self.conv_r1(x)))


class ReluAfterBranches(BlockA):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv_l2(self.conv_l1(x))) + F.relu(self.conv_r2(self.conv_r1(x)))


class ReluOnSum(BlockA):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class Residual(BlockA):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Gated(BlockA):
    """A factor that happens to be 1 now."""

    def __init__(self) -> None:
        super().__init__(6, 4)
        self.gate = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.gate * super().forward(x)


class Dropped(BlockA):
    """Equal in eval mode, random in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.1, self.training)


class ThreeInputs(BlockA):
    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return super().forward(x + y + z)


class Pair(BlockA):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x), x


class Detached(BlockA):
    """The right values, no gradient through one branch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_l2(self.conv_l1(x)) + self.conv_r2(self.conv_r1(x.detach()))


class Stores(BlockA):
    """Keeps its last result for somebody else."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = super().forward(x)
        return self.last


class OwnCall(BlockA):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) * 2


class Block3d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_l1 = nn.Conv3d(6, 4, (7, 1, 1), padding=(3, 0, 0))
        self.conv_l2 = nn.Conv3d(4, 4, (1, 7, 1), padding=(0, 3, 0))
        self.conv_r1 = nn.Conv3d(6, 4, (1, 7, 1), padding=(0, 3, 0))
        self.conv_r2 = nn.Conv3d(4, 4, (7, 1, 1), padding=(3, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_l2(self.conv_l1(x)) + self.conv_r2(self.conv_r1(x))


class Altered(BlockA):
    """Block A with other options on two convolutions, chosen so that shapes still agree."""

    def __init__(self, channels: int = 6, out: int = 4, k: int = 7, **options: object) -> None:
        super().__init__(channels, out, (k, k))
        self.conv_l1 = line(channels, out, k, 0, **options)
        self.conv_r1 = line(channels, out, k, 1, **options)


def _with_hook() -> nn.Module:
    block = BlockA(6, 4)
    block.conv_l2.register_forward_hook(lambda module, inputs, output: None)
    return block


def _with_own_forward() -> nn.Module:
    block = BlockA(6, 4)
    block.forward = lambda x: x
    return block


def _with_float_padding() -> nn.Module:
    block = BlockA(6, 4)
    block.conv_l1.padding = (3.0, 0.0)
    return block


#: Name -> (how to make it, what the reason must say).
LOOK_ALIKES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "exchanged-padding": (ExchangedPadding, "conv_r1 pads (3, 0) where (0, 3) keeps the size"),
    "norm-between": (NormBetween, "bn_l: BatchNorm2d"),
    "one-norm": (OneNorm, "bn: BatchNorm2d"),
    "relu-between": (lambda: ReluBetween(6, 4), "computes no sum"),
    "relu-after-branches": (lambda: ReluAfterBranches(6, 4), "computes no sum"),
    "detached": (lambda: Detached(6, 4), "computes no sum"),
    "own-call": (lambda: OwnCall(6, 4), "overrides __call__"),
    "own-forward": (_with_own_forward, "replaced on the instance"),
    "conv3d": (Block3d, "Conv3d"),
    "stride": (lambda: Altered(stride=2), "stride (2, 2)"),
    "dilation": (lambda: Altered(dilation=2), "dilation (2, 2)"),
    "groups": (lambda: Altered(groups=2), "groups 2"),
    "even": (lambda: BlockA(6, 4, (4, 4)), "even kernel (4, 1)"),
    "reflect": (lambda: Altered(padding_mode="reflect"), "padding_mode 'reflect'"),
    "valid": (lambda: Altered(padding=0), "pads (0, 0)"),
    "float-padding": (_with_float_padding, "padding (3.0, 0.0)"),
    "inner-hook": (_with_hook, "conv_l2 has a forward hook"),
    "weight-norm-hook": (lambda: _old_weight_norm(), "conv_l1 has a forward pre hook (WeightNorm)"),
}


#: Blocks with something around them: name -> how to make it. Each is swapped, and computes what it did.
MORE_THAN_A_BLOCK: dict[str, Callable[[], nn.Module]] = {
    "norm-after": NormAfter,
    "relu-on-sum": lambda: ReluOnSum(6, 4),
    "residual": lambda: Residual(4, 4),
    "gated": Gated,
    "dropout": lambda: Dropped(6, 4),
    "three-inputs": lambda: ThreeInputs(6, 4),
    "returns-tuple": lambda: Pair(6, 4),
    "stores": lambda: Stores(6, 4),
}


def _old_weight_norm() -> nn.Module:
    block = BlockA(6, 4)
    nn.utils.weight_norm(block.conv_l1)
    return block
