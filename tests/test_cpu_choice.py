"""PyTorch's own convolutions as a choice of ``algo="auto"`` on a CPU: when they are taken, and that nothing else changes."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from cases import BIASES, LAYOUTS, Case, make, square
from rule import evaluate
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gcn_kernels import FusedGCN, fused_gcn, reference
from gcn_kernels.core import backends
from gcn_kernels.gcn import choice

pytestmark = pytest.mark.skipif(
    backends.why_not("cpu", "cpu") is not None, reason=f"backend cpu does not run: {backends.why_not('cpu', 'cpu')}"
)

#: A block with short kernels and many middle channels, which PyTorch's convolutions win in every layout and mode.
WIDE = Case("wide", n=1, c=16, h=24, w=20, mid_l=256, mid_r=256, out=32, k=square(3))
#: One of the paper's, which they lose.
PAPER = Case("paper", n=1, c=256, h=32, w=32, mid_l=21, mid_r=21, out=21, k=square(15))


class Called(TorchDispatchMode):
    """Counts calls of the operator and of plain convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = self.convolutions = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators += func is torch.ops.gcn_kernels.gcn.default
        self.convolutions += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


def calls(arguments: Sequence[Tensor | None], **options: Any) -> tuple[int, int]:
    with Called() as called:
        fused_gcn(*arguments, **options)  # type: ignore[arg-type]
    return called.operators, called.convolutions


@pytest.mark.parametrize(
    ("block", "size", "batch", "channels_last", "forward", "backward"),
    [
        (FusedGCN(256, 21, 15), (128, 128), 1, False, "fft", "fft"),
        (FusedGCN(512, 21, 15), (64, 64), 1, True, "fft", "fft"),
        (FusedGCN(2048, 21, 15), (16, 16), 8, True, "fft", "fft"),
        (FusedGCN(256, 21, 15, dtype=torch.bfloat16), (128, 128), 1, True, "fft", "fft"),
        (FusedGCN(256, 21, 15, dtype=torch.float64), (128, 128), 1, False, "direct", "direct"),
        (FusedGCN(9, 3, 3, mid_channels=233), (121, 121), 4, True, "torch", "torch"),
        (FusedGCN(256, 47, 7, mid_channels=379, dtype=torch.bfloat16), (10, 14), 1, True, "torch", "torch"),
        (FusedGCN(12, 4, 3, mid_channels=393, dtype=torch.bfloat16), (18, 18), 8, True, "torch", "torch"),
    ],
    ids=["res2", "res3", "res5", "res2-bfloat16", "float64", "wide-k3", "wide-bfloat16", "few-channels-bfloat16"],
)
def test_the_plan_of_named_problems(
    block: FusedGCN, size: tuple[int, int], batch: int, channels_last: bool, forward: str, backward: str
) -> None:
    plan = block.plan(size, batch, channels_last=channels_last)
    assert (plan["forward"]["algo"], plan["backward"]["algo"]) == (forward, backward)
    assert all(part["torch_ms"] > 0 for part in plan.values())
    w = [conv.weight for conv in (block.conv_l1, block.conv_l2, block.conv_r1, block.conv_r2)]
    x = torch.empty(batch, block.conv_l1.in_channels, *size, dtype=w[0].dtype)
    x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert [choice.prefers_torch(x, w, training) for training in (False, True)] == [forward == "torch", backward == "torch"]


