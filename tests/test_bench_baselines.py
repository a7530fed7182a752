"""What the benchmark counts and compares with, and what it checks before anything is timed."""

import math

import pytest
import torch
from gcnbench import baselines, check, runtimes
from gcnbench.environment import Rates
from gcnbench.problems import PRESETS, Map, Problem, make_inputs, parse_map
from gcnbench.variants import UnavailableError, fused, mode_context, result_names, torch_call

from gcn_kernels import reference

CPU = torch.device("cpu")
#: Wider than high, M != O, neither a multiple of 8, and lower than the kernel.
ODD = Problem(Map("odd", 5, 4, 9, 3, 10), 2, 7, torch.float64)
PROBLEMS = [
    ODD,
    Problem(Map("", 6, 8, 5, 8, 8), 1, 3, torch.float64),
    Problem(Map("", 1, 1, 1, 1, 1), 1, 1, torch.float64),
]


# What the problems count. The numbers are those of the direct algorithm at k = 15, M = O = 21, bfloat16.
@pytest.mark.parametrize(
    ("name", "batch", "first", "second", "megabytes"),
    [
        ("res-2", 1, 5.28, 0.43, 9.4),
        ("res-3", 1, 2.64, 0.11, 5.0),
        ("res-4", 1, 1.32, 0.03, 3.5),
        ("res-5", 1, 0.66, 0.01, 3.7),
        ("res-2", 16, 84.6, 6.94, 145.6),
        ("res-5", 16, 10.6, 0.11, 19.6),
    ],
)
def test_work_of_the_papers_maps(name: str, batch: int, first: float, second: float, megabytes: float) -> None:
    feature_map = next(m for m in PRESETS["paper"] if m.name == name)
    problem = Problem(feature_map, batch, 15, torch.bfloat16)
    assert problem.first_flops / 1e9 == pytest.approx(first, rel=0.01)
    assert problem.second_flops / 1e9 == pytest.approx(second, abs=0.01)
    assert problem.bytes("fwd") / 1e6 == pytest.approx(megabytes, abs=0.06)
    assert problem.flops("bwd") == 2 * problem.flops("fwd")
    assert problem.flops("fwdbwd") == 3 * problem.flops("fwd")
    assert problem.bytes("fwdbwd") == problem.bytes("fwd") + problem.bytes("bwd")


def test_work_by_hand() -> None:
    problem = Problem(Map("", 3, 2, 5, 4, 6), 2, 7, torch.float32)
    pixels, weights = 2 * 2 * 5, 7 * (4 * 3 + 6 * 4) * 2
    assert problem.first_flops == 2 * pixels * 3 * (7 * 4 + 7 * 4)
    assert problem.second_flops == 2 * pixels * 6 * (7 * 4 + 7 * 4)
    x, y, parameters = pixels * 3, pixels * 6, weights + 4 + 6 + 4 + 6
    assert problem.bytes("fwd") == 4 * (x + parameters + y)
    assert problem.bytes("bwd") == 4 * (x + parameters + y + x + parameters)


def test_floor_is_the_slower_of_arithmetic_and_memory() -> None:
    problem = Problem(PRESETS["paper"][0], 1, 15, torch.bfloat16)
    arithmetic = Rates({"bfloat16": 798e12}, 3e12)
    assert 1e3 * arithmetic.floor_ms(problem, "fwd") == pytest.approx(7.2, abs=0.05)
    assert 1e3 * Rates({"bfloat16": 1e18}, 3e12).floor_ms(problem, "fwd") == pytest.approx(3.1, abs=0.05)
    smallest = Problem(PRESETS["paper"][3], 1, 15, torch.bfloat16)
    assert 1e3 * Rates({"bfloat16": 798e12}, 3e12).floor_ms(smallest, "fwd") == pytest.approx(1.2, abs=0.05)
    assert 1e3 * Rates({"bfloat16": 798e12}, None).floor_ms(smallest, "fwd") == pytest.approx(0.84, abs=0.01)


@pytest.mark.parametrize("text", ["256x128", "0x4x4", "axbxc", "256x128x128x1", "-1x2x3", ""])
def test_map_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected CxHxW"):
        parse_map(text)


# What it compares with.
@pytest.mark.parametrize("mode", ["fwd", "bwd", "fwdbwd"])
@pytest.mark.parametrize("name", ["eager-nchw", "eager-channels-last", "padded", "shifts"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.map.label)
def test_baseline_is_the_definition(problem: Problem, name: str, mode: str) -> None:
    inputs = make_inputs(problem, CPU, seed=0)
    variant = baselines.BASELINES[name]
    expected = torch_call(reference.gcn, inputs, mode)()
    with mode_context(mode):
        results = variant.prepare(inputs.laid_out(variant.layout), mode)()
    assert len(results) == len(result_names(mode))
    for result, truth in zip(results, expected, strict=True):
        torch.testing.assert_close(result, truth, check_stride=False)


def test_shifts_with_a_kernel_per_convolution_and_two_middles() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 6, 5), (3, 4, 3, 1), (2, 3, 1, 5), (6, 4, 1, 7), (2, 6, 9, 1), (3,), (2,), (6,), (2,)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    torch.testing.assert_close(baselines.shifts(*tensors), reference.gcn(*tensors))


