"""The benchmark: that it counts right, compares like with like, refuses to time what is wrong, and shows what it measured."""

import contextlib
import csv
import io
import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench_gcn
import pytest
import torch
from gcnbench import baselines, check, clock, environment, memory, options, plot, report, runner, runtimes
from gcnbench.environment import Rates
from gcnbench.problems import PRESETS, Map, Problem, make_inputs, parse_map
from gcnbench.report import FLOOR, Row
from gcnbench.variants import UnavailableError, fused, mode_context, result_names, torch_call
from torch import Tensor

import gcn_kernels
from gcn_kernels import reference

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")
#: Wider than high, M != O, neither a multiple of 8, and lower than the kernel.
ODD = Problem(Map("odd", 5, 4, 9, 3, 10), 2, 7, torch.float64)
PROBLEMS = [
    ODD,
    Problem(Map("", 6, 8, 5, 8, 8), 1, 3, torch.float64),
    Problem(Map("", 1, 1, 1, 1, 1), 1, 1, torch.float64),
]


def test_a_copy_without_its_repository_is_told_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_output", lambda *command: "")
    assert environment.describe(CPU)["gcn_kernels"].endswith("commit unknown")
    monkeypatch.setenv("GCN_KERNELS_COMMIT", "0123456789ab")
    assert "commit 0123456789ab as GCN_KERNELS_COMMIT says" in environment.describe(CPU)["gcn_kernels"]


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


# How it measures.
class FakeClock:
    """Hands out prepared times and notes what it was asked to measure."""

    def __init__(self, times: dict[str, list[float]]) -> None:
        self.times = {name: iter(values) for name, values in times.items()}
        self.order: list[str] = []

    def measure(self, call: Callable[[], Any]) -> float:
        name = call()[0]
        self.order.append(name)
        return next(self.times[name])

    def arm(self, calls: Any, mode: str) -> tuple[Any, dict[str, str]]:
        return calls, {}


def test_round_robin_measures_each_once_per_round_and_drops_the_first() -> None:
    fake = FakeClock({"a": [9.0, 1.0, 2.0, 3.0], "b": [9.0, 4.0, 5.0, 6.0]})
    times = clock.round_robin({"a": lambda: ("a",), "b": lambda: ("b",)}, fake, clock.Budget(1e-9, 3), seed=0)
    assert times == {"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}
    rounds = [fake.order[i : i + 2] for i in range(0, 8, 2)]
    assert all(sorted(names) == ["a", "b"] for names in rounds)


def test_round_robin_shuffles_and_uses_up_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    milliseconds = iter(range(1000))  # one passes between any two looks at the clock
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: next(milliseconds) / 1000))
    names = "abcde"
    fake = FakeClock({name: [1.0] * 2000 for name in names})
    times = clock.round_robin({name: lambda name=name: (name,) for name in names}, fake, clock.Budget(0.05, 1), seed=0)
    # Two looks a round, but for the first two rounds; of 25 rounds in 50 ms the first does not count.
    assert len(times["a"]) == 24
    orders = {tuple(fake.order[i : i + 5]) for i in range(0, len(fake.order), 5)}
    assert len(orders) > 1


def test_threads_of_others_settle_first() -> None:
    calls: list[str] = []
    fake = FakeClock({"a": [1.0] * 3, "b": [1.0] * 3})
    work = {name: lambda name=name: calls.append(name) or (name,) for name in "ab"}
    clock.round_robin(work, fake, clock.Budget(1e-9, 2), seed=0, settle=frozenset("b"))
    assert calls.count("a") == 3
    assert calls.count("b") == 6


@pytest.mark.parametrize(("times", "expected"), [([3.0], (3.0, 3.0, 3.0)), ([5.0, 1.0, 2.0, 4.0, 3.0, 6.0], (3.5, 2.0, 5.0))])
def test_spread(times: list[float], expected: tuple[float, float, float]) -> None:
    assert clock.spread(times) == pytest.approx(expected)


