"""``torch.jit.trace``: what it records computes the same, and it finds nothing in this package to warn of."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import BlockA
from strips_families import StripBlock
from torch import Tensor, nn

import gcn_kernels
from gcn_kernels import FusedGCN, FusedRefine, FusedStrips, FusedUpsample, convert_model
from gcn_kernels.models import GCNNet

PACKAGE = str(Path(gcn_kernels.__file__).parent)


class Doubled(nn.Module):
    """A doubling to an odd size, which is a traced one."""

    def __init__(self) -> None:
        super().__init__()
        self.up = FusedUpsample(6, 4, bias=True)

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return self.up(x, like.shape[-2:])


def converted(model: nn.Module) -> nn.Module:
    report = convert_model(model, force=True)
    assert report.swapped
    return report.model


class Encoder(nn.Module):
    """Four maps, of odd sizes for the image below."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = [4, 4, 4, 4]
        self.steps = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, 4 if i == 0 else 2, 1) for i in range(4))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for step in self.steps:
            x = step(x)
            maps.append(x)
        return maps


MAP = (2, 6, 9, 12)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "gcn": (lambda: FusedGCN(6, 4, 5), (MAP,)),
    "gcn-cpu": (lambda: FusedGCN(6, 4, 5, backend="cpu"), (MAP,)),
    "gcn-torch": (lambda: FusedGCN(6, 4, 5, backend="torch"), (MAP,)),
    "gcn-channels-last": (lambda: FusedGCN(6, 4, 5).to(memory_format=torch.channels_last), (MAP,)),
    "gcn-without-batch": (lambda: FusedGCN(6, 1, 5), (MAP[1:],)),
    "strips": (lambda: FusedStrips(6, [[(1, 7), (7, 1)], [(5, 5)]], stem=(3, 3), skip=True), (MAP,)),
    "strips-torch": (lambda: FusedStrips(6, [[(1, 7), (7, 1)]], backend="torch"), (MAP,)),
    "refine": (lambda: FusedRefine(6), (MAP,)),
    "refine-torch": (lambda: FusedRefine(6, backend="torch"), (MAP,)),
    "upsample": (lambda: FusedUpsample(6, 4), (MAP,)),
    "upsample-to-size": (Doubled, (MAP, (1, 1, 17, 23))),
    "upsample-torch": (lambda: FusedUpsample(6, 4, backend="torch"), (MAP,)),
    "converted-gcn": (lambda: converted(BlockA(6, 4)), (MAP,)),
    "converted-strips": (lambda: converted(StripBlock(6)), (MAP,)),
    "network": (lambda: GCNNet(Encoder(), 4, 5), ((1, 3, 65, 97),)),
}


def traced(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, list[str]]:
    """The trace, and the warnings that name a file of this package."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trace = torch.jit.trace(module, inputs)  # type: ignore[no-untyped-call]
    return trace, [f"{w.filename}:{w.lineno}: {w.message}" for w in caught if w.filename.startswith(PACKAGE)]


@pytest.mark.parametrize("name", CASES)
def test_a_trace_is_right_and_without_warnings(name: str) -> None:
    torch.manual_seed(0)
    make, shapes = CASES[name]
    module = make()
    inputs = tuple(torch.randn(shape) for shape in shapes)
    trace, ours = traced(module, inputs)
    assert ours == []
    others = tuple(torch.randn_like(t) for t in inputs)
    torch.testing.assert_close(trace(*others), module(*others), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (FusedGCN(6, 4, 5), "gcn"),
        (FusedStrips(6, [[(1, 7), (7, 1)]]), "strips"),
        (FusedRefine(6), "refine"),
        (FusedUpsample(6, 4), "doubling"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_trace_holds_the_operator(module: nn.Module, kind: str) -> None:
    trace, _ = traced(module, (torch.randn(MAP),))
    assert f"gcn_kernels::{kind}" in [node.kind() for node in trace.inlined_graph.nodes()]


def test_tracing_goes_on_after_bad_input() -> None:
    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = FusedGCN(6, 4, 5)

        def forward(self, x: Tensor) -> Tensor:
            with pytest.raises(ValueError, match="x has 5 channels, this block takes 6"):
                self.block(x[:, :5])
            return self.block(x) + x[:, :4]

    module, x = Tries(), torch.randn(MAP)
    trace, _ = traced(module, (x,))
    torch.testing.assert_close(trace(2 * x), module(2 * x), rtol=1e-4, atol=1e-5)
