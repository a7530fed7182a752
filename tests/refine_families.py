"""Boundary refinements and deconvolutions as public code writes them, look-alikes, and a network of them.

Written for these tests after the conventions that occur in the wild. Every module takes a map of ``C`` channels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from families import BlockA
from strips_families import ConvModule
from torch import Tensor, nn

C = 6


def square(c: int = C, o: int = C, **options: Any) -> nn.Conv2d:
    """A 3 x 3 convolution that keeps the size."""
    return nn.Conv2d(c, o, **({"kernel_size": 3, "padding": 1} | options))


class Refine(nn.Module):
    """The most copied form: one name for every result between, x first in the sum."""

    def __init__(self, dim: int = C) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(dim, dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(x)
        residual = self.relu(residual)
        residual = self.conv2(residual)
        out = x + residual
        return out


class RefineNotInPlace(Refine):
    """The same with a ReLU that makes a map of its own."""

    def __init__(self, in_dim: int = C) -> None:
        super().__init__(in_dim)
        self.relu = nn.ReLU()


class RefineUnusedNorms(nn.Module):
    """Normalisations and a ReLU that are never called, and a sum in place."""

    def __init__(self, num_channels: int = C) -> None:
        super().__init__()
        self.bn1, self.relu1 = nn.BatchNorm2d(num_channels), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(num_channels, num_channels, 3, padding=1)
        self.bn2, self.relu2 = nn.BatchNorm2d(num_channels), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(num_channels, num_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        x = self.conv2(self.relu2(self.conv1(x)))
        x += identity
        return x


class RefineOneUnusedNorm(Refine):
    """The map under the name of the residual to begin with."""

    def __init__(self, out_c: int = C) -> None:
        super().__init__(out_c)
        self.bn = nn.BatchNorm2d(out_c)

    def forward(self, x: Tensor) -> Tensor:
        x_res = x
        x_res = self.conv1(x_res)
        x_res = self.relu(x_res)
        x_res = self.conv2(x_res)
        x = x + x_res
        return x


class SamePadding(nn.Module):
    """A convolution without padding, behind a wrapper that pads by what keeps the size."""

    def __init__(self, c: int, o: int, k: int = 3) -> None:
        super().__init__()
        self.k, self.conv = k, nn.Conv2d(c, o, k)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        need_h, need_w = (max(0, size - 1 + self.k - size) for size in (height, width))
        sides = (need_w // 2, need_w - need_w // 2, need_h // 2, need_h - need_h // 2)
        return self.conv(F.pad(x, sides, "constant", 0))


class RefinePadded(nn.Module):
    """Wrappers that pad, and a function of PyTorch for the ReLU."""

    def __init__(self, channels: int = C) -> None:
        super().__init__()
        self.conv_1, self.conv_2 = SamePadding(channels, channels), SamePadding(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.conv_1(x)
        x1 = F.relu(x1, inplace=True)
        x1 = self.conv_2(x1)
        return x + x1


class RefineOtherNames(nn.Module):
    """The sum the other way round."""

    def __init__(self, dim: int = C) -> None:
        super().__init__()
        self.non_linearity = nn.ReLU(inplace=True)
        self.convolution_layer_1, self.convolution_layer_2 = square(dim, dim), square(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution_layer_2(self.non_linearity(self.convolution_layer_1(x))) + x


class RefineBody(nn.Module):
    """Both convolutions in an nn.Sequential, the sum outside of it."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*(body or (square(), nn.ReLU(True), square())))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class RefineWrapped(nn.Module):
    """Convolutions with what follows them in a wrapper, as mmcv has it; more channels between, no second bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ConvModule(square(C, 2 * C), nn.ReLU(inplace=True))
        self.second = ConvModule(square(2 * C, C, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.second(self.first(x)))


class RefineMethods(Refine):
    """Methods of tensors in the place of modules, and one name that is changed in place."""

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(x)
        residual.relu_()
        residual = self.conv2(residual)
        residual.add_(x)
        return residual


class RefineInline(nn.Module):
    """A network in one forward: a convolution with its ReLU, two refinements, one of them of what ReLU gives."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = square()
        self.a1, self.a2, self.b1, self.b2 = square(), square(padding="same"), square(C, 3), square(3, C)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.a2(self.a1(x).relu())
        return F.relu(x + self.b2(F.relu(self.b1(x)))) * 2


#: Name: what makes a module, and how often its forward computes a refinement.
REFINEMENTS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "in place": (Refine, 1),
    "not in place": (RefineNotInPlace, 1),
    "unused norms": (RefineUnusedNorms, 1),
    "one unused norm": (RefineOneUnusedNorm, 1),
    "padded": (RefinePadded, 1),
    "other names": (RefineOtherNames, 1),
    "body": (RefineBody, 1),
    "wrapped": (RefineWrapped, 1),
    "methods": (RefineMethods, 1),
    "inline": (RefineInline, 2),
}


