"""Pictures of a run: time against k where there are several k, bars otherwise. Needs matplotlib (the extra ``plot``)."""

import importlib
import importlib.util
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gcnbench.report import FLOOR, Row

#: Formats that every installation of matplotlib can write.
SUFFIXES = (".png", ".svg", ".pdf")


def missing() -> str | None:
    """What has to be installed for plots, or None."""
    if importlib.util.find_spec("matplotlib") is None:
        return "needs matplotlib: pip install 'gcn-kernels[plot]'"
    return None


#: More lines than this cannot be told apart: the others are counted.
LINES = 5
#: Lines that differ less than by this factor lie on each other.
APART = 1.12
#: Told apart by colour-blind eyes; each line has a mark of its own as well.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00")
MARKS = ("o", "s", "^", "D", "v")


def draw(path: Path, rows: Sequence[Row], title: str) -> None:
    """One panel per map, batch, dtype and mode (and k, where there is one), written to ``path``; error bars are p20 to p80."""
    figure_class = importlib.import_module("matplotlib.figure").Figure
    several = len({row.k for row in rows}) > 1
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if row.ms is not None:
            k = "" if several else f"k {row.k}, "
            panels.setdefault(f"{row.map}, {k}batch {row.batch}, {row.dtype}, {row.mode}", []).append(row)
    columns = min(2, len(panels)) or 1
    lines = -(-len(panels) // columns) or 1
    size = 6.5 * columns, 3.8 * lines + 0.8
    figure = figure_class(figsize=size, dpi=120, layout="constrained")
    # Side by side, times are compared by eye: the axes are the same.
    axes = figure.subplots(lines, columns, squeeze=False, sharex=several, sharey=several)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    drawn, left_out = _chosen([row for group in panels.values() for row in group])
    for axis, (name, group) in zip(axes.flat, panels.items(), strict=False):
        _time_against_k(axis, group, drawn) if several else _bars(axis, group)
        axis.set_title(name, fontsize="medium")
    handles = {label: h for axis in axes.flat for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    note = f"; {left_out} that are slower or lie on these: in the table" if several and left_out else ""
    figure.suptitle(f"{title}\nmedian, bars from p20 to p80{note}", fontsize="medium")
    figure.savefig(path)


def _chosen(rows: Sequence[Row]) -> tuple[list[str], int]:
    """The lines that are drawn beside the floor, in their order in the table, and how many are not.

    The fastest fused variant, the fastest baseline, then whatever is fastest (in the geometric mean of its times over the
    best of their problem) and does not lie on a line that is drawn.
    """
    best: dict[tuple[object, ...], float] = {}
    logs: dict[str, dict[tuple[object, ...], float]] = {}
    kinds = {row.backend: row.kind for row in rows if row.kind != "floor"}
    for row in rows:
        if row.ms is not None and row.kind != "floor":
            problem = (row.map, row.batch, row.dtype, row.mode, row.k)
            logs.setdefault(row.backend, {})[problem] = math.log(row.ms)
            best[problem] = min(best.get(problem, math.inf), math.log(row.ms))

    def distance(a: Mapping[tuple[object, ...], float], b: Mapping[tuple[object, ...], float]) -> float:
        return statistics.fmean(abs(a[p] - b[p]) for p in a if p in b) if a.keys() & b.keys() else math.inf

    order = sorted(logs, key=lambda backend: distance(logs[backend], best))
    first = [next((b for b in order if kinds[b] == kind), None) for kind in ("fused", "baseline")]
    chosen: list[str] = []
    for backend in (b for b in (*first, *order) if b is not None):
        if len(chosen) < LINES - 1 and all(distance(logs[backend], logs[c]) > math.log(APART) for c in chosen):
            chosen.append(backend)
    return [b for b in logs if b in chosen], len(logs) - len(chosen)


def _spread(rows: Sequence[Row]) -> list[list[float]]:
    """Lengths of the error bars below and above, 0 where nothing is known of the spread."""
    known = [(row.ms or 0.0, row.ms_p20, row.ms_p80) for row in rows]
    below = [max(0.0, ms - (ms if low is None else low)) for ms, low, _ in known]
    return [below, [max(0.0, (ms if high is None else high) - ms) for ms, _, high in known]]


def _time_against_k(axis: Any, rows: Sequence[Row], drawn: Sequence[str]) -> None:
    for i, backend in enumerate([FLOOR, *drawn]):
        points = sorted((row for row in rows if row.backend == backend), key=lambda row: row.k)
        if not points:
            continue
        ks, times = [row.k for row in points], [row.ms for row in points]
        if backend == FLOOR:
            axis.plot(ks, times, label=backend, color="0.3", linestyle="--", linewidth=1.0)
        else:
            width = 2.2 if points[0].kind == "fused" else 1.2
            style = {"color": COLOURS[i - 1], "marker": MARKS[i - 1], "markersize": 5, "linewidth": width, "capsize": 3}
            axis.errorbar(ks, times, _spread(points), label=backend, **style)
    ks = sorted({row.k for row in rows})
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(ks, [str(k) for k in ks])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("kernel size k")
    axis.set_ylabel("ms")
    axis.grid(alpha=0.3)
    axis.label_outer()


def _bars(axis: Any, rows: Sequence[Row]) -> None:
    timed = [row for row in rows if row.kind != "floor"]
    colours = [COLOURS[0] if row.kind == "fused" else COLOURS[1] for row in timed]
    axis.barh(
        [row.backend for row in timed], [row.ms for row in timed], color=colours, xerr=_spread(timed), ecolor="0.2", capsize=2
    )
    for row in rows:
        if row.kind == "floor":
            axis.axvline(row.ms, label=FLOOR, color="0.3", linestyle="--")
    axis.invert_yaxis()
    axis.set_xlabel("ms")
