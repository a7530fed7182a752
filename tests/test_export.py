"""``torch.export`` and ONNX: the exported program runs, at sizes that were not traced, and gives the operator's values."""

from pathlib import Path

import pytest
import torch
from implementations import Implementation, every_kernel
from torch import Tensor, nn
from torch.export import Dim

from gcn_kernels import FusedGCN, FusedRefine

SIZES = [(1, 12, 9), (2, 9, 8), (3, 9, 8), (4, 17, 5), (2, 6, 31)]
DYNAMIC = {0: Dim("n", min=1), 2: Dim("h", min=1), 3: Dim("w", min=1)}


def block(bias: bool = True, backend: str = "auto") -> FusedGCN:
    return FusedGCN(6, 3, (5, 7), mid_channels=4, bias=bias, backend=backend).eval().requires_grad_(False)


def nodes_called(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_dynamic_batch_and_size(strict: bool) -> None:
    # Unasked, a map as small as these is left to PyTorch, and a program that has been exported does not choose again.
    model = block(backend="cpu")
    program = torch.export.export(
        model, (torch.randn(2, 6, 9, 8),), dynamic_shapes=({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},), strict=strict
    )
    for n, h, w in SIZES[1:]:
        x = torch.randn(n, 6, h, w)
        torch.testing.assert_close(program.module()(x), model(x), rtol=0, atol=0)


@every_kernel
def test_exported_program_calls_the_operator(run: Implementation) -> None:
    model = FusedGCN(6, 3, 5, backend=run.backend, algo=run.algo).to(run.device).requires_grad_(False)
    program = torch.export.export(model, (torch.randn(2, 6, 9, 8, device=run.device),))
    assert nodes_called(program).count(str(run.forward_operator)) == 1


def test_exported_program_survives_a_file(tmp_path: Path) -> None:
    model, x = block(backend="cpu"), torch.randn(2, 6, 9, 8)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "block.pt2")
    assert torch.equal(torch.export.load(tmp_path / "block.pt2").module()(x), model(x))


def onnx_graph(model: nn.Module, path: Path) -> list[str]:
    """Export ``model`` to ``path`` and name the operators of its graph."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    program = torch.onnx.export(
        model, (torch.randn(2, 6, 9, 8),), dynamo=True, opset_version=18, dynamic_shapes=(DYNAMIC,), verbose=False
    )
    program.save(path)
    loaded = onnx.load(path)
    assert {entry.version for entry in loaded.opset_import if entry.domain in ("", "ai.onnx")} == {18}
    return sorted(node.op_type for node in loaded.graph.node)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("training", [False, True])
def test_onnx_is_four_convolutions_and_a_sum(bias: bool, training: bool, tmp_path: Path) -> None:
    model = block(bias).requires_grad_(training)
    assert onnx_graph(model, tmp_path / "block.onnx") == ["Add", "Conv", "Conv", "Conv", "Conv"]


def test_onnx_of_a_refinement_is_its_two_convolutions(tmp_path: Path) -> None:
    assert onnx_graph(FusedRefine(6), tmp_path / "refine.onnx") == ["Add", "Conv", "Conv", "Relu"]


def test_onnx_gives_the_values_of_the_operator(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = block()
    onnx_graph(model, tmp_path / "block.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "block.onnx", providers=["CPUExecutionProvider"])
    (name,) = [value.name for value in session.get_inputs()]
    for n, h, w in SIZES:
        x: Tensor = torch.randn(n, 6, h, w)
        (y,) = session.run(None, {name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), model(x), rtol=1e-5, atol=1e-5)


def test_operator_is_back_after_an_onnx_export(tmp_path: Path) -> None:
    model, x = FusedGCN(6, 3, 5), torch.randn(2, 6, 9, 8)
    before = model(x).grad_fn
    onnx_graph(model.eval(), tmp_path / "block.onnx")
    assert type(model(x).grad_fn) is type(before)
