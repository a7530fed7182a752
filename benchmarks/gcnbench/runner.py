"""The order of things for one problem after the other: float64 results, then per mode prepare, check, weigh, time, show."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

import torch
from torch import Tensor

from gcnbench import check, memory, onednn, report
from gcnbench.clock import Budget, Clock, round_robin, spread
from gcnbench.environment import Rates
from gcnbench.problems import AnyProblem, Inputs
from gcnbench.report import FLOOR, Row
from gcnbench.subject import GCN, Subject
from gcnbench.variants import Call, UnavailableError, Variant, first_line, mode_context


@dataclass(frozen=True)
class Plan:
    """What is run, and how."""

    problems: Sequence[AnyProblem]
    modes: Sequence[str]
    variants: Sequence[Variant]
    device: torch.device
    budget: Budget
    seed: int
    subject: Subject = GCN


class Progress:
    """One line on a terminal that says how far the run is; nothing anywhere else."""

    WIDTH = 20
    #: A line that is longer than the terminal cannot be overwritten.
    COLUMNS = 79
    #: Before these nothing is foretold.
    SETTLED_SECONDS = 3.0

    def __init__(self, steps: int, stream: TextIO = sys.stderr) -> None:
        self._steps = steps
        self._done = 0
        self._stream = stream if stream.isatty() else None
        self._start = time.monotonic()

    def show(self, fraction: float, text: str) -> None:
        """Show ``text`` with ``fraction`` of the current step done."""
        if self._stream is not None:
            part = min((self._done + fraction) / self._steps, 1.0)
            bar = "#" * round(self.WIDTH * part)
            self._stream.write(f"\r\033[K[{bar:<{self.WIDTH}}] {100 * part:3.0f} %  {self._left(part)}{text}"[: self.COLUMNS])
            self._stream.flush()

    def _left(self, part: float) -> str:
        """How long the rest takes if it goes on like this."""
        passed = time.monotonic() - self._start
        if part < 0.02 or passed < self.SETTLED_SECONDS:
            return ""
        left = passed / part - passed
        return f"{left / 60:.0f} min left  " if left > 90 else f"{left:.0f} s left  "

    def step(self) -> None:
        """Finish a step and clear the line, so that something else can be printed."""
        self._done += 1
        if self._stream is not None:
            self._stream.write("\r\033[K")
            self._stream.flush()


def run(plan: Plan, rates: Rates, clock: Clock, rows: list[Row], write: Callable[[str], None] = print) -> None:
    """Run the whole plan.

    Args:
        plan: what is run.
        rates: make the floors.
        clock: of the plan's device.
        rows: receives every row, whatever became of it, those of a mode together: what is there if the run is broken off.
        write: receives the table, line by line.
    """
    progress = Progress(len(plan.problems) * len(plan.modes))
    subject = plan.subject
    write(report.heading(plan.subject.memory))
    for problem in plan.problems:
        write(problem.heading())
        try:
            inputs = subject.inputs(problem, plan.device, plan.seed)
        except UnavailableError as error:
            write(f"not run: {error}")
            continue
        needs_gradients = any(mode != "fwd" for mode in plan.modes)
        progress.show(0, f"{problem.map.label}: float64 results")
        expected = subject.expected(inputs, needs_gradients)
        own = check.yardstick(inputs, needs_gradients, expected, subject.plain, subject.unsafe)
        layouts = {v.layout: inputs.laid_out(v.layout) for v in plan.variants}
        for mode in plan.modes:
            with mode_context(mode):
                group = _Group(plan, problem, mode, clock, progress, expected, own)
                new = group.run(layouts, rates.floor_ms(problem, mode))
            progress.step()
            rows += new
            write(f"-- {mode}")
            for row in new:
                write(row.line())


@dataclass
class _Group:
    """One problem in one mode: the variants that are compared with each other."""

    plan: Plan
    problem: AnyProblem
    mode: str
    clock: Clock
    progress: Progress
    expected: Mapping[str, Tensor]
    own: Mapping[str, float]

    def run(self, layouts: Mapping[str, Inputs], floor_ms: float) -> list[Row]:
        # Compiled code of the problems before would count against the number of recompilations.
        torch.compiler.reset()
        variants = [variant for variant in self.plan.variants if self.mode in variant.modes]
        rows = {variant.name: self._row(variant) for variant in variants}
        calls: dict[str, Call] = {}
        for i, variant in enumerate(variants):
            self._show(0.5 * i / len(variants), f"checking {variant.name}")
            call = self._prepare(variant, layouts[variant.layout], rows[variant.name])
            if call is not None:
                calls[variant.name] = call

        armed, remarks = self.clock.arm(calls, self.mode)
        # A call in another process leaves the threads of this one asleep.
        several = any(v.own_process for v in variants)
        settle = frozenset(v.name for v in variants if v.own_threads or (several and not v.own_process))
        times = round_robin(
            armed,
            self.clock,
            self.plan.budget,
            self.plan.seed,
            settle=settle & armed.keys(),
            tick=lambda done: self._show(0.5 + 0.5 * done, "timing"),
        )
        for name, measured in times.items():
            row = rows[name]
            row.times_ms = measured
            row.ms, row.ms_p20, row.ms_p80 = spread(measured)
            row.remark = remarks.get(name)
        for variant in variants:
            if variant.base in times and variant.name in times:
                ratios = [base / own for base, own in zip(times[variant.base], times[variant.name], strict=True)]
                row = rows[variant.name]
                row.base = variant.base
                row.ratio_base, row.ratio_base_p20, row.ratio_base_p80 = spread(ratios)
        floor = self._new_row(FLOOR, "floor")
        floor.ms = floor_ms
        table = [floor, *rows.values()]
        report.fill_in(table, self.problem.flops(self.mode), floor_ms)
        return table

    def _prepare(self, variant: Variant, inputs: Inputs, row: Row) -> Call | None:
        """The variant's call if it runs and its results are right; fills in what is known before timing."""
        try:
            if not variant.ours:
                onednn.refuse(self.plan.subject.unsafe(inputs, self.mode != "fwd"))
            call = variant.prepare(inputs, self.mode)
            row.errors = check.errors(call(), self.mode, self.expected)
            row.error = max(row.errors.values())
            row.reason = check.violation(row.errors, self.own, self.problem.dtype, variant.ours and self.plan.subject.strict)
            if row.reason is not None:
                row.status = "failed"
                return None
            if not variant.own_threads and not variant.own_process:
                peak = memory.peak(call, self.plan.device)
                row.peak_bytes, row.peak_allocated, row.peak_resident = peak.bytes, peak.allocated, peak.resident
        except UnavailableError as error:
            row.status, row.reason = "unavailable", str(error)
            return None
        except Exception as error:
            row.status, row.reason = "failed" if variant.ours else "unavailable", first_line(error)
            return None
        return call

    def _row(self, variant: Variant) -> Row:
        row = self._new_row(variant.name, "fused" if variant.ours else "base" if variant.own_process else "baseline")
        row.layout = variant.layout
        return row

    def _new_row(self, backend: str, kind: str) -> Row:
        p, m = self.problem, self.problem.map
        size = (m.channels, m.height, m.width, m.mid, m.out, p.batch, p.k, p.dtype_name)
        return Row(m.label, *size, self.mode, backend, kind)

    def _show(self, fraction: float, what: str) -> None:
        self.progress.show(fraction, f"{self.problem.map.label} {self.mode}: {what}")
