"""On a GPU: every call runs on the current stream and device, waits for nothing, and can be captured in a CUDA graph."""

import pytest
import torch
from cases import SMALL, Block, Case, make

from gcn_kernels import backends, fused_gcn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        (reason := backends.why_not("cuda", "cuda")) is not None, reason=f"the CUDA kernels do not run here: {reason}"
    ),
]


def block_on(device: str) -> Block:
    return make(SMALL, torch.bfloat16).to(device).leaves()


def step(block: Block) -> tuple[torch.Tensor, ...]:
    """The result and every gradient."""
    y = fused_gcn(*block.arguments, backend="cuda")
    return y.detach(), *torch.autograd.grad(y, tuple(block.named.values()), block.dy)


def assert_equal(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_captured_in_a_graph_and_replayed_on_other_data() -> None:
    block = block_on("cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(block)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(block)
    with torch.no_grad():
        block.x.copy_(torch.randn_like(block.x))
    graph.replay()
    assert_equal(captured, step(block))


def test_runs_on_the_current_stream() -> None:
    """Work that is queued before on the same stream is seen; nothing is launched on another one."""
    block = block_on("cuda")
    expected = step(block)
    late = block.map(torch.zeros_like).leaves()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        torch.cuda._sleep(50_000_000)
        for to, value in zip((*late.named.values(), late.dy), (*block.named.values(), block.dy), strict=True):
            to.copy_(value)
        with torch.enable_grad():
            found = step(late)
    stream.synchronize()
    assert_equal(found, expected)


def test_never_waits_for_the_gpu() -> None:
    block = block_on("cuda")
    step(block)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(block)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_two_graphs_that_run_at_a_time_count_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward pass in two launches whose blocks count which of them is the last: each graph has counters of its own."""
    case = Case("single", n=1, c=1024, h=32, w=32, mid_l=21, mid_r=21, out=21, k=(15, 15, 15, 15))
    blocks = [make(case, torch.bfloat16).to("cuda").map(in_channels_last) for _ in range(2)]
    blocks[1].x.neg_()
    with torch.inference_mode():
        expected = [fused_gcn(*block.arguments, backend="cuda") for block in blocks]
        monkeypatch.setenv("GCN_KERNELS_PLAN", "unpacked_weights=1,first_stage_splits=4")
        alone = [fused_gcn(*block.arguments, backend="cuda") for block in blocks]
        captured, graphs, streams = [], [], [torch.cuda.Stream() for _ in blocks]
        torch.cuda.synchronize()
        for block, stream in zip(blocks, streams, strict=True):
            graphs.append(torch.cuda.CUDAGraph())
            with torch.cuda.graph(graphs[-1], stream=stream):
                for _ in range(8):
                    y = fused_gcn(*block.arguments, backend="cuda")
            captured.append(y)
    for _ in range(20):
        for graph, stream in zip(graphs, streams, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
    torch.cuda.synchronize()
    assert_equal(tuple(captured), tuple(alone))
    for ours, theirs in zip(alone, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05 * float(theirs.abs().max()))


def in_channels_last(t: torch.Tensor) -> torch.Tensor:
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_runs_where_the_tensors_are() -> None:
    expected = step(block_on("cuda:0"))
    found = step(block_on("cuda:1"))
    assert torch.cuda.current_device() == 0
    assert all(t.device.index == 1 for t in found)
    assert_equal(tuple(t.to("cuda:0") for t in found), expected)
