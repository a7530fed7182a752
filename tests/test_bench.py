"""The benchmark's command: that it compares like with like, refuses to time what is wrong, keeps what it has, tells mistakes."""

import contextlib
import csv
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import bench_gcn
import pytest
import torch
from gcnbench import baselines, clock, environment, options, plot
from gcnbench.problems import PRESETS
from gcnbench.report import Row
from torch import Tensor

import gcn_kernels

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")


def test_a_copy_without_its_repository_is_told_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_output", lambda *command: "")
    assert environment.describe(CPU)["gcn_kernels"].endswith("commit unknown")
    monkeypatch.setenv("GCN_KERNELS_COMMIT", "0123456789ab")
    assert "commit 0123456789ab as GCN_KERNELS_COMMIT says" in environment.describe(CPU)["gcn_kernels"]


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
