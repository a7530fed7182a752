"""The benchmark on drawn problems: what it draws, that it counts what is lost, and that it runs."""

import json
from pathlib import Path

import bench_drawn
import pytest
import torch
from gcnbench.clock import Budget
from gcnbench.drawn import EAGER, FUSED, Range, Result, crashes_in_pytorch, draw, summary
from gcnbench.problems import Map, Problem

from gcn_kernels.core import backends


def test_problems_are_drawn_within_their_ranges_and_the_same_every_time() -> None:
    limits = Range(gflop=0.5)
    problems = [draw(3, number, torch.float32, limits) for number in range(200)]
    assert problems == [draw(3, number, torch.float32, limits) for number in range(200)]
    assert len(set(problems)) == 200
    for p in problems:
        sizes = {"channels": p.map.channels, "middle": p.map.mid, "out": p.map.out, "k": p.k, "batch": p.batch}
        for name, size in {**sizes, "side": p.map.height}.items():
            low, high = getattr(limits, name)
            assert low <= size <= high, (name, p)
        assert p.k % 2 == 1 and p.flops("fwd") <= 0.5e9
    # Short and long kernels, square maps and others.
    assert (
        {p.k <= 5 for p in problems}
        == {p.k >= 33 for p in problems}
        == {p.map.height == p.map.width for p in problems}
        == {True, False}
    )


def result(eager: float, eager_cl: float, fused: float, fused_cl: float) -> Result:
    times = (eager, eager_cl, fused, fused_cl)
    return Result(draw(0, 0, torch.float32), "fwd", dict(zip((*EAGER.values(), *FUSED.values()), times, strict=True)), "fft")


def test_the_faster_layout_of_each_counts() -> None:
    assert result(8, 4, 3, 2).ratio == 2
    assert result(3, 4, 6, 7).ratio == 0.5
    lines = list(summary([result(8, 4, 3, 2), result(3, 4, 6, 7), result(1, 2, 1, 2)], worst=2))
    assert lines[0] == "float32 fwd: 3 problems, geometric mean 1.000, least 0.500, 1 below 0.95"
    assert lines[-2].endswith(" 0.50") and lines[-1].endswith(" 1.00")


@pytest.mark.parametrize(("ratios", "taken"), [((2.0,), 2.0), ((0.9, 0.97), 0.97), ((0.9, 0.8), 0.8)])
def test_what_seems_lost_is_timed_again_and_that_counts(
    monkeypatch: pytest.MonkeyPatch, ratios: tuple[float, ...], taken: float
) -> None:
    budgets: list[float] = []

    def measure(problem: Problem, mode: str, algos: object, budget: Budget, seed: int) -> Result:
        budgets.append(budget.seconds)
        return result(ratios[len(budgets) - 1], 9, 1, 9)

    monkeypatch.setattr(bench_drawn, "measure", measure)
    assert bench_drawn.measured(draw(0, 0, torch.float32), "fwd", (), 0.5, 0).ratio == taken
    assert budgets == [0.5, 3.0][: len(ratios)]


def test_pytorchs_backward_pass_is_left_out_where_it_may_end_the_process() -> None:
    low, high = (Problem(Map("", 512, side, side, 103, 2), 1, 45, torch.float32) for side in (10, 64))
    assert crashes_in_pytorch(low, "fwdbwd")
    assert not crashes_in_pytorch(low, "fwd") and not crashes_in_pytorch(high, "fwdbwd")


@pytest.mark.skipif(backends.why_not("cpu", "cpu") is not None, reason=str(backends.why_not("cpu", "cpu")))
def test_a_run_prints_and_writes_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.json"
    # The machine may be busy, so that a problem of a few microseconds is lost: the exit status says so and nothing else.
    status = bench_drawn.main(["--count", "2", "--gflop", "0.001", "--budget", "0.001", "--algo", "direct", "--json", str(file)])
    written = json.loads(file.read_text())["results"]
    assert status == int(any(row["ratio"] < 0.95 for row in written))
    assert {row["mode"] for row in written} == {"fwd", "fwdbwd"}
    assert set(written[0]["ms"]) == {*EAGER.values(), *FUSED.values(), "direct NCHW", "direct channels_last"}
    printed = capsys.readouterr().out
    assert "geometric mean" in printed and "the worst 10:" in printed
    assert {row["algo"] for row in written} <= {"torch", "direct", "fft"}
    with pytest.raises(SystemExit):
        bench_drawn.main(["--json", str(file)])
    assert "exists; --force overwrites it" in capsys.readouterr().err
