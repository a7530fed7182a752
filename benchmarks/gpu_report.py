"""Check, calibrate and measure the CUDA kernels on this machine's GPU in one command, in under nine minutes.

Usage::

    python benchmarks/gpu_report.py --out benchmarks/results/h100                # with the package installed
    python benchmarks/gpu_report.py --out benchmarks/results/h100 --build        # compiles for this GPU first
    python benchmarks/gpu_report.py --out report --only correctness kernels

The steps, the most valuable first: what is installed; every problem of the tests against float64; every wrapper of the
device layer with fixed inputs; the benchmark in bfloat16; every kernel against its floor; on a Hopper GPU the kernels of
sm_90a, checked and measured the same way; the tests that need a GPU; the benchmark in tf32; compute-sanitizer; ncu. Each
is a program with a time limit; one that fails or is stopped is recorded with its log, and the next goes on. The folder
then holds ``README.md`` (the summary), ``report.json``, CSV files, the steps' own JSON, pictures if matplotlib is
installed, and ``logs/``: small enough to be committed.

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
from gpureport import agenda, steps, summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the report and return the exit status."""
    start = time.monotonic()
    out_default, names = Path("gpu-report"), [step.name for step in agenda.steps(Path(), agenda.SECONDS, None)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=out_default, help="folder to write to (default: gpu-report)")
    parser.add_argument("--build", action="store_true", help="compile in place for the GPUs of this machine first, and use that")
    parser.add_argument("--only", nargs="+", choices=names, metavar="STEP", help=f"some of {', '.join(names)}")
    parser.add_argument("--seconds", type=float, default=agenda.SECONDS, help="for all steps together, the build apart")
    given = parser.parse_args(arguments)
    if given.out.exists() and any(given.out.iterdir()):
        parser.error(f"--out {given.out}: exists and is not empty")
    out: Path = given.out.absolute()
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = environment.describe(device)
    seen = agenda.environment(built_in_place=given.build)
    outcomes: list[steps.Outcome] = []

    def go(step: steps.Step, seconds_left: float) -> None:
        outcome = steps.run(step, logs, seen, seconds_left)
        print(f"{outcome.status:<9}  {outcome.name:<20} {outcome.seconds:6.1f} s  {outcome.reason}", flush=True)
        outcomes.append(outcome)
        summary.write(out, machine, outcomes)  # after every step: what there is survives this program

    if given.build:
        go(agenda.build_step(), float("inf"))
        start = time.monotonic()
    for step in agenda.steps(out, given.seconds, agenda.no_kernels(seen)):
        if given.only is None or step.name in given.only:
            go(step, given.seconds - (time.monotonic() - start))
    print(f"summary: {out / 'README.md'}")
    return 1 if any(outcome.status in ("failed", "timed out") for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