def own(forward: Callable[[Any, Tensor], Any], **children: Callable[[], nn.Module]) -> type[nn.Module]:
    """A refinement with another forward, and with ``children``."""

    class Own(RefineUnusedNorms):
        def __init__(self) -> None:
            super().__init__()
            for name, make in children.items():
                setattr(self, name, make())

        def forward(self, x: Tensor) -> Any:
            return forward(self, x)

    return Own


def norm_between(m: Any, x: Tensor) -> Tensor:
    return x + m.conv2(m.relu1(m.bn1(m.conv1(x))))


def norm_after(m: Any, x: Tensor) -> Tensor:
    return x + m.bn2(m.conv2(m.relu1(m.conv1(x))))


def pre_activation(m: Any, x: Tensor) -> Tensor:
    return x + m.conv2(F.relu(m.bn2(m.conv1(F.relu(m.bn1(x))))))


def relu_after_both(m: Any, x: Tensor) -> Tensor:
    return x + F.relu(m.conv2(F.relu(m.conv1(x))))


def other_summand(m: Any, x: Tensor) -> Tensor:
    return 2 * x + m.conv2(F.relu(m.conv1(x)))


def two_maps(m: Any, x: Tensor) -> Tensor:
    return x.flip(2) + m.conv2(F.relu(m.conv1(x)))


def no_sum(m: Any, x: Tensor) -> Tensor:
    return m.conv2(F.relu(m.conv1(x)))


def no_relu(m: Any, x: Tensor) -> Tensor:
    return x + m.conv2(m.conv1(x))


def side_by_side(m: Any, x: Tensor) -> Tensor:
    return x + F.relu(m.conv1(x)) + m.conv2(x)


def with_a_factor(m: Any, x: Tensor) -> Tensor:
    return torch.add(x, m.conv2(F.relu(m.conv1(x))), alpha=0.1)


def other_activation(m: Any, x: Tensor) -> Tensor:
    return x + m.conv2(m.act(m.conv1(x)))


def without_parameters() -> nn.Module:
    model = RefineBody(square(bias=False), nn.ReLU(), square())
    conv = model.body[0]
    weight = conv.weight.detach()
    del conv.weight
    conv.register_buffer("weight", weight)
    return model


NONE = "its forward computes no x + conv2(relu(conv1(x)))"
#: Name: what makes a module that is left alone, and a part of the reason.
NO_REFINEMENTS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "BatchNorm between": (own(norm_between), "bn1: BatchNorm2d"),
    "BatchNorm after": (own(norm_after), "bn2: BatchNorm2d"),
    "pre-activation": (own(pre_activation), NONE),
    "ReLU after both": (own(relu_after_both), NONE),
    "other summand": (own(other_summand), NONE),
    "two maps": (own(two_maps), NONE),
    "no sum": (own(no_sum), NONE),
    "no ReLU": (own(no_relu), NONE),
    "side by side": (own(side_by_side), NONE),
    "with a factor": (own(with_a_factor), NONE),
    "ReLU6": (own(other_activation, act=nn.ReLU6), "act: ReLU6"),
    "LeakyReLU": (own(other_activation, act=nn.LeakyReLU), "act: LeakyReLU"),
    "larger kernel": (lambda: RefineBody(nn.Conv2d(C, C, 5, padding=2), nn.ReLU(), square()), "kernel (5, 5)"),
    "stride": (lambda: RefineBody(square(stride=2), nn.ReLU(), square()), "stride (2, 2)"),
    "dilation": (lambda: RefineBody(square(), nn.ReLU(), square(padding=2, dilation=2)), "dilation (2, 2)"),
    "groups": (lambda: RefineBody(square(groups=2), nn.ReLU(), square()), "groups 2"),
    "circular": (lambda: RefineBody(square(padding_mode="circular"), nn.ReLU(), square()), "padding_mode 'circular'"),
    "valid": (lambda: RefineBody(square(padding=0), nn.ReLU(), square(padding=2)), "pads (0, 0)"),
    "no parameters": (without_parameters, "body.0 has no parameters"),
    "float8": (lambda: RefineBody().to(torch.float8_e4m3fn), "float8"),
}


def bilinear(channels: int = C) -> nn.ConvTranspose2d:
    """A deconvolution that starts as bilinear interpolation, between all channels."""
    module = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)
    slope = 1 - (torch.arange(4) - 1.5).abs() / 2
    module.weight.data = (slope[:, None] * slope).repeat(channels, channels, 1, 1)
    return module


