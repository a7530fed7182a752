"""Modules with depthwise strips as public code writes them, and look-alikes. ``STRIPS`` gives the calls that each makes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

C = 8


def dw(c: int, kh: int, kw: int, dilation: int = 1, **options: object) -> nn.Conv2d:
    """A depthwise convolution that keeps the size."""
    padding = (dilation * (kh // 2), dilation * (kw // 2))
    return nn.Conv2d(c, c, (kh, kw), **({"padding": padding, "dilation": dilation, "groups": c} | options))


class MSCA(nn.Module):
    """The attention of SegNeXt."""

    def __init__(self, c: int = C) -> None:
        super().__init__()
        self.conv0 = dw(c, 5, 5)
        self.conv0_1, self.conv0_2 = dw(c, 1, 7), dw(c, 7, 1)
        self.conv1_1, self.conv1_2 = dw(c, 1, 11), dw(c, 11, 1)
        self.conv2_1, self.conv2_2 = dw(c, 1, 21), dw(c, 21, 1)
        self.conv3 = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        u = x.clone()
        attn = self.conv0(x)
        attn_0 = self.conv0_2(self.conv0_1(attn))
        attn_1 = self.conv1_2(self.conv1_1(attn))
        attn_2 = self.conv2_2(self.conv2_1(attn))
        attn = attn + attn_0 + attn_1 + attn_2
        return self.conv3(attn) * u


class StripBlock(nn.Module):
    """The block of Strip R-CNN, which keeps every name alive."""

    def __init__(self, c: int = C) -> None:
        super().__init__()
        self.conv0, self.conv_spatial1, self.conv_spatial2 = dw(c, 5, 5), dw(c, 1, 19), dw(c, 19, 1)
        self.conv1 = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv0(x)
        b = self.conv_spatial1(a)
        attn = self.conv_spatial2(b)
        return x * self.conv1(attn)


class LSKA(nn.Module):
    """Four steps, two of them dilated, without biases."""

    def __init__(self, c: int = C) -> None:
        super().__init__()
        self.conv0h, self.conv0v = dw(c, 1, 5, bias=False), dw(c, 5, 1, bias=False)
        self.spatial_h = nn.Conv2d(c, c, (1, 7), padding=(0, 9), dilation=3, groups=c, bias=False)
        self.spatial_v = nn.Conv2d(c, c, (7, 1), padding=(9, 0), dilation=3, groups=c, bias=False)
        self.conv1 = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        u = x.clone()
        attn = self.conv0h(x)
        attn = self.conv0v(attn)
        attn = self.spatial_h(attn)
        attn = self.spatial_v(attn)
        return u * self.conv1(attn)


class LSK(nn.Module):
    """Two depthwise convolutions, one after the other, of which both results are used: nothing to join."""

    def __init__(self, c: int = C) -> None:
        super().__init__()
        self.conv0, self.conv_spatial = dw(c, 5, 5), dw(c, 7, 7, dilation=3)
        self.conv1, self.conv2 = nn.Conv2d(c, c // 2, 1), nn.Conv2d(c, c // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        attn1 = self.conv0(x)
        attn2 = self.conv_spatial(attn1)
        return torch.cat([self.conv1(attn1), self.conv2(attn2)], 1)


class ConvModule(nn.Module):
    """A convolution with what may follow it, as mmcv has it."""

    def __init__(self, conv: nn.Conv2d, act: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.act = conv, act

    def forward(self, x: Tensor, activate: bool = True) -> Tensor:
        x = self.conv(x)
        return self.act(x) if self.act is not None and activate else x


class CAA(nn.Module):
    """The context anchor attention of PKINet: the strips are in wrappers."""

    def __init__(self, c: int = C) -> None:
        super().__init__()
        self.avg_pool, self.conv1 = nn.AvgPool2d(7, 1, 3), ConvModule(nn.Conv2d(c, c, 1), nn.SiLU())
        self.h_conv, self.v_conv = ConvModule(dw(c, 1, 11)), ConvModule(dw(c, 11, 1))
        self.conv2, self.act = ConvModule(nn.Conv2d(c, c, 1), nn.SiLU()), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv2(self.v_conv(self.h_conv(self.conv1(self.avg_pool(x))))))


class CPCA(nn.Module):
    """Channel prior convolutional attention: one 1 x 1 convolution in three places, the stem's result added last."""

    def __init__(self, c: int = C) -> None:
        super().__init__()
        self.dconv5_5 = dw(c, 5, 5)
        self.dconv1_7, self.dconv7_1 = dw(c, 1, 7), dw(c, 7, 1)
        self.dconv1_11, self.dconv11_1 = dw(c, 1, 11), dw(c, 11, 1)
        self.conv, self.act = nn.Conv2d(c, c, 1), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        x_init = self.dconv5_5(x)
        x_1 = self.dconv7_1(self.dconv1_7(x_init))
        x_2 = self.dconv11_1(self.dconv1_11(x_init))
        attention = self.conv(x_1 + x_2 + x_init)
        return self.conv(attention * x)


