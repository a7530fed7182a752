"""Check, calibrate and measure the CUDA kernels on this machine's GPU, in three parts of at most 200 seconds each.

Usage::

    python benchmarks/gpu_report.py --out benchmarks/results/h100                # with the package installed: all parts
    python benchmarks/gpu_report.py --out benchmarks/results/h100 --part A       # one part; others later, into the same folder
    python benchmarks/gpu_report.py --out benchmarks/results/h100 --build        # compiles for this GPU first
    python benchmarks/gpu_report.py --out report --only correctness-hopper ncu-hopper

Part A: whether the kernels are right. What is installed; the paper's maps and maps whose elements share memory against
float64, by the kernels of sm_90a and by the portable ones, run twice; every wrapper of the device layer with fixed inputs;
the problems of the tests; Triton; depthwise strips. Part B: how fast they are. Both generations and the baselines
interleaved in one process by replays of CUDA graphs; every kernel against its floor; depthwise strips; tf32. Part C: Nsight
Compute, compute-sanitizer, and the tests that need a GPU, for both generations.

Each step is a program with a time limit; one that fails or is stopped is recorded with its log, and the next goes on. What no
longer fits into a part's time is dropped, the least valuable first, and the report says so. Called again with the same folder,
steps that have passed are not run again, as long as the libraries are built from the same sources. The folder then holds
``README.md`` (the summary), ``report.json``, CSV files, the steps' own JSON, pictures if matplotlib is installed, ``logs/``,
and lines for ``kMeasuredFaster``: small enough to be committed. Beside it stands the same as ``<folder>.tar.gz``.

Without a GPU everything that needs one is skipped and the summary says why.

Exit status: 0 if no step failed or was stopped, 1 otherwise, 2 for a mistake in the options.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from gcnbench import environment
from gpureport import agenda, parts, steps, summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the report and return the exit status."""
    start = time.monotonic()
    out_default, all_parts = Path("gpu-report"), agenda.parts(Path(), None)
    names = [step.name for part in all_parts.values() for step in part]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=out_default, help="folder to write to (default: gpu-report)")
    parser.add_argument("--part", nargs="+", choices=all_parts, default=list(all_parts), help="default: all, one after the other")
    parser.add_argument("--build", action="store_true", help="compile in place for the GPUs of this machine first, and use that")
    parser.add_argument("--only", nargs="+", choices=names, metavar="STEP", help=f"some of {', '.join(names)}")
    parser.add_argument("--seconds", type=float, default=parts.SECONDS, help="for each part, the build apart (default: 200)")
    given = parser.parse_args(arguments)
    out: Path = given.out.absolute()
    report, archive = out / "report.json", out.with_name(f"{out.name}.tar.gz")
    before: dict[str, steps.Outcome] = {}
    sources_before = None
    if report.is_file():
        before, sources_before = parts.read(report)
    elif (out.exists() and any(out.iterdir())) or archive.exists():
        parser.error(
            f"--out {given.out}: the folder is not empty, or {archive.name} exists, and there is no report to go on with"
        )
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)

    seen = agenda.environment(built_in_place=given.build)
    if given.build:
        print("building, which no part's time counts", flush=True)
        built = steps.run(agenda.build_step(), logs, seen, float("inf"))
        if built.status != "passed":
            print(f"build: {built.reason}; see {logs / built.log}")
            return 1
        start = time.monotonic()
    found = agenda.installed(seen)
    if sources_before not in (None, found.sources):
        about = f"is about sources {sources_before}, and the library is built from {found.sources}"
        parser.error(f"--out {given.out}: {about}: take another folder")
    machine = environment.describe(torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def note(outcome: steps.Outcome) -> None:
        print(f"{outcome.status:<9}  {outcome.name:<28} {outcome.seconds:6.1f} s  {outcome.reason}", flush=True)
        summary.write(out, machine, list(before.values()), found.sources)  # after every step: what there is survives this program

    for name, chosen in agenda.parts(out, found.why_not).items():
        if name in given.part:
            wanted = [step for step in chosen if given.only is None or step.name in given.only]
            budget = parts.Budget(given.seconds, start)
            parts.run(wanted, before, budget, lambda step, left: steps.run(step, logs, seen, left), note)
            print(f"part {name}: {time.monotonic() - start:.0f} s; packed into {parts.pack(out)}", flush=True)
            start = time.monotonic()
    print(f"summary: {out / 'README.md'}")
    return 1 if any(outcome.status in ("failed", "timed out") for outcome in before.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
