"""The CUDA library without a GPU: what it registers, when it is said to run, what its operators return, what is planned."""

import json
import re
from typing import Any

import pytest
import torch
from cases import SMALL, make
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from gcn_kernels import backends, fused_gcn, info
from gcn_kernels.core.library import LIBRARIES, WITH_CUDA

needs_library = pytest.mark.skipif(
    LIBRARIES.cuda_reason is not None, reason=f"the CUDA library is not loaded: {LIBRARIES.cuda_reason}"
)


@needs_library
def test_operators_are_registered_for_cuda() -> None:
    for name in WITH_CUDA:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"gcn_kernels::{name}", "CUDA")


@needs_library
def test_architectures_are_known_and_usable() -> None:
    assert LIBRARIES.architectures
    assert all(backends.covers(name, capability(name)) for name in LIBRARIES.architectures)
    assert "built by nvcc" in info.describe()["CUDA kernels"]


@needs_library
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_reason_is_the_gpu() -> None:
    assert backends.why_not("cuda", "cuda") == "no GPU that this PyTorch can use"


def capability(name: str) -> tuple[int, int]:
    major, minor = name.partition("+")[0].rstrip("af").split(".")
    return int(major), int(minor)


@pytest.mark.parametrize(
    ("architecture", "runs_on", "not_on"),
    [
        ("8.0", [(8, 0), (8, 6), (8, 9)], [(7, 5), (9, 0), (12, 0)]),
        ("8.6", [(8, 6), (8, 9)], [(8, 0), (9, 0)]),
        ("9.0+PTX", [(9, 0), (10, 0), (12, 1)], [(8, 9)]),
        ("9.0a", [(9, 0)], [(8, 9), (9, 1), (10, 0)]),
        ("10.0f", [(10, 0), (10, 3)], [(9, 0), (12, 0)]),
        ("12.0+PTX", [(12, 0), (12, 1), (13, 0)], [(10, 0)]),
    ],
)
def test_which_gpus_an_architecture_covers(
    architecture: str, runs_on: list[tuple[int, int]], not_on: list[tuple[int, int]]
) -> None:
    assert all(backends.covers(architecture, c) for c in runs_on)
    assert not any(backends.covers(architecture, c) for c in not_on)