class FakeCuda:
    """Writes down what is asked of torch.cuda."""

    def __init__(self, call_ms: float, capture_fails: bool = False) -> None:
        self.log: list[str] = []
        self.call_ms = call_ms
        self.capture_fails = capture_fails

    def get_device_properties(self, device: object) -> SimpleNamespace:
        return SimpleNamespace(L2_cache_size=1024)

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def current_stream(self) -> SimpleNamespace:
        return SimpleNamespace(wait_stream=lambda other: None)

    Stream = current_stream

    def stream(self, side: object) -> Any:
        return contextlib.nullcontext()

    def CUDAGraph(self) -> SimpleNamespace:
        return SimpleNamespace(replay=lambda: self.log.append("replay"))

    def graph(self, graph: object) -> Any:
        if self.capture_fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        return contextlib.nullcontext()

    def Event(self, enable_timing: bool) -> SimpleNamespace:
        return SimpleNamespace(record=lambda: self.log.append("record"), elapsed_time=lambda stop: self.call_ms)


def cuda_clock(monkeypatch: pytest.MonkeyPatch, fake: FakeCuda, graphs: str = "auto") -> clock.CudaClock:
    monkeypatch.setattr(clock, "_cuda", fake)
    cuda = clock.CudaClock(CPU, graphs)
    monkeypatch.setattr(cuda, "_flush", lambda: fake.log.append("flush"))
    return cuda


