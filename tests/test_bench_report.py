"""What the benchmark shows: rows, ratios, means, progress, plots."""

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gcnbench import plot, report, runner
from gcnbench.report import FLOOR, Row


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
