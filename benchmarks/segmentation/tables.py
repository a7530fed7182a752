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
    """mIoU against k with the spread over seeds, next to the paper's line.

    Raises:
        ImportError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", "matplotlib", "the plot")
    matplotlib.use("Agg")
    pyplot = require("matplotlib.pyplot", "matplotlib", "the plot")
    sizes = (1, *GCN_SIZES)
    names = ["1x1", *(f"GCN {k}" for k in GCN_SIZES)]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    for kind, marker in (("GCN", "o"), ("dense", "s"), ("stack", "^")):
        here = names if kind == "GCN" else [f"{kind} {k}" for k in GCN_SIZES]
        shown = [
            (k, [100 * r["miou"] for r in results[n]])
            for k, n in zip(sizes[len(sizes) - len(here) :], here, strict=True)
            if n in results
        ]
        if shown:
            means = [statistics.fmean(v) for _, v in shown]
            errors = [statistics.stdev(v) if len(v) > 1 else 0.0 for _, v in shown]
            left.errorbar([k for k, _ in shown], means, errors, marker=marker, capsize=3, label=kind)
        paper = [(k, PAPER_MIOU[n]) for k, n in zip(sizes[len(sizes) - len(here) :], here, strict=True) if n in PAPER_MIOU]
        right.plot(*zip(*paper, strict=True), marker=marker, label=kind)
    for axes, title in ((left, label), (right, "the paper: VOC 2012 val, ResNet-152")):
        axes.set(title=title, xlabel="k", ylabel="mIoU, %", xticks=sizes)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
