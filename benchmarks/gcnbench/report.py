"""Rows, the table they are printed in, geometric means, and the same as JSON and CSV.

``%floor`` is the direct floor over the measured time: 100 is the fastest that any direct algorithm could be, more is
possible only for one that is not direct. ``x best`` is the time of the fastest baseline over that of the row: above 1 the
row is faster than every baseline. ``GFLOP/s`` counts the operations of the direct algorithm. ``error`` is the largest of
all results, gradients too.
"""

import csv
import json
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gcnbench.baselines import PLAIN

FLOOR = "direct floor"
#: Of a baseline, which is direct.
BEATS_FLOOR = (
    "faster than the floor, which is as good as the matmul rate: the processor ran faster here than while that was measured, "
    "or products are made in another way (oneDNN packs weights once, and leaves out what the padding multiplies)"
)
#: Columns of a terminal that the table fits into.
WIDTH = 80
_NAME = 23
_COLUMNS = f"{'backend':<{_NAME}} {'ms [p20, p80]':>19} {'GFLOPS':>6} {'%floor':>6} {'x best':>6} {'peak MB':>7} {'error':>7}"
_LEGEND = """ms:      median of all rounds, 20th and 80th percentile
GFLOPS:  operations of the direct algorithm in 1e9 a second, whatever is done
%floor:  direct floor over the time; the floor is those operations at the matmul
         rate above (GPU: or the bytes at the copy rate, if that takes longer)
x best:  time of the fastest baseline over the time; above 1.00 is faster than
         every baseline
error:   largest difference from float64 over the largest value, the worst of
         all results"""


_OR_BYTES = "or the bytes at the copy rate, if that takes longer"


@dataclass
class Row:
    """One way to compute one problem in one mode. None where there is nothing to tell.

    Attributes:
        kind: ``fused``, ``baseline``, ``base`` (the fused operator of another commit) or ``floor``.
        status: ``ok``, ``failed`` (wrong result or an error in the fused operator) or ``unavailable`` (a baseline).
        reason: why it was not timed.
        remark: what is special about its timing.
        ratio: time of the fastest baseline over this one.
        base: the row of another commit that is the same call.
        ratio_base: its time over this one's, round by round: median, 20th and 80th percentile.
        peak_bytes: see :mod:`gcnbench.memory`; the larger of the following two.
        error: largest of ``errors``.
        times_ms: every measured call.
    """

    map: str
    channels: int
    height: int
    width: int
    mid: int
    out: int
    batch: int
    k: int
    dtype: str
    mode: str
    backend: str
    kind: str
    layout: str | None = None
    status: str = "ok"
    reason: str | None = None
    remark: str | None = None
    ms: float | None = None
    ms_p20: float | None = None
    ms_p80: float | None = None
    gflops: float | None = None
    percent_of_floor: float | None = None
    ratio: float | None = None
    base: str | None = None
    ratio_base: float | None = None
    ratio_base_p20: float | None = None
    ratio_base_p80: float | None = None
    peak_bytes: int | None = None
    peak_allocated: int | None = None
    peak_resident: int | None = None
    error: float | None = None
    errors: dict[str, float] = field(default_factory=dict)
    times_ms: list[float] = field(default_factory=list)

    def line(self) -> str:
        """The row as the table shows it; what does not fit is folded."""
        start = f"{folded(self.backend)} "
        if self.status != "ok":
            text = f"{'FAILED' if self.status == 'failed' else 'not run'}: {self.reason}"
            *above, start = start.split("\n")
            return "\n".join([*above, textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start))])
        # One call has no spread.
        spread = "" if len(self.times_ms) < 2 else f" [{_ms(self.ms_p20)}, {_ms(self.ms_p80)}]"
        remark = (
            "" if self.remark is None else "\n" + textwrap.fill(self.remark, WIDTH, initial_indent="  ", subsequent_indent="  ")
        )
        if self.ratio_base is not None:
            low, high = (_number(value, ".2f") for value in (self.ratio_base_p20, self.ratio_base_p80))
            remark += f"\n  x base: {self.ratio_base:.3f}" + (f" [{low}, {high}]" if len(self.times_ms) > 1 else "")
        megabytes = None if self.peak_bytes is None else self.peak_bytes / 1e6
        ratio = _number(self.ratio, ".2f" if (self.ratio or 0) < 100 else ".0f")
        return (
            f"{start}{_ms(self.ms) + spread:>19} {_number(self.gflops, '.0f'):>6} {_number(self.percent_of_floor, '.0f'):>6} "
            f"{ratio:>6} {_number(megabytes, '.1f'):>7} {_number(self.error, '.1e'):>7}{remark}"
        )


@dataclass
class Mean:
    """Geometric means of one backend over the maps of one problem size. None where a factor is missing.

    Attributes:
        k: None for a mean over all of them.
        maps: how many maps it was timed on, of ``of_maps``.
        ratio: against the fastest baseline of each map.
        worst: the smallest of these ratios.
        ratio_plain: against the fastest of eager and compiled PyTorch of each map.
        ratio_base: against the same call of another commit.
        percent_of_floor: direct floor over time.
    """

    batch: int
    k: int | None
    dtype: str
    mode: str
    backend: str
    kind: str
    maps: int
    of_maps: int
    ratio: float | None
    worst: float | None
    ratio_plain: float | None
    ratio_base: float | None
    percent_of_floor: float | None


