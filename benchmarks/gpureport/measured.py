"""Lines for ``kMeasuredFaster`` (csrc/cuda/gcn/hopper/hopper_measured.h) from a benchmark of both generations in one run."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

LAYOUTS = ("NCHW", "channels_last")


def lines(rows: Sequence[Mapping[str, Any]], run: str, sources: str) -> list[str]:
    """The classes of problems in which the kernels of sm_90a were right and faster than the portable ones in both layouts.

    Backward is what a training step takes beyond the forward pass. For each number of channels, neighbouring numbers of pixels
    become one class; between them nothing was measured.

    Args:
        rows: of ``timing``, as ``gcnbench.report.Row`` has them.
        run: folder of the results under benchmarks/results.
        sources: state of the CUDA sources that were measured.
    """
    times: dict[tuple[int, int, str, str], dict[str, float]] = defaultdict(dict)
    for row in rows:
        words = str(row["backend"]).split()
        if row["kind"] == "fused" and row["status"] == "ok" and len(words) == 4 and row["ms"] is not None:
            _, _, generation, layout = words
            pixels = row["batch"] * row["height"] * row["width"]
            times[row["channels"], pixels, generation, layout][row["mode"]] = row["ms"]
    written = []
    for backward in (False, True):
        verdicts: dict[int, list[tuple[int, bool]]] = defaultdict(list)
        for channels, pixels in sorted({key[:2] for key in times}):
            pairs = [[_time(times[channels, pixels, g, layout], backward) for g in ("portable", "hopper")] for layout in LAYOUTS]
            known = [(old, new) for old, new in pairs if old is not None and new is not None]
            verdicts[channels].append((pixels, len(known) == len(pairs) and all(new < old for old, new in known)))
        for channels, points in verdicts.items():
            for first, last in _runs(points):
                # In 16 bits; what was timed had the second stage of sm_90a wherever the plan takes it.
                flags = f"{str(backward).lower()}, false, true"
                written.append(f'    {{{channels}, {channels}, {first}, {last}, {flags}, "{run}", "{sources}"}},')
    return written


def _time(modes: Mapping[str, float], backward: bool) -> float | None:
    if not backward:
        return modes.get("fwd")
    return modes["fwdbwd"] - modes["fwd"] if {"fwd", "fwdbwd"} <= modes.keys() else None


def _runs(points: Sequence[tuple[int, bool]]) -> list[tuple[int, int]]:
    """First and last pixels of the stretches that hold."""
    found: list[tuple[int, int]] = []
    before = False
    for pixels, holds in points:
        if holds and before:
            found[-1] = (found[-1][0], pixels)
        elif holds:
            found.append((pixels, pixels))
        before = holds
    return found
