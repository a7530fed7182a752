"""The swap on a network as public code writes it: outputs before and after, time, memory.

    python benchmarks/swap_example.py

The network is defined here in the usual form: a ResNet, a class for the block with conv_l1 ... conv_r2, refinement by two 3 x 3
convolutions, bilinear upsampling. Nothing in it knows of gcn_kernels; one line makes its blocks run fused. Times are medians of
calls in turns, with the 20th and 80th percentile.
"""

from functools import partial

# Before PyTorch, whose profiler it keeps quiet.
import gcnbench  # noqa: F401
import torch
import torch.nn.functional as F
from segmentation import comparison
from segmentation.process import Parser
from segmentation.settings import ODD, at_least, number
from torch import Tensor, nn

from gcn_kernels import convert_gcn, revert_gcn
from gcn_kernels.models import resnet
from gcn_kernels.models.resnet import DEPTHS


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
    parser = Parser(__doc__ or "")
    parser.add_argument(
        "--size", type=number(int, at_least(1)), default=512, metavar="N", help="height and width of the image (default: 512)"
    )
    parser.add_argument("--kernel", type=number(int, ODD), default=15, metavar="K", help="odd k of the blocks (default: 15)")
    parser.add_argument("--depth", type=int, default=50, choices=DEPTHS, help="of the ResNet (default: 50)")
    comparison.add_arguments(parser)
    options = parser.parse_args(arguments)
    comparison.check(parser, options)
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
    if not error < 1e-4:
        raise SystemExit("the two networks do not agree: nothing is timed")

    def forward(net: nn.Module) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (net(x),)

    def training(net: nn.Module) -> tuple[Tensor, ...]:
        y = net(x).sum()
        torch.autograd.backward(y)
        # What the call has allocated is freed in it: the profiler that weighs calls warns of anything older.
        net.zero_grad()
        return (y.detach(),)

    with comparison.Comparison(options, arguments, x.device, ("before", "after"), 2) as table:
        for mode, job in (("forward", forward), ("forward + backward", training)):
            table.add("network", mode, [partial(job, net) for net in (model, fused)])
    print(f"reverted: {', '.join(revert_gcn(fused))}")
    return error


if __name__ == "__main__":
    main()
