"""What users have on their disks goes on working: names, operator schemas, state dicts, pickles and saved programs.

The files in ``golden`` were written by an earlier version and are never written again; a new promise gets a file of its own.
"""

import importlib
from pathlib import Path

import pytest
import torch

import gcn_kernels
from gcn_kernels import FusedGCN, reference

GOLDEN = Path(__file__).with_name("golden")

#: Graphs that are kept on users' disks call these by name and by position: one that changes needs another name.
SCHEMAS = {
    "gcn": (
        "gcn_kernels::gcn(Tensor x, Tensor w_l1, Tensor w_l2, Tensor w_r1, Tensor w_r2, Tensor? b_l1, Tensor? b_l2, "
        "Tensor? b_r1, Tensor? b_r2, bool channels_last, bool cache_weights, bool allow_tf32, str algo) "
        "-> (Tensor, Tensor, Tensor)"
    ),
    "gcn_backward": (
        "gcn_kernels::gcn_backward(Tensor dy, Tensor x, Tensor u_l, Tensor u_r, Tensor w_l1, Tensor w_l2, Tensor w_r1, "
        "Tensor w_r2, Tensor? b_l1, Tensor? b_r1, int wanted, bool allow_tf32, str algo) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "upsample": "gcn_kernels::upsample(Tensor x, Tensor weight, Tensor? bias, bool channels_last) -> Tensor",
    "upsample_backward": (
        "gcn_kernels::upsample_backward(Tensor dy, Tensor x, Tensor weight, int wanted) -> (Tensor, Tensor, Tensor)"
    ),
    "doubling": (
        "gcn_kernels::doubling(Tensor x, Tensor weight, Tensor? bias, Tensor? add, SymInt? height, SymInt? width, int groups, "
        "bool channels_last) -> Tensor"
    ),
    "doubling_backward": (
        "gcn_kernels::doubling_backward(Tensor dy, Tensor x, Tensor weight, int wanted, int groups) -> (Tensor, Tensor, Tensor)"
    ),
    "refine": "gcn_kernels::refine(Tensor x, Tensor w1, Tensor w2, Tensor? b1, Tensor? b2, bool channels_last) -> Tensor",
    "refine_backward": (
        "gcn_kernels::refine_backward(Tensor dy, Tensor x, Tensor w1, Tensor w2, Tensor? b1, int wanted) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "cuda_refine": (
        "gcn_kernels::cuda_refine(Tensor x, Tensor w1, Tensor w2, Tensor? b1, Tensor? b2, bool channels_last, bool allow_tf32) "
        "-> Tensor"
    ),
    "cuda_refine_backward": (
        "gcn_kernels::cuda_refine_backward(Tensor dy, Tensor x, Tensor w1, Tensor w2, Tensor? b1, int wanted, bool allow_tf32) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "strips": (
        "gcn_kernels::strips(Tensor x, Tensor[] weights, Tensor[] biases, int[] lengths, int[] dilations, int[] biased, "
        "bool stem, bool skip, bool channels_last) -> Tensor"
    ),
    "strips_backward": (
        "gcn_kernels::strips_backward(Tensor dy, Tensor x, Tensor[] weights, Tensor[] biases, int wanted, int[] lengths, "
        "int[] dilations, int[] biased, bool stem, bool skip) -> (Tensor, Tensor[], Tensor[])"
    ),
    "cuda_strips": (
        "gcn_kernels::cuda_strips(Tensor x, Tensor[] weights, Tensor[] biases, int[] lengths, int[] dilations, int[] biased, "
        "bool stem, bool skip, bool channels_last, bool allow_tf32) -> Tensor"
    ),
    "cuda_strips_backward": (
        "gcn_kernels::cuda_strips_backward(Tensor dy, Tensor x, Tensor[] weights, Tensor[] biases, int wanted, int[] lengths, "
        "int[] dilations, int[] biased, bool stem, bool skip, bool allow_tf32) -> (Tensor, Tensor[], Tensor[])"
    ),
    "cpu_plan": "gcn_kernels::cpu_plan(int[] sizes, bool float64, bool spectra_cached) -> str",
    "cpu_spectra_cache": "gcn_kernels::cpu_spectra_cache(bool clear) -> int",
}
TRITON_SCHEMAS = {
    "triton_upsample": (
        "gcn_kernels::triton_upsample(Tensor x, Tensor weight, Tensor? bias, bool channels_last, bool allow_tf32) -> Tensor"
    ),
    "triton_upsample_backward": (
        "gcn_kernels::triton_upsample_backward(Tensor dy, Tensor x, Tensor weight, SymInt wanted, bool allow_tf32) "
        "-> (Tensor, Tensor, Tensor)"
    ),
    "triton_doubling": (
        "gcn_kernels::triton_doubling(Tensor x, Tensor weight, Tensor? bias, Tensor? add, SymInt? height, SymInt? width, "
        "SymInt groups, bool channels_last, bool allow_tf32) -> Tensor"
    ),
    "triton_doubling_backward": (
        "gcn_kernels::triton_doubling_backward(Tensor dy, Tensor x, Tensor weight, SymInt wanted, SymInt groups, "
        "bool allow_tf32) -> (Tensor, Tensor, Tensor)"
    ),
}
NAMES = (
    *("gcn_kernels.FusedGCN", "gcn_kernels.convert_gcn", "gcn_kernels.fused_gcn", "gcn_kernels.revert_gcn"),
    *("gcn_kernels.reference.gcn", "gcn_kernels.functional.fused_gcn", "gcn_kernels.modules.FusedGCN"),
    *("gcn_kernels.backends.why_not", "gcn_kernels.backends.choose", "gcn_kernels.problem.check"),
    *("gcn_kernels.info.describe", "gcn_kernels.info.plan", "gcn_kernels.convert.main"),
    *("gcn_kernels.models.GCNNet", "gcn_kernels.models.resnet", "gcn_kernels.models.network.Deconvolution"),
)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema(name: str) -> None:
    assert str(getattr(torch.ops.gcn_kernels, name).default._schema) == SCHEMAS[name]


@pytest.mark.parametrize("name", TRITON_SCHEMAS)
def test_schema_of_triton(name: str) -> None:
    pytest.importorskip("triton")
    importlib.import_module("gcn_kernels.triton")
    assert str(getattr(torch.ops.gcn_kernels, name).default._schema) == TRITON_SCHEMAS[name]


@pytest.mark.parametrize("name", NAMES)
def test_name(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert getattr(importlib.import_module(module), attribute) is not None


def test_names_of_the_package() -> None:
    assert {"FusedGCN", "convert_gcn", "fused_gcn", "reference", "revert_gcn"} <= set(gcn_kernels.__all__)


def test_names_in_a_state_dict() -> None:
    shapes = {name: tuple(t.shape) for name, t in FusedGCN(4, 2, (3, 5), mid_channels=3).state_dict().items()}
    assert shapes == {
        "conv_l1.weight": (3, 4, 3, 1),
        "conv_l1.bias": (3,),
        "conv_l2.weight": (2, 3, 1, 5),
        "conv_l2.bias": (2,),
        "conv_r1.weight": (3, 4, 1, 5),
        "conv_r1.bias": (3,),
        "conv_r2.weight": (2, 3, 3, 1),
        "conv_r2.bias": (2,),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_form_of_the_middle_maps(dtype: torch.dtype) -> None:
    """A saved training graph hands them from ``gcn`` to ``gcn_backward``: [N, M, H, W] in the type of the arithmetic."""
    shapes = [(2, 3, 5, 6), (4, 3, 3, 1), (2, 4, 1, 3), (1, 3, 1, 3), (2, 1, 3, 1)]
    tensors = [torch.ones(shape, dtype=dtype).contiguous(memory_format=torch.channels_last) for shape in shapes]
    y, u_l, u_r = torch.ops.gcn_kernels.gcn(*tensors, None, None, None, None, True, False, False, "direct")
    assert y.is_contiguous(memory_format=torch.channels_last) and y.dtype == dtype
    for u, channels in ((u_l, 4), (u_r, 1)):
        assert (u.shape, u.stride()) == ((2, channels, 5, 6), (30 * channels, 30, 6, 1))
        assert u.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("name", ["block", "swapped", "deconvolution"])
def test_pickled_module(name: str) -> None:
    saved = torch.load(GOLDEN / "modules.pt", weights_only=False)
    module, x, y = saved["modules"][name], saved["x"], saved["results"][name]
    torch.testing.assert_close(module(x), y)
    module.train().requires_grad_()
    module(x).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_saved_program() -> None:
    x = torch.load(GOLDEN / "modules.pt", weights_only=False)["x"]
    program = torch.export.load(GOLDEN / "program.pt2")
    names = ("l1", "l2", "r1", "r2")
    state = program.state_dict
    weights, biases = ([state[f"conv_{n}.{kind}"] for n in names] for kind in ("weight", "bias"))
    torch.testing.assert_close(program.module()(x), reference.gcn(x, *weights, *biases))
