"""The paper's network with the fused operator against the same network with plain convolutions.

    python benchmarks/bench_network.py                       # ResNet-50, 512 x 512, k = 15, 21 classes
    python benchmarks/bench_network.py --encoder resnet152 --size 800 --kernel 25 --classes 19 --json network.json

"heads" are the four global convolutions on res-2 ... res-5 alone; "decoder" is everything after the encoder. Values are compared
before anything is timed. Losing rows are printed like the others. Times are medians of calls in turns, with the 20th and 80th
percentile; the table is Markdown, as in docs/network.md.
"""

from collections.abc import Callable
from functools import partial

# Before PyTorch, whose profiler it keeps quiet.
import gcnbench  # noqa: F401
import torch
from segmentation import comparison
from segmentation.build import build_encoder
from segmentation.process import Parser
from segmentation.recipe import ENCODER
from segmentation.settings import ODD, at_least, number
from torch import Tensor, nn

from gcn_kernels.models import GCNNet


class Kept(nn.Module):
    """Stands in for an encoder: returns the maps that it was given."""

    def __init__(self, maps: list[Tensor], channels: list[int]) -> None:
        super().__init__()
        self.maps, self.channels = maps, channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps, whatever ``x``."""
        return self.maps


def main(arguments: list[str] | None = None) -> None:
    """Print one row for each part of the network, forward and with its backward pass."""
    parser, count = Parser(__doc__ or ""), number(int, at_least(1))
    parser.add_argument("--encoder", default="resnet50", metavar="NAME", help=f"{ENCODER.expected} (default: resnet50)")
    parser.add_argument("--size", type=count, default=512, metavar="N", help="height and width of the image (default: 512)")
    parser.add_argument("--kernel", type=number(int, ODD), default=15, metavar="K", help="odd k of the heads (default: 15)")
    parser.add_argument("--classes", type=count, default=21, metavar="N", help="default: 21")
    parser.add_argument("--batch", type=count, default=1, metavar="N", help="images (default: 1)")
    comparison.add_arguments(parser)
    options = parser.parse_args(arguments)
    comparison.check(parser, options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    try:
        encoder = build_encoder(options.encoder).eval().to(device)
    except (ImportError, ValueError) as error:
        parser.error(str(error))
    nets = [GCNNet(encoder, options.classes, options.kernel, backend=name).eval().to(device) for name in ("torch", "auto")]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(options.batch, 3, options.size, options.size, device=device)
    with torch.no_grad():
        maps = [m.clone() for m in encoder(x)]
        expected, found = (net(x) for net in nets)
    error_of_scores = ((found - expected).abs().max() / expected.abs().max()).item()
    print(f"largest relative difference of the scores: {error_of_scores:.1e}")
    if not error_of_scores < 1e-4:
        raise SystemExit("the two networks do not agree: nothing is timed")
    leaves = [m.requires_grad_() for m in maps]
    kept = Kept(leaves, [m.shape[1] for m in maps])
    decoders = [GCNNet(kept, options.classes, options.kernel, backend=name).to(device) for name in ("torch", "auto")]

    def heads(net: GCNNet) -> Tensor:
        return torch.stack([head(m).sum() for head, m in zip(net.heads, leaves, strict=True)]).sum()

    parts: dict[str, Callable[[int], Tensor]] = {
        "heads": lambda i: heads(decoders[i]),
        "decoder": lambda i: decoders[i](x).sum(),
        "network": lambda i: nets[i](x).sum(),
    }

    def job(run: Callable[[int], Tensor], i: int, training: bool) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(training):
            y = run(i)
            if training:
                torch.autograd.backward(y)
        return (y.detach(),)

    with comparison.Comparison(options, arguments, device, ("plain", "fused"), 2 * len(parts)) as table:
        for part, run in parts.items():
            for training in (False, True):
                mode = "forward + backward" if training else "forward"
                table.add(part, mode, [partial(job, run, i, training) for i in range(2)])


if __name__ == "__main__":
    main()
