"""The swap under torch.compile, torch.jit, torch.fx, DistributedDataParallel, and on the worked example."""

import subprocess
import sys

import pytest
import torch
import torch._dynamo.testing
from families import BLOCKS, BlockA, InlineNet, PublicStyleNet, randomise
from torch import nn

from gcn_kernels import convert_gcn, revert_gcn


@pytest.mark.parametrize("name", ["A", "D", "I", "J"])
def test_a_swapped_block_compiles_without_a_break(name):
    block = randomise(BLOCKS[name]())
    x = torch.randn(2, 6, 17, 19)
    expected = block(x)
    convert_gcn(block, force=True)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    y = compiled(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    y.sum().backward()
    assert all(p.grad is not None for p in block.parameters())


def test_an_inline_swap_compiles_without_a_break():
    model = randomise(InlineNet()).eval()
    x = torch.randn(1, 3, 9, 12)
    expected = model(x)
    assert convert_gcn(model, force=True).swapped
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrap", ["torch.compile(model)", "model.compile()", "block.compile()", "torch.compile(block)"])
def test_a_model_that_is_already_compiled_follows_the_swap_and_its_undoing(wrap):
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    model = nn.Sequential(nn.Conv2d(3, 6, 1), BlockA(6, 4))
    run = model
    if wrap == "torch.compile(model)":
        run = torch.compile(model, backend=counter)
    elif wrap == "torch.compile(block)":
        model[1] = torch.compile(model[1], backend=counter)
    else:
        (model if wrap == "model.compile()" else model[1]).compile(backend=counter)
    x = torch.randn(1, 3, 12, 13)
    expected = run(x)

    def convolutions():
        counter.graphs[-1].graph.eliminate_dead_code()
        return sum(n.target is torch.conv2d or "conv2d" in str(n.target) for n in counter.graphs[-1].graph.nodes)

    before = convolutions()
    assert len(convert_gcn(run, force=True).swapped) == 1
    torch.testing.assert_close(run(x), expected, rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 2, "the compiled code of before the swap was run"
    if torch.ops.gcn_kernels.gcn is not None and "gcn_kernels" in str(counter.graphs[-1].graph):
        assert convolutions() < before
    revert_gcn(run)
    torch.testing.assert_close(run(x), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_and_traced_models_are_refused_with_the_reason():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), BlockA(6, 4))
    x = torch.randn(1, 3, 12, 13)
    for fixed in (torch.jit.script(model), torch.jit.trace(model, x)):
        report = convert_gcn(fixed, force=True)
        assert "scripted or traced" in report.refused[0].reason and not report.swapped
    model[1] = torch.jit.script(model[1])
    assert "scripted or traced" in convert_gcn(model, force=True).refused[0].reason


def test_a_traced_graph_module_is_refused_with_the_reason():
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 6, 1), BlockA(6, 4)))
    report = convert_gcn(model, force=True)
    assert not report.swapped and "made by torch.fx" in report.refused[0].reason


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_swapped_model_can_be_traced():
    model = PublicStyleNet().eval()
    x = torch.randn(1, 3, 40, 56)
    expected = model(x)
    convert_gcn(model, force=True)
    torch.testing.assert_close(torch.jit.trace(model, x)(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected, rtol=1e-4, atol=1e-4)
    block = nn.Sequential(BlockA(6, 4))
    convert_gcn(block, force=True)
    graph = torch.fx.symbolic_trace(block)
    x = torch.randn(1, 6, 9, 8)
    torch.testing.assert_close(graph(x), block(x))


DDP = """
import os, sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, "tests")
from families import PublicStyleNet, randomise
from gcn_kernels import convert_gcn
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
torch.manual_seed(0)
plain, fused = (DistributedDataParallel(randomise(PublicStyleNet()).double()) for _ in range(2))
fused.module.load_state_dict(plain.module.state_dict())
assert len(convert_gcn(fused, force=True).swapped) == 4
torch.manual_seed(rank)
for step in range(2):
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    for model in (plain, fused):
        model.zero_grad()
        model(x).square().mean().backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
for (name, a), b in zip(fused.module.named_parameters(), plain.module.parameters()):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=name)
dist.barrier()
print("equal", flush=True)
os._exit(0)  # the group's threads end with its last owner, and objects that are left to the end of Python have aborted it
"""


def test_under_distributed_data_parallel_two_processes_train_alike(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", DDP]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True) for rank in range(2)
    ]
    assert [p.communicate(timeout=1200)[0] for p in processes] == ["equal\n"] * 2