def test_cuda_clock_flushes_before_the_first_event(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(5.0)
    cuda = cuda_clock(monkeypatch, fake)
    assert cuda.measure(lambda: fake.log.append("call") or ()) == 5.0
    assert fake.log == ["flush", "record", "call", "record", "synchronize"]


@pytest.mark.parametrize(
    ("graphs", "ms", "mode", "captured"),
    [
        ("auto", 0.5, "fwd", True),
        ("auto", 0.5, "fwdbwd", True),
        ("auto", 5.0, "fwd", False),
        ("on", 5.0, "fwd", True),
        ("off", 0.5, "fwd", False),
        ("auto", 0.5, "bwd", False),
    ],
)
def test_short_calls_become_graphs(monkeypatch: pytest.MonkeyPatch, graphs: str, ms: float, mode: str, captured: bool) -> None:
    fake = FakeCuda(ms)
    armed, remarks = cuda_clock(monkeypatch, fake, graphs).arm({"a": lambda: ()}, mode)
    fake.log.clear()
    armed["a"]()
    assert (fake.log == ["replay"]) == captured
    assert remarks == {}


def test_a_call_that_cannot_be_captured_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(0.5, capture_fails=True)
    call: Callable[[], tuple[Tensor, ...]] = lambda: ()  # noqa: E731
    armed, remarks = cuda_clock(monkeypatch, fake).arm({"a": call}, "fwd")
    assert armed == {"a": call}
    assert "not as a CUDA graph (RuntimeError: operation not permitted" in remarks["a"]


def test_peak_memory_is_the_peak_and_not_the_sum() -> None:
    def call() -> tuple[Tensor, ...]:
        for _ in range(3):
            torch.empty(1 << 18).fill_(1.0)
        return (torch.empty(1 << 18),)

    assert memory.cpu_allocated(call) == 1 << 20
    peak = memory.peak(call, CPU)
    assert peak.allocated == 1 << 20
    assert peak.bytes == max(peak.allocated, peak.resident or 0)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux's /proc")
def test_peak_memory_sees_what_pytorch_did_not_allocate() -> None:
    size = 256 << 20  # a tenth of which is more than the jobs beside the tests free meanwhile

    def call() -> tuple[Tensor, ...]:
        scratch = bytearray(size)
        return (torch.tensor(len(scratch)),)

    resident = memory.cpu_resident(call)
    if resident is None:
        pytest.skip("this system does not let a process reset its peak")
    assert memory.cpu_allocated(call) < 1 << 20
    assert resident > 0.9 * size


# What it shows.
def row(backend: str, kind: str, ms: float | None, name: str = "a") -> Row:
    return Row(name, 1, 1, 1, 1, 1, 1, 15, "float32", "fwd", backend, kind, ms=ms)


def table(name: str, eager: float, shifts: float, ours: float) -> list[Row]:
    rows = [row("direct floor", "floor", 2.0, name), row("eager NCHW", "baseline", eager, name)]
    rows += [row("matmul+shifts", "baseline", shifts, name), row("fused cpu NCHW", "fused", ours, name)]
    report.fill_in(rows, flops=4_000_000, floor_ms=2.0)
    return rows


def test_ratios_are_against_the_fastest_baseline() -> None:
    rows = table("a", eager=8.0, shifts=10.0, ours=4.0)
    assert [r.ratio for r in rows] == [4.0, 1.0, 0.8, 2.0]
    assert [r.percent_of_floor for r in rows] == [100.0, 25.0, 20.0, 50.0]
    assert [r.gflops for r in rows] == [2.0, 0.5, 0.4, 1.0]


def test_rows_fit_a_terminal_and_fold_what_does_not() -> None:
    wide = row("fused cpu channels_last", "fused", 4.0)
    wide.times_ms, wide.ms_p20, wide.ms_p80 = [120.04, 119.0, 136.1], 99.04, 136.1
    wide.ms, wide.gflops, wide.percent_of_floor, wide.ratio, wide.peak_bytes, wide.error = 120.0, 4e5, 423.0, 13.39, 10**9, 4.4e-7
    assert wide.line().split() == [
        "fused",
        "cpu",
        "channels_last",
        "120.0",
        "[99.0,",
        "136.1]",
        "400000",
        "423",
        "13.39",
        "1000.0",
        "4.4e-07",
    ]
    wide.remark = "timed with its launches, not as a CUDA graph, " * 5
    missing = row("padded to 8", "baseline", None)
    missing.status, missing.reason = "unavailable", "no compiler was found, " * 20
    for text in (
        wide.line(),
        missing.line(),
        report.heading(),
        report.means_table(report.geometric_means(table("a", 8.0, 10.0, 4.0))),
    ):
        assert max(map(len, text.splitlines())) <= 80
    assert "not run: no compiler" in missing.line()


def test_one_call_has_no_spread() -> None:
    lone = row("fused cpu NCHW", "fused", 4.0)
    lone.times_ms, lone.ms_p20, lone.ms_p80 = [4.0], 4.0, 4.0
    assert "[" not in lone.line()


def test_a_baseline_that_beats_the_floor_says_what_that_means() -> None:
    rows = table("a", eager=8.0, shifts=1.5, ours=1.0)
    assert [r.remark is not None for r in rows] == [False, False, True, False]


def test_geometric_means_over_maps() -> None:
    rows = table("a", eager=8.0, shifts=10.0, ours=4.0) + table("b", eager=16.0, shifts=4.0, ours=8.0)
    means = {mean.backend: mean for mean in report.geometric_means(rows)}
    ours = means["fused cpu NCHW"]
    assert ours.ratio == pytest.approx(math.sqrt(2.0 * 0.5))
    assert ours.worst == 0.5
    assert ours.ratio_plain == pytest.approx(math.sqrt(2.0 * 2.0))
    assert ours.percent_of_floor == pytest.approx(math.sqrt(50.0 * 25.0))
    assert (ours.maps, ours.of_maps) == (2, 2)
    assert "direct floor" not in means


def test_a_mean_counts_the_maps_that_it_has() -> None:
    rows = table("a", 8.0, 10.0, 4.0) + table("b", 16.0, 4.0, 8.0)
    rows[-1].ms = None
    ours = report.geometric_means(rows)[-1]
    assert (ours.maps, ours.of_maps) == (1, 2)
    assert "1 of 2" in report.means_table([ours])


def test_without_baselines_there_is_no_ratio() -> None:
    rows = [row("fused cpu NCHW", "fused", 4.0)]
    report.fill_in(rows, flops=4_000_000, floor_ms=2.0)
    assert rows[0].ratio is None
    assert report.geometric_means(rows)[0].ratio is None
    assert rows[0].line().split()[-3:] == ["-", "-", "-"]


def test_progress_only_on_a_terminal() -> None:
    silent, terminal = io.StringIO(), io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    for stream in (silent, terminal):
        progress = runner.Progress(2, stream)
        progress.step()
        progress.show(0.5, "here")
    assert silent.getvalue() == ""
    assert "75 %  here" in terminal.getvalue()


def test_progress_foretells_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 100.0, 200.0, 450.0])
    monkeypatch.setattr(runner.time, "monotonic", lambda: next(now))
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    progress = runner.Progress(2, terminal)
    for fraction in (0.5, 0.8, 1.8):
        progress.show(fraction, "x" * 100)
    first, second, third = terminal.getvalue().split("\r\033[K")[1:]
    assert ("5 min left" in first, "5 min left" in second, "50 s left" in third) == (True, True, True)
    assert max(map(len, (first, second, third))) < 80


# The command.
TINY = ("--maps", "8x6x5", "--k", "3", "--quick", "--device", "cpu")
FEW = ("--baselines", "eager-nchw", "eager-channels-last", "shifts")