def test_reason_for_a_gpu_that_is_not_covered() -> None:
    assert backends.why_not_capability((9, 0), ["8.0", "9.0"]) is None
    old = backends.why_not_capability((7, 5), ["8.0", "9.0+PTX"])
    assert old is not None and "8.0 or newer, got 7.5" in old
    other = backends.why_not_capability((12, 0), ["8.0", "9.0"])
    assert other is not None and "8.0, 9.0" in other and 'TORCH_CUDA_ARCH_LIST="12.0"' in other


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_shapes_and_types_on_a_gpu(dtype: torch.dtype, channels_last: bool) -> None:
    """The middle maps are padded maps in x's type; backward takes them and returns what empty_like would."""
    block = make(SMALL, dtype).in_layout("channels_last" if channels_last else "nchw")
    n, o, h, w = block.dy.shape
    with FakeTensorMode():
        fake: Any = block.map(lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda"))
        y, u_l, u_r = torch.ops.gcn_kernels.gcn.default(*fake.arguments, channels_last, False, False, "auto")
        assert y.shape == (n, o, h, w) and y.dtype == dtype and y.device.type == "cuda"
        assert y.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        assert u_l.shape == u_r.shape == (n, h, w, 8)
        assert u_l.dtype == u_r.dtype == dtype and u_l.is_contiguous()
        saved = (fake.dy, fake.x, u_l, u_r, *fake.weights, fake.biases[0], fake.biases[2])
        gradients = torch.ops.gcn_kernels.gcn_backward.default(*saved, 0b111111111, False, "auto")
    for gradient, argument in zip(gradients, fake.arguments, strict=True):
        assert gradient.shape == argument.shape and gradient.dtype == dtype
        assert gradient.stride() == argument.stride()


def test_allow_tf32_follows_pytorchs_switches() -> None:
    """The switch of convolutions itself, the older one that sets it, and the ones above it."""
    conv: Any = torch.backends.cudnn.conv
    above: Any = torch.backends
    try:
        for name in ("tf32", "ieee"):
            conv.fp32_precision = name
            assert backends.allow_tf32() == (name == "tf32")
        for allowed in (True, False):
            torch.backends.cudnn.allow_tf32 = allowed
            assert backends.allow_tf32() == allowed
        for name in ("tf32", "ieee"):
            above.fp32_precision = name  # the switch of convolutions is "none" now: it follows
            assert backends.allow_tf32() == (name == "tf32")
    finally:
        above.fp32_precision = "none"


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_graph_does_not_outlive_the_switch() -> None:
    """Turning tf32 off after compiling compiles anew: precision is never lower than asked for."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(fused_gcn, fullgraph=True, backend=counter)
    block = make(SMALL)
    seen = []
    for allowed in (True, False, True):
        torch.backends.cudnn.allow_tf32 = allowed
        compiled(*block.arguments)
        (call,) = [node for node in counter.graphs[-1].graph.nodes if "gcn_kernels.gcn" in str(node.target)]
        seen.append(call.args[-2])
    assert seen[:2] == [True, False]
    assert counter.frame_count == 2  # and the first graph serves again


def test_plan_says_what_is_launched() -> None:
    plan = info.plan(256, 21, (128, 128), batch=16)
    assert plan["tensor_cores"]
    assert plan["launches"][0]["kernel"] == "prepare"
    assert plan["predicted_us"] == pytest.approx(sum(launch["predicted_us"] for launch in plan["launches"]), rel=1e-3)
    assert plan["floor_us"] < plan["predicted_us"]
    backward = info.plan(256, 21, (128, 128), batch=16, backward=True)
    assert {"dx", "first_weight_grad", "second_weight_grad"} <= backward.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_plan_of_every_dtype(dtype: torch.dtype) -> None:
    plan = info.plan(64, 5, (9, 17), (3, 5, 7, 9), mid_channels=(4, 6), dtype=dtype, channels_last=True)
    assert plan["tensor_cores"] == (dtype != torch.float64)
    assert plan["tensor_cores"] or "float64" in plan["why_direct"]


def test_plan_depends_on_the_gpu_and_the_precision() -> None:
    here = info.plan(2048, 21, (16, 16), gpu=(16, 99 * 1024, 100 * 1024))
    assert here["first_stage"]["splits"] < info.plan(2048, 21, (16, 16))["first_stage"]["splits"]
    tf32, float32 = (info.plan(512, 21, (64, 64), batch=8, dtype=torch.float32, allow_tf32=a) for a in (True, False))
    assert tf32["predicted_us"] < float32["predicted_us"]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"kernel_size": 4}, ValueError, "odd"),
        ({"kernel_size": (3, 5)}, ValueError, "kernel_size: expected 4 whole numbers, or one"),
        ({"batch": 0}, ValueError, "batch: expected a whole number from 1"),
        ({"dtype": torch.int8}, TypeError, "dtype"),
        ({"gpu": (1, 2)}, ValueError, "multiprocessors"),
    ],
)
def test_plan_refuses(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        info.plan(64, 5, (9, 17), **arguments)


def hopper_plan(**options: Any) -> dict[str, Any]:
    return info.plan(256, 21, (128, 128), batch=16, channels_last=True, generation="hopper", **options)


def test_overrides_take_the_place_of_the_plans_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    def blocks(kernel: str, *, backward: bool) -> int:
        plan = hopper_plan(backward=backward)
        return next(int(launch["blocks"]) for launch in plan["launches"] if launch["kernel"].split()[0] == kernel)

    def workspace() -> int:
        return int(hopper_plan()["workspace_bytes"])

    unasked = workspace()
    monkeypatch.setenv("GCN_KERNELS_PLAN", "first_stage_sharing=2,first_stage_splits=2")
    assert workspace() > unasked  # split sums stand there
    assert blocks("hopper_first_stage", backward=False) % 2 == 0
    monkeypatch.setenv("GCN_KERNELS_PLAN", "weight_grad_splits=3,input_grad_cluster=1")
    assert hopper_plan(backward=True)["first_weight_grad"]["splits"] == 3
    monkeypatch.setenv("GCN_KERNELS_PLAN", "input_grad_channels=64")
    assert "overrides leave nothing" in hopper_plan(backward=True)["why_portable"]


@pytest.mark.parametrize("text", ["sharing=2", "first_stage_sharing", "first_stage_sharing=", "first_stage_sharing=-1", "a,b"])
def test_overrides_that_are_none_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCN_KERNELS_PLAN", text)
    with pytest.raises(ValueError, match=r"GCN_KERNELS_PLAN: expected name=number.*first_stage_sharing, first_stage_splits"):
        hopper_plan()


def test_what_measured_sources_are_and_whether_they_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table says on which code it was measured, and info that this is another, or the same."""
    measured = info.plan(256, 21, (128, 128), batch=16, channels_last=True, generation="auto")["measured_sources"]
    assert re.fullmatch("[0-9a-f]{12}", measured)
    assert "measured_sources" not in hopper_plan()
    for state, says in (("0123456789ab", "has changed since (now 0123456789ab)"), (measured, "measurement of this code")):
        monkeypatch.setitem(LIBRARIES.build, "cuda_sources", state)
        assert says in info.describe()["sm_90a kernels"]


def test_plan_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    json.dumps(info.plan(64, 5, (9, 17)))
    assert capfd.readouterr() == ("", "")