def test_padded_computes_on_multiples_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    original = reference.gcn
    monkeypatch.setattr(reference, "gcn", lambda *tensors: seen.append(tensors[2].shape[:2]) or original(*tensors))
    baselines.padded_call(make_inputs(ODD, CPU, seed=0).laid_out("channels_last"), "fwd")()
    assert seen == [(16, 8)]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_runtime_is_the_definition(name: str) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip(name)
    inputs = make_inputs(Problem(ODD.map, 2, 7, torch.float32), CPU, seed=0)
    with mode_context("fwd"):
        (y,) = baselines.BASELINES[name].prepare(inputs, "fwd")()
    torch.testing.assert_close(y, reference.gcn(*inputs.tensors))


def test_runtime_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="not installed: openvino, onnx, numpy"):
        runtimes.openvino_call(make_inputs(ODD, CPU, seed=0), "fwd")


def test_inputs_share_values_across_layouts() -> None:
    inputs = make_inputs(ODD, CPU, seed=3)
    for first, second in zip(inputs.tensors, inputs.laid_out("channels_last").tensors, strict=True):
        assert torch.equal(first, second)
    assert inputs.laid_out("channels_last").tensors[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(inputs.tensors[0], make_inputs(ODD, CPU, seed=3).tensors[0])
    assert not torch.equal(inputs.tensors[0], make_inputs(ODD, CPU, seed=4).tensors[0])


# What is checked before anything is timed.
@pytest.mark.parametrize("unfold_bytes", [1, 8 * 7 * 4 * 9 * 2, 1 << 28], ids=["one channel", "two channels", "whole"])
def test_float64_results_in_slices(monkeypatch: pytest.MonkeyPatch, unfold_bytes: int) -> None:
    monkeypatch.setattr(check, "UNFOLD_BYTES", unfold_bytes)
    inputs = make_inputs(ODD, CPU, seed=0)
    found = check.float64_results(inputs, needs_gradients=True)
    expected = dict(zip(result_names("fwdbwd"), torch_call(reference.gcn, inputs, "fwdbwd")(), strict=True))
    assert found.keys() == expected.keys()
    for name, truth in expected.items():
        torch.testing.assert_close(found[name], truth)
    torch.testing.assert_close(check.float64_results(inputs, needs_gradients=False)["y"], expected["y"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_baseline_keeps_the_rule(dtype: torch.dtype) -> None:
    problem = Problem(ODD.map, 2, 7, dtype)
    inputs = make_inputs(problem, CPU, seed=0)
    expected = check.float64_results(inputs, needs_gradients=True)
    own = check.yardstick(inputs, True, expected)
    for name in ("eager-nchw", "eager-channels-last", "padded", "shifts"):
        variant = baselines.BASELINES[name]
        results = variant.prepare(inputs.laid_out(variant.layout), "fwdbwd")()
        assert check.violation(check.errors(results, "fwdbwd", expected), own, dtype, ours=False) is None


@pytest.mark.parametrize(
    ("error", "own", "ours", "right"),
    [
        (2e-6, 1e-6, True, True),
        (3e-6, 1e-6, True, False),
        (1.9e-5, 1e-6, False, True),
        (2.1e-5, 1e-6, False, False),
        (math.nan, 1e-6, True, False),
        (math.inf, math.inf, True, False),
        (0.2, 0.2, False, False),
    ],
)
def test_error_rule(error: float, own: float, ours: bool, right: bool) -> None:
    reason = check.violation({"y": error}, {"y": own}, torch.float32, ours)
    assert (reason is None) == right
    assert right or (reason is not None and reason.startswith("wrong result: error of y is"))


def test_a_wrong_shape_is_an_infinite_error() -> None:
    assert check.errors((torch.zeros(1, 2),), "fwd", {"y": torch.zeros(2, 1)}) == {"y": math.inf}


def test_fused_names_tell_backend_algorithm_and_layout() -> None:
    assert fused("torch", "auto", "NCHW", CPU).name == "fused torch NCHW"
    inputs = make_inputs(ODD, CPU, seed=0)
    (y,) = fused("torch", "auto", "NCHW", CPU).prepare(inputs, "fwd")()
    torch.testing.assert_close(y, reference.gcn(*inputs.tensors))
