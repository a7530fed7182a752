"""GCN blocks as public code writes them, families A to K, and networks around them.

Written for these tests after the conventions that occur in the wild: constructor orders, child names, wrappers, containers,
paddings. ``BLOCKS`` names every case; each makes a module that takes a map of ``channels(module)`` channels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def line(c: int, o: int, k: int, axis: int, **options: object) -> nn.Conv2d:
    """A k x 1 (axis 0) or 1 x k (axis 1) convolution that keeps the size."""
    kernel, padding = ((k, 1), (k // 2, 0)) if axis == 0 else ((1, k), (0, k // 2))
    return nn.Conv2d(c, o, **({"kernel_size": kernel, "padding": padding} | options))


class BlockA(nn.Module):
    """A (and H): (in_dim, out_dim, (kh, kw)), M = O, the most copied form."""

    def __init__(self, in_dim: int, out_dim: int, kernel_size: tuple[int, int] = (7, 7)) -> None:
        super().__init__()
        kh, kw = kernel_size
        self.conv_l1 = nn.Conv2d(in_dim, out_dim, kernel_size=(kh, 1), padding=(int((kh - 1) / 2), 0))
        self.conv_l2 = nn.Conv2d(out_dim, out_dim, kernel_size=(1, kw), padding=(0, int((kw - 1) / 2)))
        self.conv_r1 = nn.Conv2d(in_dim, out_dim, kernel_size=(1, kw), padding=(0, int((kw - 1) / 2)))
        self.conv_r2 = nn.Conv2d(out_dim, out_dim, kernel_size=(kh, 1), padding=(int((kh - 1) / 2), 0))

    def forward(self, x: Tensor) -> Tensor:
        x_l = self.conv_l2(self.conv_l1(x))
        x_r = self.conv_r2(self.conv_r1(x))
        return x_l + x_r


class BlockB(nn.Module):
    """B: (in, out, ks), in-place sum."""

    def __init__(self, inplanes: int, planes: int, ks: int = 7) -> None:
        super().__init__()
        self.conv_l1 = line(inplanes, planes, ks, 0)
        self.conv_l2 = line(planes, planes, ks, 1)
        self.conv_r1 = line(inplanes, planes, ks, 1)
        self.conv_r2 = line(planes, planes, ks, 0)

    def forward(self, input: Tensor) -> Tensor:
        left = self.conv_l1(input)
        left = self.conv_l2(left)
        right = self.conv_r1(input)
        right = self.conv_r2(right)
        left += right
        return left


class BlockC(nn.Module):
    """C: k = (k0, k1), the left branch k0 for both, the right k1 for both."""

    def __init__(self, c: int, out_c: int, k: tuple[int, int] = (7, 7)) -> None:
        super().__init__()
        self.conv_l1 = line(c, out_c, k[0], 0)
        self.conv_l2 = line(out_c, out_c, k[0], 1)
        self.conv_r1 = line(c, out_c, k[1], 1)
        self.conv_r2 = line(out_c, out_c, k[1], 0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.conv_r2(self.conv_r1(x)), self.conv_l2(self.conv_l1(x)))


class SamePad(nn.Module):
    """A convolution that is padded by F.pad before it is called."""

    def __init__(self, c: int, o: int, kernel_size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, o, kernel_size, padding=(0, 0))

    def forward(self, x: Tensor) -> Tensor:
        kh, kw = self.conv.kernel_size
        return self.conv(F.pad(x, ((kw - 1) // 2, kw // 2, (kh - 1) // 2, kh // 2)))


class BlockD(nn.Module):
    """D: wrapper modules pad."""

    def __init__(self, in_c: int, channels: int, k: int = 3) -> None:
        super().__init__()
        self.conv_l1 = SamePad(in_c, channels, (k, 1))
        self.conv_l2 = SamePad(channels, channels, (1, k))
        self.conv_r1 = SamePad(in_c, channels, (1, k))
        self.conv_r2 = SamePad(channels, channels, (k, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_l2(self.conv_l1(x)) + self.conv_r2(self.conv_r1(x))


class BlockE(nn.Module):
    """E: (kernel_size, in, out), conv11 ... conv22."""

    def __init__(self, kernel_size: int, in_c: int, out_c: int) -> None:
        super().__init__()
        self.conv11 = line(in_c, out_c, kernel_size, 0)
        self.conv12 = line(out_c, out_c, kernel_size, 1)
        self.conv21 = line(in_c, out_c, kernel_size, 1)
        self.conv22 = line(out_c, out_c, kernel_size, 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv12(self.conv11(x)) + self.conv22(self.conv21(x))


class BlockF(nn.Module):
    """F: (in, out, kernel_size), conv1_1 ... conv2_2, an identity that is never left out."""

    def __init__(self, in_c: int, out_c: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv1_1 = line(in_c, out_c, kernel_size, 0)
        self.conv1_2 = line(out_c, out_c, kernel_size, 1, padding="same")
        self.conv2_1 = line(in_c, out_c, kernel_size, 1)
        self.conv2_2 = line(out_c, out_c, kernel_size, 0, padding="same")
        self.act = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv1_2(self.conv1_1(x)) + self.conv2_2(self.conv2_1(x)))


class BlockG(nn.Module):
    """G: nn.Sequential branches, O = M = 1, kh != kw."""

    def __init__(self, in_c: int, out_c: int, kernel_size: tuple[int, int] = (7, 9)) -> None:
        super().__init__()
        kh, kw = kernel_size
        self.left = nn.Sequential(line(in_c, out_c, kh, 0), line(out_c, out_c, kw, 1))
        self.right = nn.Sequential(line(in_c, out_c, kw, 1), line(out_c, out_c, kh, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)


class BlockI(nn.Module):
    """I: the right branch registered first, no bias."""

    def __init__(self, in_c: int, classes: int, k: int = 15) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(line(in_c, classes, k, 1, bias=False), line(classes, classes, k, 0, bias=False))
        self.conv2 = nn.Sequential(line(in_c, classes, k, 0, bias=False), line(classes, classes, k, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(x) + self.conv2(x)


class BlockJ(nn.Module):
    """J: a ModuleList of Sequential, summed by Python's sum."""

    def __init__(self, in_c: int, out_c: int, k: int = 5) -> None:
        super().__init__()
        axes = ((0, 1), (1, 0))
        self.branches = nn.ModuleList(nn.Sequential(line(in_c, out_c, k, a), line(out_c, out_c, k, b)) for a, b in axes)

    def forward(self, x: Tensor) -> Tensor:
        return sum(branch(x) for branch in self.branches)


