"""The paper's network with the fused operator against the same network with plain convolutions.

    python benchmarks/bench_network.py                       # ResNet-50, 512 x 512, k = 15, 21 classes
    python benchmarks/bench_network.py --encoder resnet152 --size 800 --kernel 25 --classes 19 --json network.json

"heads" are the four global convolutions on res-2 ... res-5 alone; "decoder" is everything after the encoder, which is the same
plain and fused. Both networks are timed in NCHW and in channels_last, weights and image; with --compile also under
torch.compile, which takes minutes to compile. "faster" is the fastest plain way, which is named, over the fastest fused one;
"peak MB" is that of these two. Values are compared before anything is timed. Losing rows are printed like the others. Times are
medians of calls in turns, with the 20th and 80th percentile; the table is Markdown, as in docs/network.md.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial

# Before PyTorch, whose profiler it keeps quiet.
import gcnbench  # noqa: F401
import torch
from gcnbench.problems import LAYOUTS
from segmentation import comparison
from segmentation.build import build_encoder
from segmentation.process import Parser
from segmentation.recipe import ENCODER
from segmentation.settings import ODD, at_least, number
from torch import Tensor, nn

from gcn_kernels.models import GCNNet

PARTS = ("encoder", "heads", "decoder", "network")


class Kept(nn.Module):
    """Stands in for an encoder: returns the maps that it was given."""

    def __init__(self, maps: list[Tensor], channels: list[int]) -> None:
        super().__init__()
        self.maps, self.channels = maps, channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps, whatever ``x``."""
        return self.maps


def total(tensors: Sequence[Tensor]) -> Tensor:
    """One number that every element goes into."""
    return torch.stack([t.sum() for t in tensors]).sum()


class Way:
    """A network and its image in one layout; its parts as functions without arguments that give one number."""

    def __init__(self, net: GCNNet, x: Tensor) -> None:
        self.net, self.x = net, x
        with torch.no_grad():
            self.maps = [m.clone() for m in net.encoder(x)]
        for m in self.maps:
            m.requires_grad_()
        self.decoder = copy.copy(net)
        # Its modules in a dictionary of its own: the encoder is replaced in this one alone.
        self.decoder._modules = {**net._modules, "encoder": Kept(self.maps, [m.shape[1] for m in self.maps])}
        self._parts: dict[str, Callable[[], Tensor]] = {
            "encoder": lambda: total(self.net.encoder(self.x)),
            "heads": lambda: total([head(m) for head, m in zip(self.net.heads, self.maps, strict=True)]),
            "decoder": lambda: total([self.decoder(self.x)]),
            "network": lambda: total([self.net(self.x)]),
        }

    def run(self, part: str) -> Callable[[], Tensor]:
        """One of ``PARTS``."""
        return self._parts[part]

    def compiled(self) -> "Way":
        """The same under ``torch.compile``."""
        way = copy.copy(self)
        way._parts = {name: torch.compile(run, dynamic=False) for name, run in self._parts.items()}
        return way


def main(arguments: list[str] | None = None) -> None:
    """Print one row for each part of the network, forward and with its backward pass."""
    parser, count = Parser(__doc__ or ""), number(int, at_least(1))
    parser.add_argument("--encoder", default="resnet50", metavar="NAME", help=f"{ENCODER.expected} (default: resnet50)")
    parser.add_argument("--size", type=count, default=512, metavar="N", help="height and width of the image (default: 512)")
    parser.add_argument("--kernel", type=number(int, ODD), default=15, metavar="K", help="odd k of the heads (default: 15)")
    parser.add_argument("--classes", type=count, default=21, metavar="N", help="default: 21")
    parser.add_argument("--batch", type=count, default=1, metavar="N", help="images (default: 1)")
    parser.add_argument("--compile", action="store_true", help="both networks under torch.compile, too (takes minutes)")
    comparison.add_arguments(parser)
    options = parser.parse_args(arguments)
    comparison.check(parser, options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    try:
        encoder = build_encoder(options.encoder).eval().to(device)
    except (ImportError, ValueError) as error:
        parser.error(str(error))
    plain, fused = (GCNNet(encoder, options.classes, options.kernel, backend=b).eval().to(device) for b in ("torch", "auto"))
    fused.load_state_dict(plain.state_dict())
    x = torch.randn(options.batch, 3, options.size, options.size, device=device)
    ways: dict[str, Way] = {}
    for layout, form in LAYOUTS.items():
        # The two go on sharing their encoder.
        nets = copy.deepcopy([plain, fused]) if ways else [plain, fused]
        for kind, net in zip(("plain", "fused"), nets, strict=True):
            ways[f"{kind} {layout}"] = Way(net.to(memory_format=form), x.contiguous(memory_format=form))  # type: ignore[call-overload]
    with torch.no_grad():
        expected = plain(x)
        worst = max(((way.net(way.x) - expected).abs().max() / expected.abs().max()).item() for way in ways.values())
    print(f"largest relative difference of the scores: {worst:.1e}")
    if not worst < 1e-4:
        raise SystemExit("the networks do not agree: nothing is timed")

    everything: dict[str, Way] = {}
    for kind in ("plain", "fused"):
        eager = {name: way for name, way in ways.items() if name.startswith(kind)}
        everything |= eager
        if options.compile:
            everything |= {f"{name} compiled": way.compiled() for name, way in eager.items()}
    plain_ways = len(everything) // 2

    def job(run: Callable[[], Tensor], training: bool) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(training):
            y = run()
            if training:
                torch.autograd.backward(y)
        return (y.detach(),)

    rows = 2 * len(PARTS)
    with comparison.Comparison(options, arguments, device, tuple(everything), rows, plain_ways) as table:
        for part in PARTS:
            for training in (False, True):
                runs = [None if part == "encoder" and n >= plain_ways else w.run(part) for n, w in enumerate(everything.values())]
                mode = "forward + backward" if training else "forward"
                table.add(part, mode, [None if run is None else partial(job, run, training) for run in runs])


if __name__ == "__main__":
    main()
