"""Ways in which converted models are trained, stored and exported: sharding, quantisation, adapters, ONNX, copies."""

import copy
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.ao.quantization as quantization
from families import BlockA, randomise
from strips_families import MSCA, C
from torch import Tensor, nn

from gcn_kernels import convert_model, revert_gcn

X = torch.randn(1, 3, 12, 9, generator=torch.Generator().manual_seed(1))


def pair() -> tuple[nn.Sequential, nn.Sequential]:
    """A plain network with a block of each family, and its converted copy."""
    torch.manual_seed(0)
    plain: Any = randomise(nn.Sequential(nn.Conv2d(3, C, 3, padding=1), MSCA(), nn.ReLU(), BlockA(C, 3, (5, 5)))).eval()
    model = copy.deepcopy(plain)
    assert [e.place for e in convert_model(model, force=True).swapped] == ["3", "1"]
    return plain, model


SHARDED = """
import os, sys, torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
sys.path.insert(0, "tests")
from test_swap_ways import X, pair
rank = int(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
for places in ([], ["1", "3"], ["1.conv0", "1.conv1_1", "3.conv_l1", "3.conv_r2"]):
    models = pair()
    for model in models:
        model.train().double()
        for place in places:
            fully_shard(model.get_submodule(place), mesh=mesh)
        fully_shard(model, mesh=mesh)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for step in range(2):
            torch.manual_seed(10 * step + rank)
            optimizer.zero_grad()
            model(torch.randn(2, 3, 8, 9, dtype=torch.float64)).square().mean().backward()
            optimizer.step()
    plain, fused = ([p.full_tensor() for p in m.parameters()] for m in models)
    for ours, theirs in zip(fused, plain):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
dist.barrier()
print("equal", flush=True)
os._exit(0)  # the group's threads end with its last owner, and objects that are left to the end of Python have aborted it
"""


def test_sharded_over_two_processes(tmp_path: Path) -> None:
    """The model, its blocks, and single convolutions of the blocks, which then work through hooks."""
    command = [sys.executable, "-W", "ignore", "-c", SHARDED]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True) for rank in range(2)
    ]
    assert [p.communicate(timeout=1200)[0] for p in processes] == ["equal\n"] * 2


class LoraLayer(nn.Module):
    """The shape in which an adapter library wraps a convolution: the base layer, dictionaries of adapters, a scale, merging."""

    def __init__(self, base_layer: nn.Conv2d, rank: int = 2) -> None:
        super().__init__()
        self.base_layer, self.scaling, self.merged = base_layer, {"default": 0.5}, False
        c, o, groups = base_layer.in_channels, base_layer.out_channels, base_layer.groups
        down = nn.Conv2d(c, rank * groups, base_layer.kernel_size, padding=base_layer.padding, groups=groups, bias=False)
        self.lora_A = nn.ModuleDict({"default": down})
        self.lora_B = nn.ModuleDict({"default": nn.Conv2d(rank * groups, o, 1, groups=groups, bias=False)})
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(0.1)})

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self.base_layer(x, *args, **kwargs)
        if not self.merged:
            for name, scale in self.scaling.items():
                x = self.lora_dropout[name](x.to(self.lora_A[name].weight.dtype))
                result = result + self.lora_B[name](self.lora_A[name](x)) * scale
        return result


def with_adapters(model: nn.Sequential) -> None:
    model.requires_grad_(False)
    for place in ("1.conv0", "1.conv1_2", "3.conv_l2", "3.conv_r1"):
        above, _, name = place.rpartition(".")
        owner = model.get_submodule(above)
        setattr(owner, name, LoraLayer(owner.get_submodule(name)))


@pytest.mark.parametrize("merged", [False, True])
def test_adapters_learn(merged: bool) -> None:
    grads = []
    for model in pair():
        torch.manual_seed(1)
        with_adapters(model)
        for m in model.modules():
            if isinstance(m, LoraLayer):
                m.merged = merged
        model.train().double()
        x = X.double().requires_grad_()
        torch.manual_seed(2)
        model(x).square().sum().backward()
        grads.append([x.grad, *(p.grad for n, p in model.named_parameters() if "lora" in n)])
    assert len(grads[0]) == 9 and all((g is None) == merged for g in grads[0][1:])
    for ours, theirs in zip(grads[1], grads[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def merged_back(model: nn.Sequential) -> nn.Sequential:
    """Adapters taken in and taken off again: the convolutions are children as before."""
    with_adapters(model)
    for m in model.modules():
        for name, child in list(m.named_children()):
            if isinstance(child, LoraLayer):
                with torch.no_grad():
                    child.base_layer.weight.mul_(1.5)
                setattr(m, name, child.base_layer)
    return model


def for_training_quantised(model: nn.Sequential) -> nn.Module:
    model.train()
    model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    quantization.prepare_qat(model, inplace=True)
    torch.manual_seed(1)
    for _ in range(2):
        model(X).sum().backward()
    return model.eval()


def with_one_quantised_convolution(model: nn.Sequential) -> nn.Module:
    model[0] = quantization.QuantWrapper(model[0])
    model[0].qconfig = quantization.get_default_qconfig("fbgemm")
    model[3].conv_l2 = nn.Sequential(quantization.QuantStub(), model[3].conv_l2, quantization.DeQuantStub())
    model[3].conv_l2.qconfig = quantization.get_default_qconfig("fbgemm")
    quantization.prepare(model, inplace=True)
    model(X)
    return quantization.convert(model, inplace=True)


def saved(model: nn.Sequential) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def moved(model: nn.Sequential) -> nn.Module:
    state = model.state_dict()
    model.to("meta").to_empty(device="cpu")
    model.load_state_dict(state if not next(iter(state.values())).is_meta else pair()[0].state_dict())
    return model.double().float()


def averaged(model: nn.Sequential) -> nn.Module:
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    return average


WAYS: list[Callable[[nn.Sequential], nn.Module]] = [
    merged_back,
    for_training_quantised,
    with_one_quantised_convolution,
    copy.deepcopy,
    saved,
    moved,
    averaged,
    nn.DataParallel,
    lambda model: torch.jit.trace(model, X),
    lambda model: torch.export.export(model, (X,)).module(),
    lambda model: torch.export.export(model, (X,), strict=True).module(),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("way", WAYS, ids=[*(w.__name__ for w in WAYS[:8]), "traced", "exported", "exported-strictly"])
def test_a_converted_model_goes_the_way_of_the_plain_one(way: Callable[[nn.Sequential], nn.Module]) -> None:
    plain, model = (way(m) for m in pair())
    torch.testing.assert_close(model(X), plain(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_programs_have_the_convolutions(strict: bool) -> None:
    _, model = pair()
    called = [str(node.target) for node in torch.export.export(model, (X,), strict=strict).graph.nodes]
    assert called.count("aten.conv2d.default") == 13 and not any("gcn_kernels" in name for name in called)


def test_copies_are_reverted_by_themselves() -> None:
    plain, model = pair()
    twin = saved(copy.deepcopy(model))
    assert revert_gcn(twin) == ["1", "3"] and [type(m) for m in twin] == [type(m) for m in plain]
    assert revert_gcn(model) == ["1", "3"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("dynamo", [False, True])
def test_onnx_has_the_convolutions(dynamo: bool, tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    if dynamo:
        pytest.importorskip("onnxscript")
    plain, model = pair()
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(model, (X,), path, dynamo=dynamo, **({"verbose": False} if dynamo else {}))
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    assert nodes.count("Conv") == 13, nodes
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), plain(X).detach(), rtol=1e-4, atol=1e-4)
