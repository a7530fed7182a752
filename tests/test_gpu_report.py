"""benchmarks/gpu_report.py and its parts, on a machine without a GPU: what is skipped is said, what fails stops nothing."""

import importlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import SMALL, Case

import gcn_kernels

pytest.importorskip("gpureport", reason="needs the folder benchmarks")
from gcnbench import plot
from gcnbench.clock import CpuClock
from gcnbench.problems import PRESETS, Map
from gcnbench.variants import Call, Variant
from gpureport import agenda, correctness, kernels, measured, parts, refine, steps, summary, timing, upsample, upsample_forms
from gpureport.subject import Subject

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_report.py"


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_everything_else_is_skipped_with_its_reason(tmp_path: Path) -> None:
    out = tmp_path / "report"
    done = run(SCRIPT, "--out", out, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {step["name"]: step for step in json.loads((out / "report.json").read_text())["steps"]}
    assert found.keys() == {step.name for part in agenda.parts(out, None).values() for step in part}
    assert found["info"]["status"] == "passed"
    assert "backend cuda" in (out / "logs" / "info.log").read_text()
    for name, step in found.items():
        assert name == "info" or (step["status"] == "skipped" and step["reason"])
    written = (out / "README.md").read_text()
    assert all(name in written for name in found) and "Not checked." in written
    with tarfile.open(tmp_path / "report.tar.gz") as archive:
        assert {"report/report.json", "report/logs/info.log"} <= set(archive.getnames())
    # Again, and one part alone: what has passed is not run again.
    log = (out / "logs" / "info.log").stat().st_mtime_ns
    again = run(SCRIPT, "--out", out, "--part", "A", cwd=tmp_path)
    assert again.returncode == 0 and "info" not in again.stdout.split("part A")[0]
    assert (out / "logs" / "info.log").stat().st_mtime_ns == log
    # But not where the library is another.
    content = json.loads((out / "report.json").read_text())
    (out / "report.json").write_text(json.dumps(content | {"sources": "0123456789ab"}))
    refused = run(SCRIPT, "--out", out, "--part", "A", cwd=tmp_path)
    assert refused.returncode == 2 and "take another folder" in refused.stderr


def test_a_full_folder_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    assert run(SCRIPT, "--out", tmp_path).returncode == 2


def a_step(code: str, **options: object) -> steps.Step:
    return steps.Step("trial", "a trial", [sys.executable, "-c", code], **{"seconds": 900.0, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("step", "left", "status", "says"),
    [
        (a_step("print('done')"), 900, "passed", ""),
        (a_step("raise SystemExit(4)"), 900, "failed", "exit status 4"),
        # A shell, which is there at once, and what it has started: a sleep of half an hour.
        (steps.Step("trial", "a trial", ["/bin/sh", "-c", "echo begun; sleep 1800; echo"], 4.0), 900, "timed out", "4 s"),
        (a_step("pass", why_not="no such tool"), 900, "skipped", "no such tool"),
        (a_step("pass"), 1, "skipped", "dropped"),
        (steps.Step("trial", "a trial", ["/no/such/program"], 30.0), 900, "failed", "does not start"),
    ],
    ids=["passes", "fails", "hangs", "skipped", "late", "absent"],
)
def test_what_becomes_of_a_step(step: steps.Step, left: float, status: str, says: str, tmp_path: Path) -> None:
    outcome = steps.run(step, tmp_path, {}, left)
    assert outcome.status == status and says in outcome.reason
    if status == "timed out":
        assert "begun" in (tmp_path / outcome.log).read_text() and outcome.seconds < 900


def test_long_logs_lose_their_middle(tmp_path: Path) -> None:
    steps.run(a_step("print('first'); print('x' * 200000); print('last')"), tmp_path, {}, 900)
    log = (tmp_path / "trial.log").read_text()
    assert len(log) < 1.1 * steps.LOG_BYTES and log.startswith("first") and log.endswith("last\n") and "shortened" in log


class SimulatedSteps:
    """Steps that take the time they are given or need, on a clock of their own."""

    def __init__(self, share: float, startup: float) -> None:
        self.now, self.share, self.startup = 0.0, share, startup
        self.ran: list[str] = []

    def clock(self) -> float:
        return self.now

    def do(self, step: steps.Step, left: float) -> steps.Outcome:
        limit = min(step.seconds, left)
        if limit < step.least:
            return steps.Outcome(step.name, step.what, "skipped", f"dropped: {left:.0f} s were left", 0.0, "")
        self.now += min(self.startup + self.share * step.seconds, limit)  # one that hangs is stopped
        self.ran.append(step.name)
        return steps.Outcome(step.name, step.what, "passed", "", 0.0, "")


@pytest.mark.parametrize("part", ["A", "B", "C"])
@pytest.mark.parametrize(("share", "startup"), [(0.1, 1.0), (0.5, 5.0), (1.0, 0.0), (9.0, 0.0)])
def test_a_part_keeps_to_its_time(part: str, share: float, startup: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the steps take; what is dropped is behind what is done, and the next run does it."""
    monkeypatch.setattr(agenda, "_no_hopper", lambda: None)
    chosen = [replace(step, why_not=None) for step in agenda.parts(Path(), None)[part]]
    simulated = SimulatedSteps(share, startup)
    outcomes: dict[str, steps.Outcome] = {}
    parts.run(chosen, outcomes, parts.Budget(200.0, 0.0, simulated.clock), simulated.do, lambda _: None)
    assert simulated.now <= 200.0 - parts.PACKING_SECONDS
    assert outcomes.keys() == {step.name for step in chosen}
    assert simulated.ran[0] == chosen[0].name
    dropped = {name for name, outcome in outcomes.items() if outcome.status == "skipped"}
    assert bool(dropped) == (len(simulated.ran) < len(chosen))
    first = list(simulated.ran)
    simulated.ran, simulated.now, simulated.share = [], 0.0, 0.0
    parts.run(chosen, outcomes, parts.Budget(200.0, 0.0, simulated.clock), simulated.do, lambda _: None)
    assert set(simulated.ran) == dropped and not set(first) & set(simulated.ran)


def test_a_step_that_would_have_too_little_is_dropped_and_says_so(tmp_path: Path) -> None:
    outcome = steps.run(a_step("pass", least=20.0), tmp_path, {}, 12.0)
    assert outcome.status == "skipped" and "dropped: it needs 20 s" in outcome.reason and "12 s were left" in outcome.reason


def test_lines_of_the_table_from_a_benchmark() -> None:
    def rows(channels: int, height: int, batch: int, fwd: float, fwdbwd: float, slower: str = "") -> list[dict[str, object]]:
        sizes = {"channels": channels, "height": height, "width": height, "batch": batch, "kind": "fused", "status": "ok"}
        found = []
        for generation, factor in (("portable", 1.0), ("hopper", 0.5)):
            for layout in measured.LAYOUTS:
                for mode, ms in (("fwd", fwd), ("fwdbwd", fwdbwd)):
                    worse = 4.0 if (generation, layout, mode) == ("hopper", slower, "fwd") else 1.0
                    backend = f"fused cuda {generation} {layout}"
                    found.append(sizes | {"backend": backend, "mode": mode, "ms": ms * factor * worse})
        return found

    benchmark = [*rows(256, 128, 16, 1.0, 9.0), *rows(256, 128, 1, 0.1, 0.9), *rows(2048, 16, 16, 1.0, 9.0, "NCHW")]
    benchmark.append({"kind": "fused", "status": "ok", "backend": "fused triton NCHW", "ms": 1.0})
    assert [line.split("//")[0].strip() for line in measured.lines(benchmark, "run", "abc")] == [
        '{256, 256, 16384, 262144, false, false, true, "run", "abc"},',
        '{256, 256, 16384, 262144, true, false, true, "run", "abc"},',
        '{2048, 2048, 4096, 4096, true, false, true, "run", "abc"},',
    ]


def test_a_variant_of_a_generation_asks_for_it_and_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(timing.GENERATION, raising=False)
    seen = []

    def prepare(inputs: object, mode: str) -> Call:
        def call() -> tuple[torch.Tensor, ...]:
            seen.append(os.environ.get(timing.GENERATION))
            return ()

        return call

    variant = timing.of_generation(Variant("fused cuda channels_last", True, "channels_last", prepare), "hopper")
    assert variant.name == "fused cuda hopper channels_last"
    variant.prepare(None, "fwd")()  # type: ignore[arg-type]
    monkeypatch.setenv(timing.GENERATION, "portable")
    variant.prepare(None, "fwd")()  # type: ignore[arg-type]
    assert seen == ["hopper", "hopper"] and os.environ[timing.GENERATION] == "portable"


def test_correctness_program_checks_a_backend_by_the_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, where the same program, problems and rule apply, where they are quick."""
    out = tmp_path / "correctness.jsonl"
    options = ["--out", out, "--seconds", 3600, "--device", "cpu", "--backends", "cpu", "cuda"]
    monkeypatch.setattr(sys, "argv", ["correctness", *map(str, [*options, "--sets", "views", "--math", "float32", "bfloat16"])])
    monkeypatch.setattr(correctness, "STANDSTILL_SECONDS", 3600.0)
    for name, value in agenda.environment(built_in_place=False).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(agenda.TESTS / "emu")
    monkeypatch.chdir(tmp_path)
    assert correctness.main() == 0
    rows = correctness.read(out)
    assert {row["number"] for row in rows} == set(range(len(correctness.problems(["float32", "bfloat16"], ["views"]))))
    assert {row["status"] for row in rows if row["backend"] == "cpu"} == {"passed"}
    assert {row["status"] for row in rows if row["backend"] == "cuda"} == {"skipped"}
    assert all(row["error"] <= row["allowed"] for row in rows if row["backend"] == "cpu")


def test_no_problem_is_started_after_the_end_of_the_time(tmp_path: Path) -> None:
    out = tmp_path / "correctness.jsonl"
    assert correctness.work(out, 3, 0.0, "cpu", ["cpu"], [correctness.Trial("float32", SMALL, ("nchw",))] * 5) == 0
    assert json.loads(out.read_text()) == {"number": 3, "status": "not reached"} and correctness.read(out) == []


def test_what_is_checked_and_in_which_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(agenda.TESTS / "emu")
    monkeypatch.setenv("GCN_KERNELS_GENERATION", "portable")
    everywhere = correctness.problems()
    monkeypatch.setenv("GCN_KERNELS_GENERATION", "hopper")
    asked_for = correctness.problems(["bfloat16"])
    assert {trial.case.w for trial in asked_for} >= {8, 16, 24, 32, 72, 99}
    assert len(asked_for) > len([trial for trial in everywhere if trial.math == "bfloat16"])
    assert [trial.case.name for trial in asked_for[:8]] == [f"res-{i}-batch{n}" for n in (16, 1) for i in (2, 3, 4, 5)]
    views = importlib.import_module("wild_layouts").LAYOUTS
    assert {trial.layouts for trial in asked_for[8:14]} == {(layout,) for layout in views}


@pytest.mark.parametrize("layout", ["expanded-n", "expanded-w", "overlapping", "lone"])
def test_views_are_checked_by_the_rule(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU: the values are those that the view has, and every backend is held to them."""
    monkeypatch.syspath_prepend(agenda.TESTS / "emu")
    case = Case("view", n=1 if layout == "lone" else 2, c=8, h=1 if layout == "lone" else 5, w=6, k=(3, 3, 3, 3))
    (row,) = correctness.rows_of(correctness.Trial("float32", case, (layout,)), "cpu", ["cpu"])
    assert row["status"] == "passed" and row["layout"] == layout


@pytest.mark.parametrize("math", correctness.MATHS)
def test_every_arithmetic_has_its_rule(math: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(agenda.TESTS / "emu")
    rows = list(correctness.rows_of(correctness.Trial(math, SMALL, ("nchw", "channels_last")), "cpu", ["cpu"]))
    assert len(rows) == 2 and {row["status"] for row in rows} == {"passed"}
    monkeypatch.setattr(correctness, "_operator", lambda _: lambda x, *others: gcn_kernels.reference.gcn(1.1 * x, *others))
    rows = list(correctness.rows_of(correctness.Trial(math, SMALL, ("nchw", "channels_last")), "cpu", ["cpu"]))
    assert all(row["status"] == "failed" and row["share_of_allowed"] > 1 for row in rows)


def test_a_crash_is_recorded_and_counts(tmp_path: Path) -> None:
    lines = [
        {"number": 0, "status": "started", "math": "tf32", "case": "small"},
        {"number": 0, "status": "passed", "math": "tf32", "case": "small", "backend": "cuda", "share_of_allowed": 0.5},
        {"number": 1, "status": "started", "math": "tf32", "case": "odd"},
    ]
    path = tmp_path / "correctness.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [row["status"] for row in correctness.read(path)] == ["passed", "crashed"]
    summary.write(tmp_path, {"GPU": "none"}, [])
    written = (tmp_path / "README.md").read_text()
    assert "crashed: tf32, odd" in written and "| cuda | tf32 | 1 | 0 | 0 | 0 | 0.50 |" in written


def test_kernels_meet_their_launches() -> None:
    launches = [
        {"kernel": "prepare", "gflop": 0, "mbytes": 3, "predicted_us": 4},
        {"kernel": "line_conv du", "gflop": 10, "mbytes": 1, "predicted_us": 20},
        {"kernel": "line_conv dx", "gflop": 100, "mbytes": 1, "predicted_us": 200},
        {"kernel": "combine", "gflop": 0, "mbytes": 6, "predicted_us": 5},
    ]
    measured = {"prepare": [[2.0, 2.0, 9.0]], "line_conv": [[20.0], [250.0]], "combine": [[3.0], [4.0]], "other": [[1.0]]}
    rows = kernels.compare(kernels.Found(measured, [275.0, 270.0, 290.0]), launches, 1e15, 3e12)
    names = ["prepare", "line_conv du", "line_conv dx", "combine", "other (not in the plan)", kernels.WHOLE]
    assert [row["kernel"] for row in rows] == names
    assert [row["us"] for row in rows] == [2.0, 20.0, 250.0, 7.0, 1.0, 275.0]
    assert [row["floor_us"] for row in rows] == pytest.approx([1.0, 10.0, 100.0, 2.0, 0.0, 113.0])
    assert [row["predicted_us"] for row in rows] == [4, 20, 200, 5, 0, 229]
    assert rows[2]["share_of_floor"] == pytest.approx(0.4)


def test_a_kernels_time_is_what_it_adds_to_the_critical_path() -> None:
    """Those that wait for earlier ones count from their end, those that end before them count nothing; a gap is no kernel's."""
    found = kernels.Found()
    found.add([("prepare", 10.0, 14.0), ("line_conv", 11.0, 20.0), ("line_conv", 19.0, 32.0), ("finish", 21.0, 30.0)])
    found.add([("finish", 140.0, 143.0), ("line_conv", 106.0, 109.0), ("prepare", 100.0, 105.0)])
    assert found.kernels == {"prepare": [[4.0, 5.0]], "line_conv": [[6.0, 3.0], [12.0]], "finish": [[0.0, 3.0]]}
    assert found.whole == [22.0, 43.0]


class Recorded:
    """What stands for torch.cuda: a graph is what was done while it was captured, and a replay does it again, in a trace."""

    def __init__(self) -> None:
        self.nodes: list[str] | None = None
        self.trace: list[str] = []

    def do(self, *kernels: str) -> None:
        (self.trace if self.nodes is None else self.nodes).extend(kernels)

    def CUDAGraph(self) -> "Recorded":
        return self

    def replay(self) -> None:
        assert self.nodes is not None
        self.trace.extend(self.nodes)

    def traced(self, run: Callable[[], object]) -> list[kernels.Span]:
        self.trace.clear()
        run()
        return [(name, 10.0 * i, 10.0 * i + 4.0) for i, name in enumerate(self.trace)]

    @contextmanager
    def graph(self, graph: object, stream: object) -> Iterator[None]:
        self.nodes = []
        yield

    @contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        yield

    def Stream(self) -> SimpleNamespace:
        return SimpleNamespace(wait_stream=lambda other: None)

    def current_stream(self) -> None:
        return None

    def synchronize(self) -> None:
        return None


@pytest.mark.parametrize("lost", [False, True])
def test_kernels_are_timed_in_a_replay_of_calls_that_each_find_l2_cold(lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Recorded()
    reads = iter(range(2 if lost else 1 + kernels.REPEATS))  # one to learn its name by

    def operator(*tensors: torch.Tensor, backend: str) -> torch.Tensor:
        cuda.do("void gcn::cuda::prepare_kernel<__half>(P)", "Memset (Device)", "void gcn::cuda::line_conv_kernel<__half>(P)")
        return tensors[0]

    def flush() -> None:
        if next(reads, None) is not None:
            cuda.do("at::reduce_kernel<512>", "Memset (Device)")

    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(kernels, "traced", cuda.traced)
    monkeypatch.setattr(gcn_kernels, "fused_gcn", operator)
    x = torch.zeros(1)
    inputs = SimpleNamespace(leaves=lambda: (x,), tensors=(x,), dy=x)
    if lost:
        with pytest.raises(RuntimeError, match=f"expected {kernels.REPEATS} calls in the trace of a replay, found 1"):
            kernels.measure(inputs, flush, backward=False)  # type: ignore[arg-type]
        return
    found = kernels.measure(inputs, flush, backward=False)  # type: ignore[arg-type]
    assert found.kernels == {name: [[4.0] * kernels.REPEATS] for name in ("prepare", "line_conv")}
    assert found.whole == [24.0] * kernels.REPEATS


def test_benchmark_program_saves_every_map_and_the_summary_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", (Map("tiny", 6, 9, 8, 3, 3),))
    options = ["--dtype", "float32", "--preset", "tiny", "--batch", "1", "--budget", "0.05", "--device", "cpu", "--no-compile"]
    out = tmp_path / "benchmark-float32.json"
    monkeypatch.setattr(sys, "argv", ["timing", "--out", str(out), "--seconds", "900", "--backends", "cpu", "cuda", *options])
    assert timing.main() == 0
    rows = json.loads(out.read_text())["rows"]
    assert {"fwd", "fwdbwd"} == {row["mode"] for row in rows}
    assert {"fused cpu NCHW", "eager NCHW"} <= {row["backend"] for row in rows if row["ms"]}
    summary.write(tmp_path, {"CPU": "some"}, [])
    assert "| tiny 6x9x8 | 1 | fwdbwd |" in (tmp_path / "README.md").read_text()
    if plot.missing() is None:
        assert summary.draw(tmp_path) == [tmp_path / "benchmark-float32.png"]

    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["timing", "--out", str(out), "--seconds", "-1", *options])
    assert timing.main() == 1
    assert "not reached in time: # tiny" in capsys.readouterr().out


@pytest.mark.parametrize("subject", [upsample.SUBJECT, refine.SUBJECT], ids=["upsample", "refine"])
def test_an_operator_is_checked_and_timed(subject: Subject) -> None:
    sizes, device = (1, 3, 2, 4, 5), torch.device("cpu")
    for math in ("float32", "tf32", "bfloat16"):
        found = subject.check(sizes, math, "channels_last", "cpu", device)
        assert found["status"] == "passed", found
    rows = subject.measure(sizes, "float32", ["cpu"], CpuClock(), device, 0.01, 1e9)
    assert len(rows) == 8 and all(row["ms"] > 0 and row["faster_than_best_eager"] > 0 for row in rows)
    wrong = replace(subject, run=lambda backend: lambda *given: 1.01 * subject.definition(*given))
    assert wrong.check(sizes, "float32", "NCHW", "cpu", device)["status"] == "failed"


@pytest.mark.parametrize("sizes", upsample_forms.SUBJECT.small, ids=upsample.label)
def test_every_form_of_the_doubling_is_checked(sizes: tuple[int, ...]) -> None:
    for math in ("float32", "tf32"):
        found = upsample_forms.SUBJECT.check(sizes, math, "NCHW", "cpu", torch.device("cpu"))
        assert found["status"] == "passed", found