def test_a_baseline_that_would_corrupt_the_heap_is_not_run(tmp_path: Path) -> None:
    """The weight gradient of kernels taller than the map, in float32 on a CPU: see gcnbench.onednn."""
    path = tmp_path / "out.json"
    command = [
        "--maps",
        "8x12x6",
        "--k",
        "25",
        "--quick",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        *FEW,
        "--mode",
        "fwd",
        "fwdbwd",
    ]
    assert bench_gcn.main([*command, "--json", str(path)]) == 0
    rows = [Row(**fields) for fields in json.loads(path.read_text())["rows"]]
    baselines_of = {mode: [r for r in rows if r.kind == "baseline" and r.mode == mode] for mode in ("fwd", "fwdbwd")}
    assert len(baselines_of["fwdbwd"]) == 3
    assert all(r.status == "unavailable" and "corrupts the heap" in str(r.reason) for r in baselines_of["fwdbwd"])
    assert all(r.status == "ok" for r in rows if r.kind == "fused" or r.mode == "fwd")


def test_command_from_another_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "bench_gcn.py"), *TINY, *FEW, "--mode", "fwd", "bwd", "fwdbwd"]
    run = subprocess.run(
        [*command, "--json", "out.json", "--csv", "out.csv"], cwd=tmp_path, capture_output=True, text=True, timeout=1200
    )
    assert run.returncode == 0, run.stdout + run.stderr
    content = json.loads((tmp_path / "out.json").read_text())
    rows = [Row(**fields) for fields in content["rows"]]
    shown = run.stdout.splitlines()
    assert all(r.line() in run.stdout for r in rows)
    assert shown[0].startswith("CPU ")
    assert content["machine"]["CPU"] in shown[0]
    assert "Geometric means over the maps" in shown
    backends_shown = [r.backend for r in rows if r.mode == "fwdbwd"]
    assert backends_shown[:4] == ["direct floor", "eager NCHW", "eager channels_last", "matmul+shifts"]
    assert all(name.startswith("fused ") for name in backends_shown[4:])
    assert len(rows) == 3 * 6
    for r in rows:
        assert r.status == "ok"
        assert r.ms is not None
        if r.kind != "floor":
            assert r.ms == clock.spread(r.times_ms)[0]
            assert r.peak_bytes is not None
            assert r.error is not None
    with (tmp_path / "out.csv").open() as file:
        assert [(r["backend"], r["mode"], r["k"]) for r in csv.DictReader(file)] == [(r.backend, r.mode, str(r.k)) for r in rows]


