"""Networks that compute the same, timed in turns with the harness of ``bench_gcn.py``: clock, memory, header, bar, JSON."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import torch
from gcnbench import environment, memory
from gcnbench.clock import Budget, Clock, CpuClock, CudaClock, round_robin, spread
from gcnbench.runner import Progress
from gcnbench.variants import Call

from segmentation.settings import POSITIVE, at_least, number


@dataclass(frozen=True)
class Cost:
    """Milliseconds of one call (median, 20th and 80th percentile, all of them), and its memory on top of its arguments."""

    ms: float
    ms_p20: float
    ms_p80: float
    peak_bytes: int
    times_ms: list[float]

    def __str__(self) -> str:
        # One call has no spread.
        return f"{self.ms:.1f}" + (f" [{self.ms_p20:.1f}, {self.ms_p80:.1f}]" if len(self.times_ms) > 1 else "")


@dataclass(frozen=True)
class Row:
    """Several ways to compute one part of a network in one mode.

    Attributes:
        costs: by the name of the way; None for one that this part does not have.
        baseline: the fastest plain way.
        fused: the fastest of the others, if there is one.
    """

    part: str
    mode: str
    costs: Mapping[str, Cost | None]
    baseline: str
    fused: str | None

    def __str__(self) -> str:
        cells = [self.part, self.mode, *("-" if cost is None else str(cost) for cost in self.costs.values()), "-", "-"]
        ways = [self.costs[name] for name in (self.baseline, self.fused) if name is not None]
        first, *second = [cost for cost in ways if cost is not None]
        for cost in second:
            over = f" {self.baseline}" if len(self.costs) > 2 else ""
            cells[-2:] = f"{first.ms / cost.ms:.2f}x{over}", f"{first.peak_bytes / 1e6:.3g} to {cost.peak_bytes / 1e6:.3g}"
        return f"| {' | '.join(cells)} |"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every comparison."""
    parser.add_argument(
        "--budget", type=number(float, POSITIVE), default=4.0, metavar="S", help="seconds of timing per row (default: 4)"
    )
    parser.add_argument("--quick", action="store_true", help="hardly any timing")
    parser.add_argument("--threads", type=number(int, at_least(1)), metavar="N", help="CPU threads (default: PyTorch's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, single times included")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the script if the file of the results cannot be written; set the number of threads."""
    if options.json is not None:
        if not options.json.parent.is_dir():
            parser.error(f"--json {options.json}: the folder {options.json.parent} does not exist")
        if options.json.exists() and not options.force:
            parser.error(f"--json {options.json}: exists; --force overwrites it")
    if options.threads is not None:
        torch.set_num_threads(options.threads)


class Comparison:
    """The table of a comparison, row by row; a run that is broken off keeps the rows that are finished.

    Args:
        options: with those of :func:`add_arguments`.
        arguments: the command line.
        device: where the networks are.
        names: of the ways, plain ones first.
        rows: how many there will be.
        plain: how many of the ways are plain: the fastest of them is the baseline.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        arguments: Sequence[str] | None,
        device: torch.device,
        names: tuple[str, ...],
        rows: int,
        plain: int = 1,
    ) -> None:
        self._plain = plain
        self._options, self._device, self._names = options, device, names
        self._arguments = list(sys.argv[1:] if arguments is None else arguments)
        self._budget = Budget(0.1, 1) if options.quick else Budget(options.budget, 3)
        self._clock: Clock = CudaClock(device, "off") if device.type == "cuda" else CpuClock()
        self._machine = environment.describe(device)
        self._progress = Progress(rows)
        self._expected = rows
        self.rows: list[Row] = []

    def __enter__(self) -> "Comparison":
        for name, value in self._machine.items():
            print(f"{name:<20} {value}")
        print()
        columns = ["part", "pass", *(f"{name}, ms" for name in self._names), "faster", "peak MB"]
        print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
        return self

    def add(self, part: str, mode: str, jobs: Sequence[Call | None]) -> None:
        """Time the ways in turns, None for one that there is not, and print their row."""
        named = {name: job for name, job in zip(self._names, jobs, strict=True) if job is not None}
        what = f"{part}, {mode}"
        self._progress.show(0, what)
        # The first call prepares.
        peaks = {name: memory.peak(job, self._device).bytes for name, job in named.items() if job() is not None}
        times = round_robin(named, self._clock, self._budget, 0, tick=lambda done: self._progress.show(done, what))
        self._progress.step()
        costs = {name: Cost(*spread(times[name]), peaks[name], times[name]) for name in named}
        baseline, fused = (
            min((name for name in names if name in costs), key=lambda name: costs[name].ms, default=None)
            for names in (self._names[: self._plain], self._names[self._plain :])
        )
        if baseline is None:
            raise ValueError(f"{part}: expected a plain way to compare with, got {', '.join(named)}")
        row = Row(part, mode, {name: costs.get(name) for name in self._names}, baseline, fused)
        self.rows.append(row)
        print(row, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, BrokenPipeError):
            # Python flushes what is left at its end, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if self._options.json is not None:
            content = {
                "arguments": self._arguments,
                "machine": self._machine,
                "rows": [asdict(row) for row in self.rows],
                "finished": len(self.rows) == self._expected,
            }
            self._options.json.write_text(json.dumps(content, indent=1) + "\n")
        if isinstance(error, KeyboardInterrupt):
            print(f"\nbroken off: {len(self.rows)} rows are finished", file=sys.stderr)
            raise SystemExit(130)
        if isinstance(error, BrokenPipeError):
            raise SystemExit(141)
