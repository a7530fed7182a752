"""What stands between a stage of the encoder and its score map: the GCN, and the heads that tables 1 to 4 compare it with.

=========  =========================================================  ==========================
``gcn``    global convolution, k x 1 + 1 x k and 1 x k + k x 1        2k (C O + O O) weights
``1x1``    one 1 x 1 convolution, the baseline of table 1             C O
``dense``  one k x k convolution (table 2)                            k k C O
``stack``  (k - 1) / 2 convolutions 3 x 3 with m maps (tables 3, 4)   9 (C m + (n - 2) m m + m O)
=========  =========================================================  ==========================

All are linear: no normalisation, no ReLU. The paper does not say how a GCN starts; here its second convolutions start at the
identity plus the usual random values, so that from the first step on each branch learns a k x 1 or 1 x k convolution directly,
instead of the product of two random ones.
"""

from itertools import pairwise

import torch
from torch import nn

from gcn_kernels.gcn.module import FusedGCN

HEADS = ("gcn", "1x1", "dense", "stack")


class PointHead(nn.Conv2d):
    """The 1 x 1 baseline: [N, C, H, W] -> [N, O, H, W]."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes, 1)


class DenseHead(nn.Conv2d):
    """One dense k x k convolution: [N, C, H, W] -> [N, O, H, W]."""

    def __init__(self, channels: int, classes: int, kernel_size: int) -> None:
        super().__init__(channels, classes, kernel_size, padding=kernel_size // 2)


class StackHead(nn.Sequential):
    """3 x 3 convolutions that together reach as far as one k x k: [N, C, H, W] -> [N, O, H, W].

    Args:
        channels: C.
        classes: O.
        kernel_size: odd k; the stack has (k - 1) / 2 convolutions.
        middle: maps m between them.
    """

    def __init__(self, channels: int, classes: int, kernel_size: int, middle: int) -> None:
        widths = [channels, *[middle] * ((kernel_size - 1) // 2 - 1), classes]
        super().__init__(*(nn.Conv2d(c, o, 3, padding=1) for c, o in pairwise(widths)))


def make_head(
    kind: str, channels: int, classes: int, kernel_size: int = 15, *, middle: int | None = None, backend: str = "auto"
) -> nn.Module:
    """The head of one stage.

    Args:
        kind: one of :data:`HEADS`.
        channels: C of the stage.
        classes: O, the number of classes.
        kernel_size: odd k; not used by ``"1x1"``.
        middle: maps m of the stack, C if None, as in table 3.
        backend: of the GCN, see :func:`gcn_kernels.fused_gcn`.

    Raises:
        ValueError: an unknown kind, or an even or too small kernel size.

    Example:
        >>> sum(p.numel() for p in make_head("gcn", 2048, 21, 15).parameters() if p.dim() == 4)
        1303470

    Source: Peng et al. 2017, section 4.1.1, tables 1 to 4.
    """
    if kind not in HEADS:
        raise ValueError(f"head: expected one of {', '.join(HEADS)}, got {kind!r}")
    if kernel_size % 2 == 0 or kernel_size < (3 if kind == "stack" else 1):
        raise ValueError(f"kernel_size: expected an odd number{' of at least 3' if kind == 'stack' else ''}, got {kernel_size}")
    if kind == "gcn":
        block = FusedGCN(channels, classes, kernel_size, backend=backend)
        with torch.no_grad():
            for conv in (block.conv_l2, block.conv_r2):
                conv.weight[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] += torch.eye(classes)
        return block
    if kind == "1x1":
        return PointHead(channels, classes)
    if kind == "dense":
        return DenseHead(channels, classes, kernel_size)
    return StackHead(channels, classes, kernel_size, channels if middle is None else middle)
