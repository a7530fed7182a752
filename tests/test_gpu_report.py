"""benchmarks/gpu_report.py and its parts, on a machine without a GPU: what is skipped is said, what fails stops nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import SMALL

import gcn_kernels

pytest.importorskip("gpureport", reason="needs the folder benchmarks")
from gcnbench import plot
from gcnbench.problems import PRESETS, Map
from gpureport import agenda, correctness, kernels, steps, summary, timing

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
    assert found.keys() == {step.name for step in agenda.steps(out, agenda.SECONDS, None)}
    assert found["info"]["status"] == "passed"
    assert "backend cuda" in (out / "logs" / "info.log").read_text()
    for name, step in found.items():
        assert name == "info" or (step["status"] == "skipped" and step["reason"])
    written = (out / "README.md").read_text()
    assert all(name in written for name in found) and "Not checked." in written


def test_a_full_folder_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    assert run(SCRIPT, "--out", tmp_path).returncode == 2


def a_step(code: str, **options: object) -> steps.Step:
    return steps.Step("trial", "a trial", [sys.executable, "-c", code], **{"seconds": 30.0, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("step", "left", "status", "says"),
    [
        (a_step("print('done')"), 60, "passed", ""),
        (a_step("raise SystemExit(4)"), 60, "failed", "exit status 4"),
        (a_step("import time; print('begun', flush=True); time.sleep(60)", seconds=4.0), 60, "timed out", "4 s"),
        (a_step("pass", why_not="no such tool"), 60, "skipped", "no such tool"),
        (a_step("pass"), 1, "skipped", "used up"),
        (steps.Step("trial", "a trial", ["/no/such/program"], 30.0), 60, "failed", "does not start"),
    ],
    ids=["passes", "fails", "hangs", "skipped", "late", "absent"],
)
def test_what_becomes_of_a_step(step: steps.Step, left: float, status: str, says: str, tmp_path: Path) -> None:
    outcome = steps.run(step, tmp_path, {}, left)
    assert outcome.status == status and says in outcome.reason
    if status == "timed out":
        assert "begun" in (tmp_path / outcome.log).read_text() and outcome.seconds < 20


def test_long_logs_lose_their_middle(tmp_path: Path) -> None:
    steps.run(a_step("print('first'); print('x' * 200000); print('last')"), tmp_path, {}, 60)
    log = (tmp_path / "trial.log").read_text()
    assert len(log) < 1.1 * steps.LOG_BYTES and log.startswith("first") and log.endswith("last\n") and "shortened" in log


def test_steps_fit_into_nine_minutes() -> None:
    assert agenda.SECONDS < 540
    assert sum(step.seconds for step in agenda.steps(Path(), agenda.SECONDS, None)) <= 1.1 * agenda.SECONDS


def test_correctness_program_checks_a_backend_by_the_rule(tmp_path: Path) -> None:
    """On the CPU, where the same program, problems and rule apply; there is time for a few problems only."""
    out = tmp_path / "correctness.jsonl"
    options = ["--out", out, "--seconds", 10, "--device", "cpu", "--backends", "cpu", "cuda"]
    environment = agenda.environment(built_in_place=False)
    done = run("-m", "gpureport.correctness", *options, cwd=tmp_path, env={**os.environ, **environment})
    rows = correctness.read(out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row["status"] for row in rows if row["backend"] == "cpu"} == {"passed"}
    assert {row["status"] for row in rows if row["backend"] == "cuda"} == {"skipped"}
    assert all(row["error"] <= row["allowed"] for row in rows if row["backend"] == "cpu")


def test_hopper_kernels_have_problems_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(agenda.TESTS / "emu")
    everywhere = correctness.problems()
    monkeypatch.setenv("GCN_KERNELS_GENERATION", "hopper")
    asked_for = correctness.problems()
    assert {case.w for math, case in asked_for if math == "bfloat16"} >= {8, 16, 24, 32, 72, 99}
    assert set(everywhere) < set(asked_for) and asked_for[0] not in everywhere


@pytest.mark.parametrize("math", correctness.MATHS)
def test_every_arithmetic_has_its_rule(math: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(agenda.TESTS / "emu")
    rows = list(correctness.rows_of(math, SMALL, "cpu", ["cpu"]))
    assert len(rows) == 2 and {row["status"] for row in rows} == {"passed"}
    monkeypatch.setattr(correctness, "_operator", lambda _: lambda x, *others: gcn_kernels.reference.gcn(1.1 * x, *others))
    rows = list(correctness.rows_of(math, SMALL, "cpu", ["cpu"]))
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


def test_benchmark_program_saves_every_map_and_the_summary_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", (Map("tiny", 6, 9, 8, 3, 3),))
    options = ["--dtype", "float32", "--preset", "tiny", "--batch", "1", "--budget", "0.05", "--device", "cpu", "--no-compile"]
    out = tmp_path / "benchmark-float32.json"
    monkeypatch.setattr(sys, "argv", ["timing", "--out", str(out), "--seconds", "60", "--backends", "cpu", "cuda", *options])
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
