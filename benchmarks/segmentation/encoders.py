"""An encoder that sees nothing beyond its own patch, so that whatever context a network uses comes from its heads.

A ResNet's receptive field covers the small images of the built-in data set several times, and would answer in the heads' place
the question that the experiments ask.
"""

from torch import Tensor, nn


class PatchEncoder(nn.Module):
    """Four maps at 1/4 ... 1/32 of the input; one value of the last sees little more than its own 32 x 32 pixels.

    Every step down is the maximum over 2 x 2 values, between them are 1 x 1 convolutions; only the stem overlaps.

    Args:
        channels: of the four maps.

    Example:
        >>> [m.shape[-1] for m in PatchEncoder()(torch.zeros(1, 3, 256, 256))]
        [64, 32, 16, 8]
    """

    def __init__(self, channels: tuple[int, int, int, int] = (32, 64, 96, 128)) -> None:
        super().__init__()
        self.channels = channels
        first = channels[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first // 2, 5, 2, 2, bias=False), nn.BatchNorm2d(first // 2), nn.ReLU(inplace=True)
        )
        inputs = (first // 2, *channels[:-1])
        self.stages = nn.ModuleList(_step_down(c, o) for c, o in zip(inputs, channels, strict=True))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps at 1/4, 1/8, 1/16 and 1/32; a size that does not divide is rounded up."""
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def _step_down(c: int, o: int) -> nn.Sequential:
    return nn.Sequential(
        nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.Conv2d(c, o, 1, bias=False),
        nn.BatchNorm2d(o),
        nn.ReLU(inplace=True),
        nn.Conv2d(o, o, 1, bias=False),
        nn.BatchNorm2d(o),
        nn.ReLU(inplace=True),
    )
