"""Results of the experiments as Markdown tables and as a plot of mIoU against k."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segmentation.experiments import GCN_SIZES, PAPER_BOUNDARY, PAPER_MIOU, TABLES
from segmentation.extras import require

#: Network -> one result for each seed.
Results = Mapping[str, Sequence[Mapping[str, Any]]]

TITLES = {
    "1": "Table 1: size of the kernel, without boundary refinement",
    "2": "Table 2: GCN against one dense k x k convolution",
    "3": "Table 3: GCN against a stack of 3 x 3 convolutions of the same reach",
    "5": "Table 5: near boundaries (7 px) and inside",
}

WORDS = {"GCN": "1 x 1 at k = 1", "dense": "one k x k", "stack": "of 3 x 3"}
#: Told apart by line and mark too, not by colour alone.
STYLES: dict[str, dict[str, Any]] = {
    "GCN": {"color": "#0072b2", "marker": "o", "linestyle": "-"},
    "dense": {"color": "#d55e00", "marker": "s", "linestyle": "--"},
    "stack": {"color": "#009e73", "marker": "^", "linestyle": ":"},
}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over the seeds, in per cent."""
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{deviation}"


def markdown(results: Results) -> str:
    """Every table of which all networks have results; this data set beside the paper's VOC 2012."""
    parts = []
    for table, experiments in TABLES.items():
        if not all(e.name in results for e in experiments):
            continue
        lines = [f"### {TITLES[table]}", ""]
        if table == "5":
            lines += [
                "| network | boundary | internal | mIoU | paper: boundary | internal | mIoU |",
                "|---|---|---|---|---|---|---|",
            ]
        else:
            lines += ["| network | parameters of the heads | mIoU | paper |", "|---|---|---|---|"]
        for experiment in experiments:
            name, found = experiment.name, results[experiment.name]
            miou = spread([r["miou"] for r in found])
            if table == "5":
                near, inside = (spread([r[key] for r in found]) for key in ("boundary", "internal"))
                paper = PAPER_BOUNDARY[name]
                lines.append(f"| {name} | {near} | {inside} | {miou} | {paper[0]} | {paper[1]} | {PAPER_MIOU[name]} |")
            else:
                lines.append(f"| {name} | {found[0]['head_parameters']:,} | {miou} | {PAPER_MIOU[name]} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def plot(results: Results, path: Path, label: str) -> None:
    """mIoU against k with the standard deviation over seeds, on the same axes as the paper's; points are moved aside a little.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = require("matplotlib.figure").Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    sizes = (1, *GCN_SIZES)
    for shift, (kind, style) in zip((0.0, 0.2, -0.2), STYLES.items(), strict=True):
        networks = [(k, "1x1" if k == 1 else f"{kind} {k}") for k in (sizes if kind == "GCN" else GCN_SIZES)]
        found = [(k, [100 * r["miou"] for r in results[n]]) for k, n in networks if n in results]
        if found:
            means = [statistics.fmean(values) for _, values in found]
            errors = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in found]
            left.errorbar([k + shift for k, _ in found], means, errors, capsize=3, **style)
        paper = [(k, PAPER_MIOU[n]) for k, n in networks if n in PAPER_MIOU]
        right.plot(*zip(*paper, strict=True), label=f"{kind} ({WORDS[kind]})", **style)
    for axes, title in ((left, label), (right, "the paper: VOC 2012 val, ResNet-152")):
        axes.set(title=title, xlabel="k", xticks=sizes)
        axes.grid(alpha=0.3)
    left.set_ylabel("mIoU, %")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def seeds(count: int) -> str:
    """The number of seeds in words.

    Example:
        >>> seeds(1), seeds(3)
        ('1 seed', '3 seeds')
    """
    return f"{count} seed{'s' * (count != 1)}"
