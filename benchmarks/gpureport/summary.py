"""What the steps have found, as one Markdown summary, CSV files and pictures; also a program that draws the pictures."""

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gcnbench import plot
from gcnbench.report import FLOOR, Row

from gpureport import correctness, measured
from gpureport.steps import Outcome

DTYPES = ("bfloat16", "float32")
#: Problems that are listed one by one.
MOST_FAILURES = 40


def write(out: Path, machine: Mapping[str, str], outcomes: Sequence[Outcome], sources: str = "unknown") -> None:
    """Write ``report.json``, CSV files and ``README.md`` from whatever files the steps have left in ``out``."""
    checked = {path.stem: correctness.read(path) for path in sorted(out.glob("*correctness*.jsonl"))}
    benchmarks = {dtype: _load(out / f"benchmark-{dtype}.json") for dtype in DTYPES}
    kernels = {path.stem.removeprefix("kernels-"): _load(path) for path in sorted(out.glob("kernels-*.json"))}
    content = {"machine": dict(machine), "sources": sources, "steps": [vars(outcome) for outcome in outcomes]}
    partial = out / "report.json.partial"
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(out / "report.json")
    _write_csv(out / "correctness.csv", [{"run": name, **row} for name, rows in checked.items() for row in rows])
    _write_csv(out / "kernels.csv", [{"generation": name, **row} for name, rows in kernels.items() for row in rows])
    plain = ("errors", "times_ms")
    rows = [row for benchmark in benchmarks.values() if benchmark for row in benchmark["rows"]]
    _write_csv(out / "benchmark.csv", [{k: v for k, v in row.items() if k not in plain} for row in rows])
    faster = measured.lines((benchmarks["bfloat16"] or {}).get("rows", []), out.name, sources)
    if benchmarks["bfloat16"]:
        (out / "measured-faster.txt").write_text("".join(f"{line}\n" for line in faster))
    parts = [
        "# GPU report",
        *_machine({**machine, "state of the CUDA sources": sources}),
        "## Steps",
        *_table(
            ("step", "what", "result", "seconds", "why"),
            [(o.name, o.what, o.status, f"{o.seconds:.0f}", o.reason) for o in outcomes],
        ),
        "## Correctness",
        *([] if checked else ["", "Not checked.", ""]),
        *(line for name, rows in checked.items() for line in ("", f"### {name}", *_correctness(rows))),
        "## Speed",
        *_speed(benchmarks),
        "## Depthwise strips",
        *_one_operator(_lines(out / "strips-check.jsonl"), _lines(out / "strips-time.jsonl")),
        "## Depthwise strips by Triton's kernels",
        *_one_operator(_lines(out / "triton-strips-check.jsonl"), _lines(out / "triton-strips-time.jsonl")),
        "## Doubling of a map",
        *_one_operator(_lines(out / "upsample-check.jsonl"), _lines(out / "upsample-time.jsonl")),
        "### By other kernels",
        *_one_operator(_lines(out / "upsample-forms-check.jsonl"), _lines(out / "upsample-forms-time.jsonl")),
        "## Boundary refinement",
        *_one_operator(_lines(out / "refine-check.jsonl"), _lines(out / "refine-time.jsonl")),
        "### Forward by the kernel of sm_90a",
        *_one_operator(_lines(out / "refine-march-check.jsonl"), _lines(out / "refine-march-time.jsonl")),
        "### In Triton",
        *_one_operator(_lines(out / "refine-triton-check.jsonl"), _lines(out / "refine-triton-time.jsonl")),
        "## Lines for kMeasuredFaster",
        *(["", "```", *faster, "```", ""] if faster else ["", "None.", ""]),
        "## Kernels against their floors",
        *(line for name, rows in kernels.items() for line in ("", f"### {name}", *_kernels(rows or []))),
    ]
    (out / "README.md").write_text("\n".join(parts) + "\n")


def draw(out: Path) -> list[Path]:
    """A picture for every benchmark."""
    drawn = []
    for dtype in DTYPES:
        if (benchmark := _load(out / f"benchmark-{dtype}.json")) is not None:
            path = out / f"benchmark-{dtype}.png"
            plot.draw(path, [Row(**row) for row in benchmark["rows"]], benchmark["machine"].get("GPU", ""))
            drawn.append(path)
    return drawn