def interpolation(kernel: int, channels: int = C) -> nn.ConvTranspose2d:
    """Bilinear interpolation of each channel by itself, not trained."""
    more = {"padding": int(kernel > 2), "output_padding": int(kernel == 3)}
    module = nn.ConvTranspose2d(channels, channels, kernel, 2, groups=channels, bias=False, **more)
    slope = 1 - (torch.arange(kernel) - (kernel - 1) / 2).abs() / 2
    module.weight.data = (slope[:, None] * slope).repeat(channels, 1, 1, 1)
    return module.requires_grad_(False)


class Doubling(nn.ConvTranspose2d):
    """A class of its own, with another forward around PyTorch's."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(input * 2, output_size)[..., :-1, :-1]


#: Name: what makes a deconvolution that is swapped.
DECONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.ConvTranspose2d(C, C, 4, 2, 1, bias=False),
    "bilinear": bilinear,
    "fewer channels": lambda: nn.ConvTranspose2d(C, 3, (4, 4), (2, 2), (1, 1)),
    "subclass": lambda: Doubling(C, C, 4, stride=2, padding=1),
    "2 x 2": lambda: nn.ConvTranspose2d(C, 3, kernel_size=2, stride=2),
    "3 x 3": lambda: nn.ConvTranspose2d(C, C, 3, padding=1, output_padding=1, stride=2),
    "groups": lambda: nn.ConvTranspose2d(C, C, 4, 2, 1, groups=C),
    **{f"interpolation {k} x {k}": partial(interpolation, k) for k in (2, 3, 4)},
}
#: Name: what makes one that is left alone, and a part of the reason.
NO_DECONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "stride 1": (lambda: nn.ConvTranspose2d(C, C, 3, 1, 1), "stride (1, 1)"),
    "stride 4": (lambda: nn.ConvTranspose2d(C, C, 4, 4), "stride (4, 4)"),
    "2 x 2 padded": (lambda: nn.ConvTranspose2d(C, C, 2, 2, 1), "kernel (2, 2), stride (2, 2), padding (1, 1)"),
    "3 x 3 without output padding": (lambda: nn.ConvTranspose2d(C, C, 3, 2, 1), "output_padding (0, 0)"),
    "2 x 4": (lambda: nn.ConvTranspose2d(C, C, (2, 4), 2, (0, 1)), "kernel (2, 4)"),
    "8 x 8": (lambda: nn.ConvTranspose2d(C, C, 8, 4, 2), "kernel (8, 8)"),
    "cropped later": (lambda: nn.ConvTranspose2d(C, C, 4, 2), "padding (0, 0)"),
    "one more": (lambda: nn.ConvTranspose2d(C, C, 4, 2, 1, output_padding=1), "output_padding (1, 1)"),
    "groups between": (lambda: nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=2), "groups 2"),
    "several outputs of each channel": (lambda: nn.ConvTranspose2d(C, 2 * C, 4, 2, 1, groups=C), f"groups {C}"),
    "dilation": (lambda: nn.ConvTranspose2d(C, C, 4, 2, 1, dilation=2), "dilation (2, 2)"),
}


class UsedThreeTimes(nn.Module):
    """One deconvolution on every level, as FCN-style decoders share it; a lateral map is added to each result."""

    def __init__(self, deconvolution: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.up = deconvolution()

    def forward(self, x: Tensor) -> Tensor:
        coarse = x[:, :, ::4, ::4]
        for step in (2, 1):
            lateral = x[:, :, ::step, ::step]
            coarse = self.up(coarse)[:, :, : lateral.shape[2], : lateral.shape[3]] + lateral
        return self.up(coarse)


class DecoderNet(nn.Module):
    """A network with every part of the paper's decoder, each a module of its own, ``refine`` as one of the forms above."""

    def __init__(self, refine: Callable[[], nn.Module] = Refine) -> None:
        super().__init__()
        self.layer0 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(True))
        self.layer1 = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(True))
        self.gcn1, self.gcn2 = BlockA(12, C), BlockA(8, C)
        self.br1, self.br2, self.br3, self.br4 = (refine() for _ in range(4))
        self.deconv1, self.deconv2 = bilinear(), nn.ConvTranspose2d(C, C, 4, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.layer0(x)
        coarse = self.layer1(fine)
        fine = self.br2(self.gcn2(fine))
        score = self.deconv1(self.br1(self.gcn1(coarse)))[:, :, : fine.shape[2], : fine.shape[3]]
        return self.br4(self.deconv2(self.br3(score + fine)))
