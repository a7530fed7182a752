"""Pictures of a run: time against k where there are several k, bars otherwise. Needs matplotlib (the extra ``plot``)."""

import importlib
import importlib.util
from collections.abc import Sequence
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


def draw(path: Path, rows: Sequence[Row], title: str) -> None:
    """One panel per map, batch, dtype and mode, written to ``path``."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if row.ms is not None:
            panels.setdefault(f"{row.map}, batch {row.batch}, {row.dtype}, {row.mode}", []).append(row)
    several = len({row.k for row in rows}) > 1
    columns = min(2, len(panels)) or 1
    lines = -(-len(panels) // columns) or 1
    figure, axes = pyplot.subplots(lines, columns, figsize=(7 * columns, 4.2 * lines), squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (name, group) in zip(axes.flat, panels.items(), strict=False):
        _time_against_k(axis, group) if several else _bars(axis, group)
        axis.set_title(name, fontsize="medium")
    figure.suptitle(title)
    figure.savefig(path)
    pyplot.close(figure)


def _style(row: Row) -> dict[str, Any]:
    if row.kind == "floor":
        return {"color": "black", "linestyle": "--", "linewidth": 1.0}
    return {"linewidth": 2.5, "marker": "o"} if row.kind == "fused" else {"linewidth": 1.0, "marker": "."}


def _time_against_k(axis: Any, rows: Sequence[Row]) -> None:
    for backend in dict.fromkeys(row.backend for row in rows):
        points = sorted((row for row in rows if row.backend == backend), key=lambda row: row.k)
        axis.plot([row.k for row in points], [row.ms for row in points], label=backend, **_style(points[0]))
    axis.set_yscale("log")
    axis.set_xlabel("kernel size k")
    axis.set_ylabel("ms")
    axis.set_xticks(sorted({row.k for row in rows}))
    axis.legend(fontsize="x-small")


def _bars(axis: Any, rows: Sequence[Row]) -> None:
    timed = [row for row in rows if row.kind != "floor"]
    colours = ["tab:orange" if row.kind == "fused" else "tab:blue" for row in timed]
    axis.barh([row.backend for row in timed], [row.ms for row in timed], color=colours)
    for row in rows:
        if row.kind == "floor":
            axis.axvline(row.ms, label=FLOOR, color="black", linestyle="--")
            axis.legend(fontsize="x-small")
    axis.invert_yaxis()
    axis.set_xlabel("ms")