def _load(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _one_operator(checked: Sequence[Mapping[str, Any]], timed: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many problems are within the rule, those that are not, and the times of every variant."""
    status = [row["status"] for row in checked]
    bad = [f"* {row['math']}, {row['case']}, {row['layout']}: {row['reason']}" for row in checked if row["status"] == "failed"]
    counts = ", ".join(f"{status.count(name)} {name}" for name in ("passed", "failed", "not reached"))
    names = ("problem", "mode", "variant", "us", "times the floor", "faster than eager's best")
    rows = [row for row in timed if "ms" in row]
    numbers = [(f"{r['ms'] * 1e3:.1f}", f"{r['times_floor']:.2f}", f"{r['faster_than_best_eager']:.2f}") for r in rows]
    table = [(r["problem"], r["mode"], r["variant"], *n) for r, n in zip(rows, numbers, strict=True)]
    return ["", f"{counts}." if checked else "Not checked.", "", *bad[:MOST_FAILURES], *_table(names, table)]


def _machine(machine: Mapping[str, str]) -> list[str]:
    return ["", *(f"* {name}: {value}" for name, value in machine.items()), ""]


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return ["", "Nothing.", ""]
    lines = [names, ["---"] * len(names), *rows]
    return ["", *("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines), ""]


def _correctness(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many problems are within the rule, by backend and arithmetic, and every one that is not."""
    if not rows:
        return ["", "Not checked.", ""]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row.get("backend", "process"), row["math"]].append(row)
    lines = []
    for (backend, math), group in groups.items():
        status = [row["status"] for row in group]
        shares = [row["share_of_allowed"] for row in group if "share_of_allowed" in row]
        counts = [str(status.count(name)) for name in ("passed", "failed", "crashed", "skipped")]
        lines.append((backend, math, *counts, f"{max(shares):.2f}" if shares else "-"))
    bad = [row for row in rows if row["status"] in ("failed", "crashed")]
    listed = [f"* {r['status']}: {r['math']}, {r['case']}, {r.get('layout', '')}: {r['reason']}" for r in bad[:MOST_FAILURES]]
    more = [f"* and {len(bad) - MOST_FAILURES} more in correctness.csv"] if len(bad) > MOST_FAILURES else []
    names = ("backend", "arithmetic", "passed", "failed", "crashed", "skipped", "largest error / allowed")
    return [*_table(names, lines), *listed, *more, ""]


def _speed(benchmarks: Mapping[str, Any]) -> list[str]:
    """Per problem the floor, the fastest baseline and every fused variant, in microseconds."""
    lines: list[str] = []
    for dtype, benchmark in benchmarks.items():
        if benchmark is None:
            lines += ["", f"{dtype}: not measured.", ""]
            continue
        problems: dict[tuple[int, str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in benchmark["rows"]:
            problems[row["batch"], row["map"], row["mode"]].append(row)
        table = []
        for (batch, name, mode), group in problems.items():
            timed = [row for row in group if row["ms"] is not None]
            floor = next((row["ms"] for row in timed if row["backend"] == FLOOR), None)
            baseline = min((row for row in timed if row["kind"] == "baseline"), key=lambda row: row["ms"], default=None)
            for row in (row for row in group if row["kind"] == "fused"):
                table.append(
                    (
                        name,
                        str(batch),
                        mode,
                        _microseconds(floor),
                        "-" if baseline is None else f"{_microseconds(baseline['ms'])} ({baseline['backend']})",
                        row["backend"],
                        _microseconds(row["ms"]) if row["status"] == "ok" else f"{row['status']}: {row['reason']}",
                        "-" if row["ratio"] is None else f"{row['ratio']:.2f}",
                    )
                )
        names = ("map", "batch", "pass", "floor us", "fastest baseline us", "fused", "us", "baseline / fused")
        lines += ["", f"{dtype}, k 15, medians; all rows in benchmark.csv.", *_table(names, table)]
    return lines


def _kernels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        (
            row["map"],
            str(row["batch"]),
            row["layout"],
            row["pass"],
            row["kernel"],
            f"{row['us']:.1f}",
            f"{row['floor_us']:.1f}",
            "-" if row["share_of_floor"] is None else f"{row['share_of_floor']:.2f}",
            f"{row['predicted_us']:.1f}",
        )
        for row in rows
    ]
    return _table(("map", "batch", "layout", "pass", "kernel", "us", "floor us", "floor / us", "predicted us"), lines)


def _microseconds(ms: float | None) -> str:
    return "-" if ms is None else f"{1e3 * ms:.1f}"


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plots", type=Path, required=True, help="folder of the report")
    drawn = draw(parser.parse_args().plots)
    print(*drawn, sep="\n")
    return 0 if drawn else 1


if __name__ == "__main__":
    sys.exit(main())
