"""The Triton operators in traced graphs, forward and backward: what can be seen without a GPU, which is all but running them."""

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import SMALL, make
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.fx import GraphModule

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels cannot be traced", allow_module_level=True)

from triton.backends.compiler import GPUTarget

from gcn_kernels import FusedGCN, FusedRefine, FusedStrips, FusedUpsample, backends
from gcn_kernels.gcn.spec import TRITON_GCN
from gcn_kernels.triton import device, ops

pytestmark = pytest.mark.usefixtures("fresh_compiler")


@pytest.fixture(autouse=True)
def _pretend_that_it_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    why_not = backends.why_not
    monkeypatch.setattr(backends, "why_not", lambda backend, *rest: None if backend == "triton" else why_not(backend, *rest))
    # Asked for by PyTorch, which compiles a kernel's first half to see what it writes.
    driver = SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32), get_current_device=lambda: 0)
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)


class Graphs:
    """A compiler that keeps the graphs it is given, and whose code gives ones of the right sizes and strides."""

    def __init__(self) -> None:
        self.seen: list[GraphModule] = []

    def __call__(self, graph: GraphModule, inputs: Sequence[Any]) -> Any:
        self.seen.append(graph)
        output = next(node for node in graph.graph.nodes if node.op == "output")
        values = [None if node is None else node.meta["val"] for node in output.args[0]]

        def pretend(*_: Any) -> list[Any]:
            return [
                torch.ones(()).expand(0) if v is None else v if not isinstance(v, torch.Tensor)
                else torch.empty_strided([int(s) for s in v.shape], [int(s) for s in v.stride()], dtype=v.dtype).fill_(1)
                for v in values
            ]  # fmt: skip

        return make_boxed_func(pretend)

    def kernels(self, index: int) -> list[str]:
        """Names of the kernels that a graph launches."""
        from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

        launches = [node for node in self.seen[index].graph.nodes if "triton_kernel_wrapper" in str(node.target)]
        return [kernel_side_table.get_kernel(node.kwargs["kernel_idx"]).fn.__name__ for node in launches]


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_one_graph_of_kernels_forward_and_backward(layout: str) -> None:
    graphs = Graphs()
    backend = aot_autograd(fw_compiler=graphs)
    block = make(SMALL).in_layout(layout).leaves()
    compiled = torch.compile(
        lambda *tensors: TRITON_GCN(tensors, (layout == "channels_last", False)), fullgraph=True, backend=backend
    )
    y = compiled(*block.arguments)
    assert y.shape == block.dy.shape
    assert graphs.kernels(0) == ["pack", "fork", "pack", "join"]
    y.sum().backward()
    products = ["pack", "fork", "pack", "join", *["weight_gradient", "sum_splits"] * 2]
    assert graphs.kernels(1) == products
    assert all(t.grad is not None and t.grad.shape == t.shape for t in block.named.values())


def test_public_function_compiles_in_one_graph() -> None:
    graphs = Graphs()
    module = FusedGCN(6, 3, 5, backend="triton").requires_grad_(False)
    compiled = torch.compile(module, fullgraph=True, backend=aot_autograd(fw_compiler=graphs))
    assert compiled(torch.randn(2, 6, 9, 8)).shape == (2, 3, 9, 8)
    assert graphs.kernels(0) == ["pack", "fork", "pack", "join"]


def test_changing_sizes_compile_once() -> None:
    graphs = Graphs()
    module = FusedGCN(6, 3, 5, backend="triton").requires_grad_(False)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=aot_autograd(fw_compiler=graphs))
    for n, h, w in [(2, 9, 8), (3, 12, 10), (5, 17, 4)]:
        compiled(torch.randn(n, 6, h, w))
    assert len(graphs.seen) == 1


@pytest.mark.parametrize("strict", [False, True])
def test_exported_program_holds_the_operator(strict: bool) -> None:
    module = FusedGCN(6, 3, 5, backend="triton").requires_grad_(False)
    program = torch.export.export(module, (torch.randn(2, 6, 9, 8),), strict=strict)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("gcn_kernels.triton_gcn.default") == 1


def test_shapes_and_strides_on_meta() -> None:
    block = make(SMALL).to("meta")
    for channels_last in (False, True):
        y, u_l, u_r = torch.ops.gcn_kernels.triton_gcn.default(*block.arguments, channels_last, False)
        assert y.shape == (SMALL.n, SMALL.out, SMALL.h, SMALL.w)
        assert y.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        assert u_l.shape == (SMALL.n, SMALL.h, SMALL.w, 8) and u_r.shape == (SMALL.n, SMALL.h, SMALL.w, 8)


def test_launches_of_one_call() -> None:
    """A launch costs what it costs: a forward pass has four, and none is for a gradient that nobody asked for."""
    block = make(SMALL).to("meta")
    launches: list[str] = []
    original = device.launch
    try:
        device.launch = lambda kernel, *_, **__: launches.append(kernel.fn.__name__)
        _, u_l, u_r = ops.forward(*block.arguments, False, False)
        assert launches == ["pack", "fork", "pack", "join"]
        asked = {0b1: ["pack", "fork", "pack", "join"], 0b100: ["weight_gradient", "sum_splits"], 0b101000000: [], 0: []}
        for wanted, expected in asked.items():
            launches.clear()
            ops.backward(block.dy, block.x, u_l, u_r, *block.weights, block.biases[0], block.biases[2], wanted, False)
            assert launches == expected
    finally:
        device.launch = original


