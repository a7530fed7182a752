"""The segmentation network of the paper (Peng et al. 2017, figure 2 A).

::

    res-5 -- GCN -- BR ------------------------------------------- deconv
    res-4 -- GCN -- BR -- + -- BR -- deconv
    res-3 -- GCN -- BR ------------- + -- BR -- deconv
    res-2 -- GCN -- BR ------------------------ + -- BR -- deconv -- BR -- deconv -- BR -- scores

Everything right of the encoder has as many channels as there are classes: 4 GCN, 9 boundary refinements, 5 deconvolutions.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gcn_kernels.core.children import hooks_on_all
from gcn_kernels.models.heads import make_head
from gcn_kernels.refine.module import FusedRefine
from gcn_kernels.upsample.module import FusedUpsample

#: What the four stages divide the size of the image by.
REDUCTIONS = (4, 8, 16, 32)


class BoundaryRefinement(FusedRefine):
    """S + conv3x3(relu(conv3x3(S))), [N, O, H, W] -> [N, O, H, W] (figure 2 C): adds a learnt correction.

    Example:
        >>> BoundaryRefinement(21)(torch.zeros(1, 21, 8, 8)).shape
        torch.Size([1, 21, 8, 8])
    """

    def __init__(self, classes: int, *, backend: str = "auto") -> None:
        super().__init__(classes, backend=backend)


class Deconvolution(FusedUpsample):
    """Doubles a score map; starts as bilinear interpolation of every class by itself (the paper does not say)."""

    def __init__(self, classes: int, *, backend: str = "auto") -> None:
        super().__init__(classes, classes, backend=backend)
        slope = torch.tensor([0.25, 0.75, 0.75, 0.25])
        with torch.no_grad():
            self.weight.copy_(torch.eye(classes)[:, :, None, None] * slope[:, None] * slope)


class GCNNet(nn.Module):
    """An encoder, a head on each of its four stages, and the decoder of figure 2 A.

    Args:
        encoder: gives four maps at 1/4 ... 1/32 of the input. Either has ``channels`` (:func:`gcn_kernels.models.resnet`), or
            is an encoder of timm made with ``features_only=True``; of its maps those at 1/4 ... 1/32 are taken.
        classes: number of classes; 21 on VOC, 19 on Cityscapes.
        kernel_size: odd k for all stages, or one for each of res-2 ... res-5.
        head: ``"gcn"``, or what it is compared with, see :func:`gcn_kernels.models.make_head`.
        refine: whether to use boundary refinement; without, the nine places are the identity.
        middle: maps of the ``"stack"`` head.
        backend: of the GCN, see :func:`gcn_kernels.fused_gcn`, and of the refinements and deconvolutions.

    Shape:
        [N, 3, H, W] -> [N, classes, H, W], any H and W of at least 1.

    Raises:
        ValueError: not four kernel sizes; an encoder without the four maps; an unknown head or backend.

    Example:
        >>> net = GCNNet(resnet(18), classes=21, kernel_size=15)
        >>> net(torch.zeros(1, 3, 90, 121)).shape
        torch.Size([1, 21, 90, 121])

    Source: Peng et al. 2017, section 3 and figure 2.
    """

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        kernel_size: int | Sequence[int] = 15,
        *,
        head: str = "gcn",
        refine: bool = True,
        middle: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.stages, channels = _stages(encoder)
        sizes = (kernel_size,) * 4 if isinstance(kernel_size, int) else tuple(kernel_size)
        if len(sizes) != 4:
            raise ValueError(f"kernel_size: expected one odd k, or one for each of res-2 ... res-5, got {kernel_size!r}")
        self.heads = nn.ModuleList(
            make_head(head, c, classes, k, middle=middle, backend=backend) for c, k in zip(channels, sizes, strict=True)
        )

        def refinements(count: int) -> nn.ModuleList:
            return nn.ModuleList(BoundaryRefinement(classes, backend=backend) if refine else nn.Identity() for _ in range(count))

        self.refine_stage = refinements(4)
        self.refine_sum = refinements(3)
        self.refine_final = refinements(2)
        self.deconvolutions = nn.ModuleList(Deconvolution(classes, backend=backend) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        """Scores at the size of the input."""
        maps = self.encoder(x)
        scores = [refine(head(maps[i])) for i, head, refine in zip(self.stages, self.heads, self.refine_stage, strict=True)]
        score: Tensor = scores.pop()
        for i, lateral in enumerate(reversed(scores)):
            score = self.refine_sum[i](_added(lateral, self.deconvolutions[i], score))
        height, width = x.shape[2:]
        for i, size in enumerate((((height + 1) // 2, (width + 1) // 2), (height, width))):
            score = self.refine_final[i](self.deconvolutions[3 + i](score, size))
        return score


def _added(lateral: Tensor, double: nn.Module, score: Tensor) -> Tensor:
    """``lateral`` plus the doubled ``score``: one pass, unless something works on the result of ``double``, or in its place."""
    hooks = double._forward_hooks, double._forward_pre_hooks, double._backward_hooks, double._backward_pre_hooks
    if type(double).forward is not FusedUpsample.forward or any(hooks) or hooks_on_all() is not None:
        total: Tensor = lateral + double(score, lateral.shape[2:])
    else:
        total = double(score, add=lateral)
    return total


def _stages(encoder: nn.Module) -> tuple[list[int], list[int]]:
    """Which of the encoder's maps are at 1/4 ... 1/32, and their channels."""
    described: Any = encoder
    if hasattr(encoder, "feature_info"):
        channels, reductions = list(described.feature_info.channels()), list(described.feature_info.reduction())
    elif hasattr(encoder, "channels"):
        channels, reductions = list(described.channels), list(REDUCTIONS)
    else:
        raise ValueError(
            f"encoder: expected an attribute channels (gcn_kernels.models.resnet) or feature_info (timm, features_only=True), "
            f"got {type(encoder).__name__}"
        )
    if len(channels) != len(reductions) or not set(REDUCTIONS) <= set(reductions):
        raise ValueError(f"encoder: expected maps at 1/4, 1/8, 1/16 and 1/32, got reductions {reductions}")
    indices = [reductions.index(r) for r in REDUCTIONS]
    return indices, [channels[i] for i in indices]
