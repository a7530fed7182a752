"""The paper's network with the fused operator against the same network with plain convolutions.

    python benchmarks/bench_network.py                       # ResNet-50, 512 x 512, k = 15, 21 classes
    python benchmarks/bench_network.py --encoder resnet152 --size 800 --kernel 25 --classes 19

"heads" are the four global convolutions on res-2 ... res-5 alone; "decoder" is everything after the encoder. Values are compared
before anything is timed. Losing rows are printed like the others.
"""

import argparse
import platform
from collections.abc import Callable
from functools import partial

import torch
from segmentation.build import build_encoder
from segmentation.timing import compare
from torch import Tensor, nn

import gcn_kernels
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--kernel", type=int, default=15)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    encoder = build_encoder(options.encoder).eval().to(device)
    nets = {name: GCNNet(encoder, options.classes, options.kernel, backend=name).eval().to(device) for name in ("torch", "auto")}
    nets["auto"].load_state_dict(nets["torch"].state_dict())
    x = torch.randn(options.batch, 3, options.size, options.size, device=device)
    with torch.no_grad():
        maps = [m.clone() for m in encoder(x)]
        expected, found = (nets[name](x) for name in ("torch", "auto"))
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    print(f"gcn_kernels {gcn_kernels.__version__}, torch {torch.__version__}, {platform.processor() or platform.machine()}")
    print(f"{device.type}, {torch.get_num_threads()} threads, largest relative difference of the scores {error:.1e}")
    if not error < 1e-4:
        raise SystemExit("the two networks do not agree: nothing is timed")
    leaves = [m.requires_grad_() for m in maps]
    decoders = {
        name: GCNNet(Kept(leaves, [m.shape[1] for m in maps]), options.classes, options.kernel, backend=name) for name in nets
    }
    for decoder in decoders.values():
        decoder.to(device)

    def heads(net: GCNNet) -> Tensor:
        return torch.stack([head(m).sum() for head, m in zip(net.heads, leaves, strict=True)]).sum()

    parts: dict[str, Callable[[str], Tensor]] = {
        "heads": lambda name: heads(decoders[name]),
        "decoder": lambda name: decoders[name](x).sum(),
        "network": lambda name: nets[name](x).sum(),
    }
    for part, run in parts.items():
        for training in (False, True):

            def job(name: str, run: Callable[[str], Tensor] = run, training: bool = training) -> None:
                with torch.set_grad_enabled(training):
                    y = run(name)
                    if training:
                        torch.autograd.backward(y)

            costs = compare({"plain": partial(job, "torch"), "fused": partial(job, "auto")}, options.repeats)
            gain = costs["plain"].milliseconds / costs["fused"].milliseconds
            print(f"{part:8} {'forward + backward' if training else 'forward':18}  {gain:5.2f}x")
            for name, cost in costs.items():
                print(f"    {name}  {cost}")


if __name__ == "__main__":
    main()