class BlockK(nn.Module):
    """K: (in, planes, kh, kw), a fixed middle width, M != O."""

    MIDDLE = 12

    def __init__(self, inplanes: int, planes: int, kh: int = 7, kw: int = 7) -> None:
        super().__init__()
        self.conv_l1 = line(inplanes, self.MIDDLE, kh, 0)
        self.conv_l2 = line(self.MIDDLE, planes, kw, 1)
        self.conv_r1 = line(inplanes, self.MIDDLE, kw, 1)
        self.conv_r2 = line(self.MIDDLE, planes, kh, 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_l2(self.conv_l1(x)) + self.conv_r2(self.conv_r1(x))


class WithLeftovers(BlockA):
    """Layers that are made and never called, as tidied-up code leaves them."""

    def __init__(self) -> None:
        super().__init__(6, 4)
        self.bn, self.relu, self.drop = nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)


class OptionalInput(BlockA):
    """A second input that is nearly never given."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = super().forward(x)
        return y if mask is None else y * mask


class SharedWidth(nn.Module):
    """C = M = O and names without meaning: shapes leave open which convolution feeds which."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = line(4, 4, 5, 0), line(4, 4, 5, 0)
        self.c, self.d = line(4, 4, 5, 1), line(4, 4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(x)) + self.a(self.d(x))


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "A": lambda: BlockA(6, 4, (7, 7)),
    "A-rectangular": lambda: BlockA(6, 4, (3, 9)),
    "B": lambda: BlockB(6, 4, 7),
    "C": lambda: BlockC(6, 4, (7, 7)),
    "C-two-sizes": lambda: BlockC(6, 4, (5, 9)),
    "D": lambda: BlockD(6, 4, 3),
    "E": lambda: BlockE(11, 6, 4),
    "F": lambda: BlockF(6, 4, 7),
    "G": lambda: BlockG(6, 1, (7, 9)),
    "G-large": lambda: BlockG(3, 1, (59, 79)),
    "H": lambda: BlockA(64, 64, (7, 7)),
    "I": lambda: BlockI(6, 4, 15),
    "J": lambda: BlockJ(6, 4, 5),
    "K": lambda: BlockK(6, 20, 7, 7),
    "leftovers": WithLeftovers,
    "optional-input": lambda: OptionalInput(6, 4),
    "shared-width": SharedWidth,
}


def channels(module: nn.Module) -> int:
    """Channels of the map that a block takes: those of its first convolution."""
    return next(m for m in module.modules() if isinstance(m, nn.Conv2d)).in_channels


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random biases, and BatchNorm statistics as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator))
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for t in (module.running_mean, module.running_var, module.weight, module.bias):
                    if t is not None:
                        t.copy_(torch.randn(t.shape, generator=generator))
                if module.running_var is not None:
                    module.running_var.abs_().add_(0.5)
    return model


class PublicStyleNet(nn.Module):
    """A small segmentation network as public code writes it: four stages, a block on each, refinements, upsampling."""

    def __init__(self, classes: int = 5, width: int = 8, k: int = 7) -> None:
        super().__init__()
        stages, c = [], 3
        for i in range(4):
            stages.append(nn.Sequential(nn.Conv2d(c, width << i, 3, 2, 1), nn.BatchNorm2d(width << i), nn.ReLU(inplace=True)))
            c = width << i
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for i in range(4):
            setattr(self, f"gcn{i + 1}", BlockA(width << i, classes, (k, k)))
            setattr(self, f"br{i + 1}", nn.Conv2d(classes, classes, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        size, score, maps = x.shape[2:], None, []
        for i in range(4):
            x = getattr(self, f"layer{i + 1}")(x)
            maps.append(x)
        for i in reversed(range(4)):
            here = getattr(self, f"gcn{i + 1}")(maps[i])
            here = here + getattr(self, f"br{i + 1}")(F.relu(here))
            if score is not None:
                here = here + F.interpolate(score, size=here.shape[2:], mode="bilinear", align_corners=False)
            score = here
        return F.interpolate(score, size=size, mode="bilinear", align_corners=False)


class InlineNet(nn.Module):
    """A block written inside the parent's forward, between other layers."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.l1, self.l2 = line(6, 4, 7, 0), line(4, 4, 7, 1)
        self.right = nn.Sequential(line(6, 4, 7, 1), line(4, 4, 7, 0))
        self.head = nn.Conv2d(4, 2, 1)
        self.dropout, self.scale = dropout, 2

    def forward(self, x: Tensor) -> Tensor:
        f = self.stem(x)
        y = F.relu(self.l2(self.l1(f)) + self.right(f))
        y = F.dropout(y, self.dropout, self.training)
        return F.interpolate(self.head(y), scale_factor=self.scale)


class InlineBranching(InlineNet):
    """The same, with a choice that depends on values, which no trace can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)