def test_the_plan_of_an_explicit_backend_is_among_its_own_methods() -> None:
    plan = FusedGCN(9, 3, 3, mid_channels=233, backend="cpu").plan((121, 121), 4, channels_last=True)
    assert {plan[part]["algo"] for part in plan} <= {"direct", "fft"}
    assert "torch_ms" not in plan["forward"]


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_auto_takes_pytorchs_convolutions_and_their_results(layout: str, training: bool) -> None:
    block = make(WIDE, torch.float32).in_layout(layout)
    with torch.set_grad_enabled(training):
        arguments = [t if t is None else t.detach().requires_grad_(training) for t in block.arguments]
        assert calls(arguments) == (0, 4)
        ours, plain = fused_gcn(*arguments), reference.gcn(*arguments)
    assert torch.equal(ours, plain)
    assert ours.stride() == plain.stride()
    if training:
        leaves = [t for t in arguments if t is not None]
        for a, b in zip(*(torch.autograd.grad(y, leaves, block.dy) for y in (ours, plain)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frozen", [("x",), ("w_l1", "w_l2", "w_r1", "w_r2"), BIASES], ids=lambda names: names[0])
def test_gradients_of_some_arguments_only(frozen: tuple[str, ...]) -> None:
    block = make(WIDE, torch.float32)
    names = ("x", "w_l1", "w_l2", "w_r1", "w_r2", *BIASES)
    arguments = [t.detach().requires_grad_(name not in frozen) for name, t in zip(names, block.arguments, strict=True)]
    fused_gcn(*arguments).backward(block.dy)
    expected = evaluate(reference.gcn, block)
    for name, t in zip(names, arguments, strict=True):
        assert (t.grad is None) == (name in frozen)
        if t.grad is not None:
            torch.testing.assert_close(t.grad, expected[name], rtol=1e-4, atol=1e-4)


def test_what_is_remembered_of_inference_is_not_taken_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same shapes, first without a gradient and then with one, and the other way round."""
    monkeypatch.setattr(choice, "_remembered", {})
    monkeypatch.setattr(choice, "prefers_torch", lambda x, weights, training: not training)
    block = make(WIDE, torch.float32)
    leaves = [t if t is None else t.detach().requires_grad_() for t in block.arguments]
    for _ in range(2):
        assert calls(block.arguments) == (0, 4)
        assert calls(leaves) == (1, 0)


def test_one_image_without_a_batch() -> None:
    x, *rest = make(WIDE, torch.float32).arguments
    with torch.no_grad():
        assert calls([x[0], *rest]) == (0, 4)
        assert torch.equal(fused_gcn(x[0], *rest), reference.gcn(x[0], *rest))


@pytest.mark.parametrize(
    "options", [{"algo": "direct"}, {"algo": "fft"}, {"backend": "cpu"}, {"backend": "cpu", "algo": "direct"}], ids=str
)
def test_an_explicit_request_is_never_answered_by_pytorch(options: dict[str, str]) -> None:
    with torch.no_grad():
        assert calls(make(WIDE, torch.float32).arguments, **options) == (1, 0)


def test_the_operator_runs_where_it_is_faster() -> None:
    with torch.no_grad():
        assert calls(make(PAPER, torch.float32).arguments) == (1, 0)


def test_graphs_hold_the_operator() -> None:
    arguments = make(WIDE, torch.float32).arguments
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(graph)
        return graph

    with torch.no_grad():
        torch.compile(lambda *a: fused_gcn(*a), backend=keep, fullgraph=True)(*arguments)
        traced = torch.jit.trace(lambda x: fused_gcn(x, *arguments[1:]), arguments[0], check_trace=False)  # type: ignore[no-untyped-call]
    (graph,) = graphs
    assert any("gcn_kernels.gcn" in str(node.target) for node in graph.graph.nodes)
    assert "gcn_kernels::gcn" in str(traced.graph)


def test_training_never_takes_a_backward_pass_that_may_end_the_process() -> None:
    """oneDNN's weight gradient of k x 1 corrupts the heap where the kernel reaches beyond the map."""
    source = random.Random(0)
    taken = 0
    for _ in range(500):
        n, c, w, m, o = (source.choice(sizes) for sizes in ((1, 4), (8, 512), (8, 64), (1, 103, 512), (2, 64)))
        h, k = source.choice((8, 10, 16, 31)), source.choice((3, 11, 33, 45, 63))
        shapes = ((n, c, h, w), (m, c, k, 1), (o, m, 1, k), (m, c, 1, k), (o, m, k, 1))
        dtype = source.choice((torch.float32, torch.bfloat16))
        x, *weights = (torch.empty(shape, dtype=dtype) for shape in shapes)
        prefers = choice.prefers_torch(x, weights, training=True)
        assert not (prefers and k > h)
        taken += prefers
    assert taken > 0


def test_remembered_plans_are_those_of_their_own_problem() -> None:
    """The table holds 64 plans: with more problems than that, and asked in another order, every answer stays the same."""
    problems = [[1, c, s, s, 5, 5, 7, k, k, k, k] for c in (8, 64, 512) for s in range(8, 40, 2) for k in (3, 9, 15)]
    plan = torch.ops.gcn_kernels.cpu_plan
    first = [plan(p, float64, True) for p in problems for float64 in (False, True)]
    assert len(set(first)) == len(first) > 128
    again = [plan(p, float64, True) for p in reversed(problems) for float64 in (True, False)]
    assert again[::-1] == first
