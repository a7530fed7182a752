"""Predictions for whole images: at several scales, mirrored, in windows whose scores are fused."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class WholeImage:
    """How an image is tested.

    Attributes:
        scales: the image is tested at each of these sizes, and probabilities are averaged.
        flip: also test the mirrored image.
        window: height and width of windows, 0 for the image as a whole; 1024 on Cityscapes.
        overlap: least part of a window that the next one repeats; 2/3 makes four windows of a 1024 x 2048 image.
    """

    scales: Sequence[float] = (1.0,)
    flip: bool = False
    window: int = 0
    overlap: float = 2 / 3

    def probabilities(self, network: Network, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> class probabilities [N, O, H, W]."""
        size = x.shape[2:]
        total: Tensor | None = None
        for scale in self.scales:
            scaled = x if scale == 1 else F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
            for mirrored in (False, True) if self.flip else (False,):
                scores = self._windows(network, scaled.flip(-1) if mirrored else scaled)
                scores = scores.flip(-1) if mirrored else scores
                if scores.shape[2:] != size:
                    scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
                total = scores if total is None else total + scores
        if total is None:
            raise ValueError("scales: expected at least one")
        return total / (len(self.scales) * (2 if self.flip else 1))

    def calls(self, height: int, width: int) -> int:
        """How often the network is called for one image."""
        count = 0
        for scale in self.scales:
            starts = (_starts(int(s * scale), self.window, self.overlap) for s in (height, width))
            count += math.prod(len(s) for s in starts) if self.window else 1
        return count * (2 if self.flip else 1)

    def _windows(self, network: Network, x: Tensor) -> Tensor:
        if not self.window:
            return network(x).softmax(1)
        tops, lefts = (_starts(s, self.window, self.overlap) for s in x.shape[2:])
        total, count = None, torch.zeros_like(x[:, :1])
        for top in tops:
            for left in lefts:
                part = (..., slice(top, top + self.window), slice(left, left + self.window))
                scores = network(x[part]).softmax(1)
                total = scores.new_zeros(x.shape[0], scores.shape[1], *x.shape[2:]) if total is None else total
                total[part] += scores
                count[part] += 1
        if total is None:
            raise ValueError(f"expected an image with pixels, got shape {list(x.shape)}")
        return total / count


def _starts(size: int, window: int, overlap: float) -> list[int]:
    """First rows of evenly spaced windows that cover ``size`` rows."""
    if size <= window:
        return [0]
    count = math.ceil(round((size - window) / (window * (1 - overlap)), 6)) + 1
    return [round(i * (size - window) / (count - 1)) for i in range(count)]