class Singles(nn.Module):
    """Parallel single strips under MSCA's names, and its map itself."""

    def __init__(self, c: int = C) -> None:
        super().__init__()
        self.conv0_1, self.conv0_2 = dw(c, 1, 7), dw(c, 7, 1)
        self.conv1_1, self.conv1_2 = dw(c, 1, 11), dw(c, 11, 1)

    def forward(self, x: Tensor) -> Tensor:
        attn = x + self.conv0_1(x)
        attn = attn + self.conv0_2(x)
        attn += self.conv1_1(x) + self.conv1_2(x)
        return F.gelu(attn)


class Twice(nn.Module):
    """One convolution in two places of a chain."""

    def __init__(self, c: int = C) -> None:
        super().__init__()
        self.conv = dw(c, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(self.conv(x)) + self.conv(x))


class InceptionDW(nn.Module):
    """The token mixer of InceptionNeXt: slices of the channels."""

    def __init__(self, c: int = C) -> None:
        super().__init__()
        g = c // 4
        self.dwconv_hw, self.dwconv_w, self.dwconv_h = dw(g, 3, 3), dw(g, 1, 11), dw(g, 11, 1)
        self.split = (c - 3 * g, g, g, g)

    def forward(self, x: Tensor) -> Tensor:
        x_id, x_hw, x_w, x_h = torch.split(x, self.split, dim=1)
        return torch.cat((x_id, self.dwconv_hw(x_hw), self.dwconv_w(x_w), self.dwconv_h(x_h)), dim=1)


class MetaNeXt(nn.Module):
    """The block around it, which tells how many channels there are."""

    def __init__(self, c: int = C) -> None:
        super().__init__()
        self.token_mixer, self.norm = InceptionDW(c), nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.token_mixer(x))


class Mlp(nn.Module):
    """The MLP of MSCAN: a depthwise 3 x 3 that stands alone, in a module of its own."""

    def __init__(self, c: int = C) -> None:
        super().__init__()
        self.fc1, self.dwconv, self.fc2 = nn.Conv2d(c, 2 * c, 1), ConvModule(dw(2 * c, 3, 3)), nn.Conv2d(2 * c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))


class SameConv(nn.Conv2d):
    """Pads by itself, so its own padding is 0."""

    def forward(self, input: Tensor) -> Tensor:
        kh, kw = self.kernel_size
        return super().forward(F.pad(input, (kw // 2, kw // 2, kh // 2, kh // 2)))


class Between(nn.Module):
    """Something between the steps."""

    def __init__(self, between: nn.Module, c: int = C) -> None:
        super().__init__()
        self.first, self.between, self.second = dw(c, 1, 11), between, dw(c, 11, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))


class Dead(MSCA):
    """Branches that are made and never called."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.conv0(x))


#: Name: what makes it, and the chains of each call of its forward.
STRIPS: dict[str, tuple[Callable[[], nn.Module], list[list[int]]]] = {
    "MSCA": (MSCA, [[2, 2, 2]]),
    "StripBlock": (StripBlock, [[3]]),
    "LSKA": (LSKA, [[4]]),
    "LSK": (LSK, [[1], [1]]),
    "CAA": (CAA, [[2]]),
    "CPCA": (CPCA, [[2, 2]]),
    "singles": (Singles, [[1, 1, 1, 1]]),
    "twice": (Twice, [[2, 1]]),
    "InceptionNeXt": (MetaNeXt, [[1], [1], [1]]),
    "MLP": (Mlp, [[1]]),
    "rectangle": (lambda: nn.Sequential(dw(C, 51, 5), nn.BatchNorm2d(C)), [[1]]),
    "ReLU between": (lambda: Between(nn.ReLU()), [[1], [1]]),
    "BatchNorm between": (lambda: Between(nn.BatchNorm2d(C)), [[1], [1]]),
    "dead branches": (Dead, [[1]]),
}

#: Name: what makes a module that is left alone, and a part of the reason.
NO_STRIPS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "stride": (lambda: nn.Sequential(dw(C, 3, 3, stride=2)), "stride (2, 2)"),
    "even": (lambda: nn.Sequential(dw(C, 4, 4)), "kernel (4, 4)"),
    "valid": (lambda: nn.Sequential(dw(C, 3, 3, padding=0)), "padding (0, 0)"),
    "large square": (lambda: nn.Sequential(dw(C, 13, 13)), "kernel (13, 13)"),
    "circular": (lambda: nn.Sequential(dw(C, 3, 3, padding_mode="circular")), "padding_mode 'circular'"),
    "padded by a subclass": (lambda: nn.Sequential(SameConv(C, C, (1, 7), groups=C)), "padding (0, 0)"),
    "channels multiplied": (lambda: nn.Sequential(nn.Conv2d(C, 2 * C, 3, padding=1, groups=C)), ""),
}