@contextlib.contextmanager
def interrupts_not_ignored() -> Iterator[None]:
    """What a shell starts in the background ignores Ctrl-C, and so does what that starts; pytest may be in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt(run: subprocess.Popen[str]) -> None:
    """Ctrl-C, again if nothing came of it: Python loses an interrupt that arrives while an object is destroyed."""
    for _ in range(5):
        run.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(120)
            return


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("how", ["interrupted", "closed"])
def test_a_run_that_is_broken_off_keeps_what_it_has(tmp_path: Path, how: str) -> None:
    """Ctrl-C, and a reader such as head that wants no more lines.

    The program notices a closed reader with its next line: how far it is by then depends on the machine. Of a pipe that holds a
    page it cannot be further than about 20 maps: there it waits until the reader has closed it.
    """
    maps = [f"{channels}x6x5" for channels in range(8, 72)]
    command = [sys.executable, str(BENCHMARKS / "bench_gcn.py"), "--maps", *maps, "--k", "3", "--device", "cpu"]
    command += ["--baselines", "eager-nchw", "--mode", "fwd", "--json", "out.json", "--csv", "out.csv"]
    command += ["--budget", "0.01" if how == "closed" else "1000000"]
    with interrupts_not_ignored():
        run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pipesize=4096)
    assert run.stdout is not None and run.stderr is not None
    while not (line := run.stdout.readline()).startswith("-- fwd" if how == "closed" else "# "):
        assert line or run.poll() is None, run.stderr.read()
    if how == "closed":
        run.stdout.close()
    else:
        interrupt(run)
    errors = run.stderr.read()
    assert run.wait(600) == (141 if how == "closed" else 130), errors
    assert "Traceback" not in errors
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["finished"] is False
    names = [fields["backend"] for fields in content["rows"]]
    done = len(names) // 4
    assert names == ["direct floor", "eager NCHW", "fused cpu NCHW", "fused cpu channels_last"] * done
    assert (1 <= done < len(maps)) if how == "closed" else done == 0


def results_of(arguments: Sequence[str], path: Path) -> tuple[int, list[Row]]:
    status = bench_gcn.main([*TINY, *arguments, "--json", str(path)])
    return status, [Row(**fields) for fields in json.loads(path.read_text())["rows"]]


@pytest.mark.parametrize("mode", ["fwd", "bwd"])
def test_a_wrong_result_is_shown_not_timed_and_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    right = gcn_kernels.fused_gcn

    def wrong(x: Tensor, *parameters: Tensor, **options: str) -> Tensor:
        y = right(x, *parameters, **options)
        return y * 1.001 if x.is_contiguous() else y

    monkeypatch.setattr(gcn_kernels, "fused_gcn", wrong)
    status, rows = results_of([*FEW, "--mode", mode], tmp_path / "out.json")
    assert status == 1
    by_layout = {r.layout: r for r in rows if r.kind == "fused"}
    assert (by_layout["NCHW"].status, by_layout["NCHW"].times_ms) == ("failed", [])
    assert by_layout["channels_last"].status == "ok"
    shown = capsys.readouterr().out
    assert "FAILED: wrong result: error of" in shown
    assert shown.splitlines()[-1].startswith("FAILED: 8x6x5, batch 1, k 3, float32")


def test_an_error_in_the_operator_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*tensors: Tensor, **options: str) -> Tensor:
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr(gcn_kernels, "fused_gcn", broken)
    status, rows = results_of(["--baselines", "none", "--mode", "fwd"], tmp_path / "out.json")
    assert status == 1
    assert {r.reason for r in rows if r.kind == "fused"} == {"RuntimeError: no such kernel"}


def test_a_wrong_baseline_fails_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variant = baselines.BASELINES["shifts"]
    wrong = type(variant)("wrong", False, "NCHW", lambda inputs, mode: lambda: (torch.zeros_like(inputs.dy),))
    monkeypatch.setitem(baselines.BASELINES, "shifts", wrong)
    status, rows = results_of(["--baselines", "shifts", "--mode", "fwd"], tmp_path / "out.json")
    assert status == 1
    assert next(r.status for r in rows if r.backend == "wrong") == "failed"


def test_without_a_compiler_the_row_tells_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_compiler(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("C++ compiler not found")

    monkeypatch.setattr(torch, "compile", no_compiler)
    status, rows = results_of(["--baselines", "compile-nchw", "eager-nchw", "--mode", "fwd"], tmp_path / "out.json")
    assert status == 0
    compiled = next(r for r in rows if r.backend == "compile NCHW")
    assert compiled.status == "unavailable"
    assert " ".join(compiled.line().split()).endswith("not run: torch.compile failed: RuntimeError: C++ compiler not found")


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    several, single = tmp_path / "several.svg", tmp_path / "single.png"
    rows = table("a", 8.0, 10.0, 4.0)
    plot.draw(single, rows, "bars")
    wide = table("a", 9.0, 11.0, 5.0)
    for r in wide:
        r.k = 31
    plot.draw(several, rows + wide, "against k")
    assert "kernel size k" in several.read_text() or several.stat().st_size > 10_000
    assert single.read_bytes()[1:4] == b"PNG"


def test_a_plot_shows_k_spread_and_few_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure
    kept: list[Any] = []
    monkeypatch.setattr(figure, "savefig", lambda self, path: kept.append(self))
    bars = table("a", 8.0, 10.0, 4.0)
    for r in bars:
        r.ms_p20, r.ms_p80 = r.ms, 2 * (r.ms or 0)
    plot.draw(tmp_path / "bars.png", bars, "bars")
    axis = kept[0].axes[0]
    assert f"k {bars[0].k}, " in axis.get_title() and kept[0].legends and not axis.get_legend()
    ends = [segment[1][0] for segment in axis.containers[0].lines[2][0].get_segments()]
    assert ends == pytest.approx([r.ms_p80 for r in bars if r.kind != "floor"])

    rows = []
    for k in (7, 15):
        floor, eager, _, fused = table("a", 8.0, 10.0, 4.0)
        # Eight baselines, two of which lie on each other.
        others = [replace(eager, backend=f"baseline {i}", ms=10.0 * max(i, 1)) for i in range(8)]
        rows += [replace(r, k=k) for r in (floor, fused, *others)]
    plot.draw(tmp_path / "k.png", rows, "lines")
    axis = kept[1].axes[0]
    names = [text.get_text() for text in kept[1].legends[0].get_texts()]
    assert names == [FLOOR, fused.backend, "baseline 0", "baseline 2", "baseline 3"] and len(names) == plot.LINES
    assert "5 that are slower or lie on these" in kept[1].get_suptitle()
    assert axis.get_xscale() == "log" and [t.get_text() for t in axis.get_xticklabels()] == ["7", "15"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", "4"], "expected an odd kernel size, got '4'"),
        (["--k", "-3"], "expected an odd kernel size"),
        (["--maps", "8x8"], "expected CxHxW"),
        (["--maps", "8x8x8", "--preset", "paper"], "expected one of them, got both"),
        (["--batch", "0"], "expected a whole number of at least 1, got '0'"),
        (["--threads", "x"], "expected a whole number of at least 1, got 'x'"),
        (["--budget", "-1"], "expected a number of seconds above 0"),
        (["--dtype", "int8"], "invalid choice: 'int8'"),
        (["--mode", "sideways"], "invalid choice: 'sideways'"),
        (["--backend", "gpu"], "invalid choice: 'gpu'"),
        (["--backend", "cuda"], "--backend cuda --algo auto: backend='cuda' cannot run"),
        (["--algo", "fft", "--dtype", "float64"], "the frequency domain computes in float32"),
        (["--backend", "torch", "--algo", "direct"], "algo='direct' is an algorithm of the CPU kernels"),
        (["--baselines", "none", "shifts"], "all and none stand alone"),
        (["--baselines", "onnxruntime", "--mode", "bwd"], "expected a --mode that it can do, fwd, got bwd"),
        (["--json", "missing/out.json"], "the folder missing does not exist"),
        (["--json", "out.txt", "--csv", "out.txt"], "expected different files"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_gcn.environment, "set_flags", lambda *args: pytest.fail("the benchmark started"))
    with pytest.raises(SystemExit) as stop:
        bench_gcn.main(["--device", "cpu", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--csv", "--plot"])
def test_existing_files_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    monkeypatch.setattr(plot, "missing", lambda: None)
    path = tmp_path / "out.png"
    path.write_text("precious")
    with pytest.raises(SystemExit):
        options.parse([option, str(path), "--device", "cpu"], "")
    assert "exists; --force overwrites it" in capsys.readouterr().err
    assert options.parse([option, str(path), "--device", "cpu", "--force"], "").plan.problems
    assert path.read_text() == "precious"


def test_plot_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        options.parse(["--plot", str(tmp_path / "out.png"), "--device", "cpu"], "")
    assert "needs matplotlib: pip install 'gcn-kernels[plot]'" in capsys.readouterr().err


def test_defaults_are_the_papers_maps_and_all_baselines() -> None:
    plan = options.parse(["--device", "cpu", "--k", "15"], "").plan
    assert [problem.map for problem in plan.problems] == list(PRESETS["paper"])
    assert plan.modes == ["fwd", "fwdbwd"]
    names = [variant.name for variant in plan.variants if not variant.ours]
    assert names[:6] == [
        "eager NCHW",
        "eager channels_last",
        "compile NCHW",
        "compile channels_last",
        "padded to 8",
        "matmul+shifts",
    ]
    assert [variant.layout for variant in plan.variants if variant.ours] == ["NCHW", "channels_last"]


def test_quick_takes_two_maps_of_a_preset_and_all_that_are_named() -> None:
    quick = ["--device", "cpu", "--quick"]
    assert [problem.map.name for problem in options.parse(quick, "").plan.problems] == ["res-4", "res-5"]
    assert len(options.parse([*quick, "--maps", "1x1x1", "2x2x2", "3x3x3"], "").plan.problems) == 3


def test_classes_and_order_of_problems() -> None:
    arguments = ["--device", "cpu", "--preset", "wide", "--classes", "5", "--batch", "2", "1", "2", "--k", "3"]
    plan = options.parse(arguments, "").plan
    assert {(problem.map.mid, problem.map.out) for problem in plan.problems} == {(5, 5)}
    assert [problem.batch for problem in plan.problems] == [2, 2, 2, 1, 1, 1]


def test_fused_names_tell_backend_algorithm_and_layout() -> None:
    assert fused("torch", "auto", "NCHW", CPU).name == "fused torch NCHW"
    inputs = make_inputs(ODD, CPU, seed=0)
    (y,) = fused("torch", "auto", "NCHW", CPU).prepare(inputs, "fwd")()
    torch.testing.assert_close(y, reference.gcn(*inputs.tensors))
