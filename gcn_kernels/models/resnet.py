"""ResNet-18 to -152 as encoders, and ResNet-50-GCN (Peng et al. 2017, section 4.2 and table 6).

An encoder returns the maps of its four stages, called res-2 to res-5 in the paper, at 1/4 to 1/32 of the input. Parameter names
are those of torchvision's ResNet, so that its checkpoints load (stride on the 3 x 3 convolution, no final ``fc``).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(c: int, o: int, kernel: int, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution without bias that divides the size by ``stride``, and the normalisation that follows it."""
    return nn.Conv2d(c, o, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(o)


class Residual(nn.Module, ABC):
    """y = relu(branch(x) + shortcut(x)); the shortcut is the identity, or 1 x 1 where the shape changes."""

    downsample: nn.Sequential | None

    def __init__(self, c: int, o: int, stride: int) -> None:
        super().__init__()
        self.downsample = nn.Sequential(*conv_bn(c, o, 1, stride)) if stride != 1 or c != o else None

    @abstractmethod
    def branch(self, x: Tensor) -> Tensor:
        """What is added to the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, O, ceil(H / stride), ceil(W / stride)]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.branch(x) + shortcut)


class BasicBlock(Residual):
    """Two 3 x 3 convolutions (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, c: int, width: int, stride: int) -> None:
        super().__init__(c, width, stride)
        self.conv1, self.bn1 = conv_bn(c, width, 3, stride)
        self.conv2, self.bn2 = conv_bn(width, width, 3)

    def branch(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        y: Tensor = self.bn2(self.conv2(x))
        return y


class Bottleneck(Residual):
    """1 x 1 down, 3 x 3, 1 x 1 up (ResNet-50 and deeper)."""

    expansion = 4

    def __init__(self, c: int, width: int, stride: int) -> None:
        super().__init__(c, width * self.expansion, stride)
        self.conv1, self.bn1 = conv_bn(c, width, 1)
        self.conv2, self.bn2 = conv_bn(width, width, 3, stride)
        self.conv3, self.bn3 = conv_bn(width, width * self.expansion, 1)

    def branch(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        y: Tensor = self.bn3(self.conv3(x))
        return y


class GCNBottleneck(Residual):
    """The bottleneck with its 1 x 1 and 3 x 3 replaced by a GCN with BN and ReLU after each convolution, then 1 x 1 up.

    The nonlinearities stand between the convolutions, so this is not the fused operator. Where the block divides the size, each
    convolution has the stride along its own axis (the paper does not say).
    """

    def __init__(self, c: int, middle: int, o: int, kernel_size: int, stride: int) -> None:
        super().__init__(c, o, stride)
        self.left = nn.Sequential(*_line(c, middle, kernel_size, 0, stride), *_line(middle, middle, kernel_size, 1, stride))
        self.right = nn.Sequential(*_line(c, middle, kernel_size, 1, stride), *_line(middle, middle, kernel_size, 0, stride))
        self.conv3, self.bn3 = conv_bn(middle, o, 1)

    def branch(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn3(self.conv3(self.left(x) + self.right(x)))
        return y


def _line(c: int, o: int, k: int, axis: int, stride: int) -> tuple[nn.Module, ...]:
    """A k x 1 (axis 0) or 1 x k (axis 1) convolution with its stride along the axis, BN and ReLU."""
    kernel, step, padding = ((k, 1), (stride, 1), (k // 2, 0)) if axis == 0 else ((1, k), (1, stride), (0, k // 2))
    return nn.Conv2d(c, o, kernel, step, padding, bias=False), nn.BatchNorm2d(o), nn.ReLU()


class ResNet(nn.Module):
    """The stem and four stages; ``forward`` returns the maps of the four stages.

    Args:
        stages: the blocks of each stage, four sequences.
        channels: channels of the four maps.
        width: channels of the stem.

    Shape:
        [N, 3, H, W] -> four maps [N, channels[i], ceil(H / 2^(i+2)), ceil(W / 2^(i+2))].

    Example:
        >>> [tuple(m.shape[1:]) for m in resnet(18)(torch.zeros(1, 3, 64, 96))]
        [(64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3)]
    """

    def __init__(self, stages: Sequence[Sequence[nn.Module]], channels: Sequence[int], width: int = 64) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.conv1, self.bn1 = conv_bn(3, width, 7, 2)
        self.layer1, self.layer2, self.layer3, self.layer4 = (nn.Sequential(*blocks) for blocks in stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps of res-2 ... res-5."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps

    def load_checkpoint(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict of torchvision's ResNet of the same depth; its classifier ``fc`` is left out.

        Raises:
            RuntimeError: other keys than ``fc.*`` are missing or left over.
        """
        self.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})


DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


def resnet(depth: int, *, width: int = 64) -> ResNet:
    """A ResNet encoder with random weights.

    Args:
        depth: 18, 34, 50, 101 or 152; the paper uses 152.
        width: channels of the stem and of the first stage before expansion; 64 in every published checkpoint.

    Raises:
        ValueError: another depth.

    Example:
        >>> resnet(152).channels
        (256, 512, 1024, 2048)

    Source: He et al., *Deep Residual Learning*, CVPR 2016; encoder of Peng et al. 2017, figure 2 A.
    """
    if depth not in DEPTHS:
        raise ValueError(f"depth: expected one of {', '.join(map(str, DEPTHS))}, got {depth}")
    block, counts = DEPTHS[depth]
    stages, channels, c = [], [], width
    for i, count in enumerate(counts):
        planes = width << i
        stages.append([block(c if j == 0 else planes * block.expansion, planes, 2 if i and j == 0 else 1) for j in range(count)])
        c = planes * block.expansion
        channels.append(c)
    return ResNet(stages, channels, width)


def resnet50_gcn() -> ResNet:
    """ResNet-50 with GCN bottlenecks in res-4 (k = 5, 85 channels) and res-5 (k = 7, 128 channels).

    Example:
        >>> resnet50_gcn().channels
        (256, 512, 1024, 2048)

    Source: Peng et al. 2017, section 4.2, table 6.
    """
    encoder = resnet(50)
    stages = [list(encoder.layer1), list(encoder.layer2)]
    for c, middle, o, k, count in ((512, 85, 1024, 5, 6), (1024, 128, 2048, 7, 3)):
        stages.append([GCNBottleneck(c if j == 0 else o, middle, o, k, 2 if j == 0 else 1) for j in range(count)])
    return ResNet(stages, encoder.channels)
