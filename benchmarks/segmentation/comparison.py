"""Two networks that compute the same, timed in turns with the harness of ``bench_gcn.py``: clock, memory, header, bar, JSON."""

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

HEADING = "| part | pass | {0}, ms | {1}, ms | faster | peak MB |\n|---|---|---|---|---|---|"


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
    """Two ways to compute one part of a network in one mode."""

    part: str
    mode: str
    costs: Mapping[str, Cost]

    def __str__(self) -> str:
        first, second = self.costs.values()
        peaks = " to ".join(f"{cost.peak_bytes / 1e6:.3g}" for cost in (first, second))
        return f"| {self.part} | {self.mode} | {first} | {second} | {first.ms / second.ms:.2f}x | {peaks} |"


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
        names: of the two ways.
        rows: how many there will be.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        arguments: Sequence[str] | None,
        device: torch.device,
        names: tuple[str, str],
        rows: int,
    ) -> None:
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
        print(HEADING.format(*self._names), flush=True)
        return self

    def add(self, part: str, mode: str, jobs: Sequence[Call]) -> None:
        """Time the two ways in turns, and print their row."""
        named = dict(zip(self._names, jobs, strict=True))
        what = f"{part}, {mode}"
        self._progress.show(0, what)
        # The first call prepares.
        peaks = {name: memory.peak(job, self._device).bytes for name, job in named.items() if job() is not None}
        times = round_robin(named, self._clock, self._budget, 0, tick=lambda done: self._progress.show(done, what))
        self._progress.step()
        row = Row(part, mode, {name: Cost(*spread(times[name]), peaks[name], times[name]) for name in named})
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