def test_doubling_in_one_graph_each_way() -> None:
    graphs = Graphs()
    compiled = torch.compile(
        FusedUpsample(5, 4, bias=True, backend="triton"), fullgraph=True, backend=aot_autograd(fw_compiler=graphs)
    )
    x = torch.randn(2, 5, 6, 7, requires_grad=True)
    y = compiled(x)
    assert y.shape == (2, 4, 12, 14) and graphs.kernels(0) == ["pack", "double"]
    y.sum().backward()
    assert graphs.kernels(1) == ["pack", "input_gradient", "weight_gradient", "finish"]
    assert x.grad is not None and x.grad.shape == x.shape


def test_a_sum_with_each_channel_doubled_by_itself_in_one_graph_each_way() -> None:
    graphs = Graphs()
    module = FusedUpsample(5, 5, kernel_size=3, groups=5, bias=True, backend="triton")
    compiled = torch.compile(module, fullgraph=True, backend=aot_autograd(fw_compiler=graphs))
    x, lateral = torch.randn(2, 5, 6, 7, requires_grad=True), torch.randn(2, 5, 11, 14, requires_grad=True)
    y = compiled(x, add=lateral)
    assert y.shape == lateral.shape and graphs.kernels(0) == ["double_depthwise"]
    y.sum().backward()
    assert graphs.kernels(1) == ["input_gradient_depthwise", "weight_gradient_depthwise", "finish"]
    assert lateral.grad is not None and x.grad is not None and x.grad.shape == x.shape


@pytest.mark.parametrize("groups", [1, 5])
def test_doubling_of_changing_sizes_compiles_once(groups: int) -> None:
    graphs = Graphs()
    module = FusedUpsample(5, 5, groups=groups, backend="triton").requires_grad_(False)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=aot_autograd(fw_compiler=graphs))
    for n, h, w in [(2, 9, 8), (3, 12, 10), (5, 17, 4)]:
        compiled(torch.randn(n, 5, h, w))
    assert len(graphs.seen) == 1


def test_exported_doubling_holds_the_operator() -> None:
    module = FusedUpsample(5, 4, backend="triton").requires_grad_(False)
    program = torch.export.export(module, (torch.randn(2, 5, 6, 7),))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets == ["gcn_kernels.triton_doubling.default"]


def test_refinement_in_one_graph_each_way() -> None:
    graphs = Graphs()
    module = FusedRefine(5, mid_channels=4, backend="triton")
    compiled = torch.compile(module, fullgraph=True, backend=aot_autograd(fw_compiler=graphs))
    x = torch.randn(2, 5, 6, 7, requires_grad=True)
    y = compiled(x)
    assert y.shape == x.shape and graphs.kernels(0) == ["pack", "pack", "refine"]
    y.sum().backward()
    assert graphs.kernels(1) == ["pack", "pack", "pack", "gradients", "finish", "finish"]
    assert all(t.grad is not None and t.grad.shape == t.shape for t in (x, *module.parameters()))


def test_refinement_of_changing_sizes_compiles_once() -> None:
    graphs = Graphs()
    module = FusedRefine(5, backend="triton").requires_grad_(False)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=aot_autograd(fw_compiler=graphs))
    for n, h, w in [(2, 9, 8), (3, 12, 10), (5, 17, 4)]:
        compiled(torch.randn(n, 5, h, w))
    assert len(graphs.seen) == 1


def strips(**options: Any) -> FusedStrips:
    return FusedStrips(5, [[(1, 3), (3, 1)]], stem=(3, 3), skip=True, backend="triton", **options)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_strips_in_one_graph_each_way(layout: torch.memory_format) -> None:
    graphs = Graphs()
    compiled = torch.compile(strips(), fullgraph=True, backend=aot_autograd(fw_compiler=graphs))
    x = torch.randn(2, 5, 6, 7).contiguous(memory_format=layout).requires_grad_()
    y = compiled(x)
    forward = [name.removesuffix("_rows") for name in graphs.kernels(0)]
    assert y.shape == x.shape and forward == ["convolve"] * 3
    y.sum().backward()
    kernels = [name.removesuffix("_rows") for name in graphs.kernels(1)]
    assert kernels.count("convolve") == 2 + 3 and kernels.count("weight_gradient") == kernels.count("finish") == 3
    assert x.grad is not None and x.grad.stride() == x.stride()


def test_strips_of_changing_sizes_compile_once() -> None:
    graphs = Graphs()
    module = strips().requires_grad_(False)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=aot_autograd(fw_compiler=graphs))
    for n, h, w in [(2, 9, 8), (3, 12, 10), (5, 17, 4)]:
        compiled(torch.randn(n, 5, h, w))
    assert len(graphs.seen) == 1


def test_exported_refinement_holds_the_operator() -> None:
    module = FusedRefine(5, backend="triton").requires_grad_(False)
    program = torch.export.export(module, (torch.randn(2, 5, 6, 7),))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets == ["gcn_kernels.triton_refine.default"]


def test_exported_strips_hold_the_operator() -> None:
    program = torch.export.export(strips().requires_grad_(False), (torch.randn(2, 5, 6, 7),))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets == ["gcn_kernels.triton_strips.default"]
