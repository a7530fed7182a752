"""The swap on a network as public code writes it: outputs before and after, time, memory.

    python benchmarks/swap_example.py

The network is defined here in the usual form: a ResNet, a class for the block with conv_l1 ... conv_r2, refinement by two 3 x 3
convolutions, bilinear upsampling. Nothing in it knows of gcn_kernels; one line makes its blocks run fused.
"""

import argparse
from functools import partial

import torch
import torch.nn.functional as F
from segmentation.timing import compare
from torch import Tensor, nn

from gcn_kernels import convert_gcn, revert_gcn
from gcn_kernels.models import resnet


class GlobalConv(nn.Module):
    """The block by hand."""

    def __init__(self, in_dim: int, out_dim: int, k: int) -> None:
        super().__init__()
        self.conv_l1 = nn.Conv2d(in_dim, out_dim, (k, 1), padding=(k // 2, 0))
        self.conv_l2 = nn.Conv2d(out_dim, out_dim, (1, k), padding=(0, k // 2))
        self.conv_r1 = nn.Conv2d(in_dim, out_dim, (1, k), padding=(0, k // 2))
        self.conv_r2 = nn.Conv2d(out_dim, out_dim, (k, 1), padding=(k // 2, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Both branches and their sum."""
        left = self.conv_l2(self.conv_l1(x))
        right = self.conv_r2(self.conv_r1(x))
        total: Tensor = left + right
        return total


class Segmenter(nn.Module):
    """Scores from four stages, added from coarse to fine."""

    def __init__(self, classes: int = 21, k: int = 7, depth: int = 50) -> None:
        super().__init__()
        self.backbone = resnet(depth)
        self.gcns = nn.ModuleList(GlobalConv(c, classes, k) for c in self.backbone.channels)
        self.refine = nn.ModuleList(
            nn.Sequential(nn.Conv2d(classes, classes, 3, padding=1), nn.ReLU(), nn.Conv2d(classes, classes, 3, padding=1))
            for _ in self.gcns
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, classes, H, W]."""
        total = x.new_zeros(())
        for gcn, refine, features in reversed(list(zip(self.gcns, self.refine, self.backbone(x), strict=True))):
            score = gcn(features)
            score = score + refine(score)
            if total.dim():
                score = score + F.interpolate(total, size=score.shape[2:], mode="bilinear", align_corners=False)
            total = score
        return F.interpolate(total, size=x.shape[2:], mode="bilinear", align_corners=False)


def main(arguments: list[str] | None = None) -> float:
    """Convert, compare, time; return the largest relative difference of the outputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--kernel", type=int, default=15)
    parser.add_argument("--depth", type=int, default=50, help="of the ResNet")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = Segmenter(k=options.kernel, depth=options.depth).eval()
    x = torch.randn(1, 3, options.size, options.size)
    with torch.no_grad():
        before = model(x)
    report = convert_gcn(model, inplace=False)
    print(report)
    fused = report.model
    with torch.no_grad():
        after = fused(x)
    error: float = ((after - before).abs().max() / before.abs().max()).item()
    print(f"largest relative difference of the scores: {error:.1e}")

    def forward(net: nn.Module) -> None:
        with torch.no_grad():
            net(x)

    def training(net: nn.Module) -> None:
        net.zero_grad()
        torch.autograd.backward(net(x).sum())

    for title, job in (("forward", forward), ("forward + backward", training)):
        costs = compare({"before": partial(job, model), "after": partial(job, fused)}, options.repeats)
        for name, cost in costs.items():
            print(f"{title:18} {name:6} {cost}")
    print(f"reverted: {', '.join(revert_gcn(fused))}")
    return error


if __name__ == "__main__":
    main()