def heading(memory: bool = False) -> str:
    """What the columns mean, and the table's head; ``memory``: the floor counts bytes on a CPU too."""
    legend = _LEGEND.replace("(GPU: or the bytes at the copy rate, if that takes longer)", _OR_BYTES) if memory else _LEGEND
    return f"{legend}\n\n{_COLUMNS}\n{'-' * WIDTH}"


def fill_in(rows: Sequence[Row], flops: int, floor_ms: float) -> None:
    """Compute what follows from the times of all ``rows`` of one problem and mode."""
    best = _best(rows, lambda row: row.kind == "baseline")
    for row in rows:
        if row.ms is not None:
            row.gflops = flops / row.ms / 1e6
            row.percent_of_floor = 100 * floor_ms / row.ms
            row.ratio = None if best is None else best / row.ms
            if row.kind == "baseline" and row.percent_of_floor > 100 and row.remark is None:
                row.remark = BEATS_FLOOR


def geometric_means(rows: Iterable[Row], by_k: bool = True) -> list[Mean]:
    """One mean per problem size (or over all k), mode and backend, in the order of the table."""
    groups: dict[tuple[int, int | None, str, str], dict[str, list[Row]]] = {}
    for row in rows:
        if row.kind != "floor":
            by_map = groups.setdefault((row.batch, row.k if by_k else None, row.dtype, row.mode), {})
            by_map.setdefault(row.map, []).append(row)
    means = []
    for (batch, k, dtype, mode), by_map in groups.items():
        plain = {name: _best(group, lambda row: row.backend in PLAIN) for name, group in by_map.items()}
        everyone = dict.fromkeys(row.backend for group in by_map.values() for row in group)
        for backend in everyone:
            timed = [r for group in by_map.values() for r in group if r.backend == backend and r.ms is not None]
            if not timed:
                continue
            ratios = [r.ratio for r in timed]
            against_plain = [None if (p := plain[r.map]) is None or r.ms is None else p / r.ms for r in timed]
            known = [r for r in ratios if r is not None]
            means.append(
                Mean(
                    batch,
                    k,
                    dtype,
                    mode,
                    backend,
                    timed[0].kind,
                    len(timed),
                    len(by_map),
                    _geometric(ratios),
                    min(known) if known else None,
                    _geometric(against_plain),
                    _geometric([r.ratio_base for r in timed]),
                    _geometric([r.percent_of_floor for r in timed]),
                )
            )
    return means


def means_table(means: Sequence[Mean]) -> str:
    """The geometric means as printed last."""
    lines = ["Geometric means over the maps"]
    size: tuple[int, int | None, str] | None = None
    for mean in means:
        if size != (mean.batch, mean.k, mean.dtype):
            size = (mean.batch, mean.k, mean.dtype)
            lines += [
                f"batch {mean.batch}, " + ("" if mean.k is None else f"k {mean.k}, ") + mean.dtype,
                f"  {'mode':<6} {'backend':<{_NAME}} {'x best':>6} {'worst':>6} {'x eager/compile':>15} {'%floor':>6}  maps",
            ]
        lines.append(
            f"  {mean.mode:<6} {folded(mean.backend, 9)} {_number(mean.ratio, '.2f'):>6} {_number(mean.worst, '.2f'):>6} "
            f"{_number(mean.ratio_plain, '.2f'):>15} {_number(mean.percent_of_floor, '.0f'):>6}  {mean.maps} of {mean.of_maps}"
        )
    against_base = [mean for mean in means if mean.ratio_base is not None]
    if against_base:
        lines.append("Against the base, time of its same call over that of the row, round by round")
    for mean in against_base:
        size_name = f"batch {mean.batch}, k {mean.k}, {mean.dtype}"
        lines.append(f"  {mean.mode:<6} {folded(mean.backend, 9)} {_number(mean.ratio_base, '.3f'):>6} x base, {size_name}")
    return "\n".join(lines)


def write_json(path: Path, header: dict[str, object], rows: Sequence[Row], means: Sequence[Mean]) -> None:
    """Everything the table shows, and every single time."""
    content = {**header, "rows": [asdict(row) for row in rows], "geometric_means": [asdict(mean) for mean in means]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line per row, without the single times and errors."""
    with path.open("w", newline="") as file:
        names = [name for name in asdict(rows[0]) if name not in ("errors", "times_ms")]
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def folded(name: str, before: int = 0) -> str:
    """A backend's name as wide as its column, which starts after ``before`` others; a longer one stands above its row."""
    return f"{name:<{_NAME}}" if len(name) <= _NAME else f"{name}\n{' ' * (before + _NAME)}"


def _best(rows: Iterable[Row], chosen: Callable[[Row], bool]) -> float | None:
    return min((row.ms for row in rows if row.ms is not None and chosen(row)), default=None)


def _geometric(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return math.exp(sum(map(math.log, known)) / len(known))


def _ms(value: float | None) -> str:
    """Three digits or four."""
    if value is None or value >= 1000:
        return _number(value, ".0f")
    return _number(value, ".3f" if value < 1 else ".2f" if value < 10 else ".1f")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
