"""``torch.compile`` traces the operator without a graph break, forward and backward, and follows changing sizes."""

import copy

import pytest
import torch
from cases import SMALL, make
from implementations import Implementation, every_backend
from rule import check, evaluate, expect_case
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from gcn_kernels import FusedGCN, fused_gcn

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def training_step(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The result and all gradients of one step."""
    x = x.detach().requires_grad_()
    model.zero_grad()
    y = model(x)
    y.sin().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters())]


@every_backend
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_graph_forward_and_backward(dtype: torch.dtype, layout: str, run: Implementation) -> None:
    block = make(SMALL, dtype).in_layout(layout).to(run.device)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda *arguments: run(*arguments), fullgraph=True, backend=counter)
    check(evaluate(compiled, block), expect_case(SMALL, dtype))
    assert counter.frame_count == 1
    targets = [str(node.target) for graph in counter.graphs for node in graph.graph.nodes]
    uses_the_operator = any(
        operator in target for operator in ("gcn_kernels.gcn", "gcn_kernels.triton_gcn") for target in targets
    )
    assert uses_the_operator == (run.backend != "torch")


def test_inductor_trains_a_network_around_the_block() -> None:
    # In float64: gradients of the biases in front of the BatchNorm are nothing but rounding, which differs between CPUs.
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), FusedGCN(8, 4, 7), nn.BatchNorm2d(4)).double()
    x = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    eager = training_step(copy.deepcopy(network), x)
    compiled = training_step(torch.compile(copy.deepcopy(network), fullgraph=True), x)
    for ours, theirs in zip(compiled, eager, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
def test_changing_batch_and_size_compile_once(layout: torch.memory_format) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    model = FusedGCN(6, 3, (5, 7))
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for n, h, w in [(2, 9, 8), (3, 9, 8), (5, 17, 4), (4, 6, 31), (2, 40, 40)]:
        x = torch.randn(n, 6, h, w).contiguous(memory_format=layout)
        for ours, theirs in zip(training_step(compiled, x), training_step(model, x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert counter.frame_count == 1


def test_automatic_dynamic_shapes_recompile_at_most_once() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    model = FusedGCN(6, 3, 5).requires_grad_(False)
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for n, h, w in [(2, 9, 8), (3, 12, 10), (5, 17, 4), (4, 6, 31)]:
        x = torch.randn(n, 6, h, w)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)
    assert counter.frame_count <= 2


def test_compiled_result_has_the_strides_of_the_eager_one() -> None:
    compiled = torch.compile(fused_gcn, fullgraph=True, backend="aot_eager")
    for layout in ("nchw", "channels_last"):
        block = make(SMALL).in_layout(layout)
        assert compiled(*block.arguments).stride() == fused_gcn(*block.arguments).stride()


def test_autocast_around_a_compiled_block() -> None:
    model = FusedGCN(6, 3, 5)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 6, 9, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = compiled(x), model(x)
    assert ours.dtype == torch.bfloat16 and torch.equal(ours, theirs)


@pytest.mark.parametrize("wrong", ["even k", "channels"])
def test_errors_keep_their_text_under_compile(wrong: str) -> None:
    block = make(SMALL)
    x = block.x[:, 1:] if wrong == "channels" else block.x
    weights = (block.weights[0][:, :, 1:], *block.weights[1:]) if wrong == "even k" else block.weights
    compiled = torch.compile(fused_gcn, backend="aot_eager")
    with pytest.raises(ValueError, match="odd k" if wrong == "even k" else "input channels"):
        compiled(x, *weights)
