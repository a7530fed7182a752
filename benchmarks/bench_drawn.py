"""Is the operator ever the slower choice? Time it against PyTorch's four convolutions on problems drawn from a seed.

Usage::

    python benchmarks/bench_drawn.py                                       # 200 problems, float32, inference and training
    python benchmarks/bench_drawn.py --dtype float32 bfloat16 --json out.json
    python benchmarks/bench_drawn.py --count 20 --first 180 --seed 3       # the last ten per cent of another seed
    python benchmarks/bench_drawn.py --algo direct fft                     # these two beside the plan's choice

Every problem is timed with the input and the weights in NCHW and in channels_last; the ratio compares the faster eager
call with the faster fused one. All calls of a problem are interleaved in random order, and medians count. A problem that
seems lost is timed again, six times as long, and that counts: where the plan chooses PyTorch's convolutions, both columns
time the same calls. PyTorch's backward pass is left out where it is known to end the process (see ``gcnbench/drawn.py``),
and the problem with it.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from gcnbench import environment
from gcnbench.baselines import BASELINES
from gcnbench.clock import Budget, CpuClock, round_robin, spread
from gcnbench.drawn import FUSED, HEADING, LOST_BELOW, Range, Result, crashes_in_pytorch, draw, summary
from gcnbench.options import check_files, positive, seconds
from gcnbench.problems import LAYOUTS, Problem, make_inputs
from gcnbench.variants import fused, mode_context

from gcn_kernels import FusedGCN
from gcn_kernels.core import backends
from gcn_kernels.core.checks import DTYPES

CPU = torch.device("cpu")
#: Of fewer operations hardly any problem would be drawn.
LEAST_GFLOP = 0.001
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


def parser() -> argparse.ArgumentParser:
    """The argument parser."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seed", type=int, default=0, help="of the problems (default: 0)")
    p.add_argument("--first", type=int, default=0, metavar="I", help="number of the first problem (default: 0)")
    p.add_argument("--count", type=positive, default=200, metavar="N", help="how many problems (default: 200)")
    p.add_argument("--dtype", choices=_DTYPES, nargs="+", default=["float32"], help="default: float32")
    p.add_argument("--mode", choices=("fwd", "fwdbwd"), nargs="+", default=["fwd", "fwdbwd"], help="default: both")
    p.add_argument("--algo", choices=backends.ALGORITHMS[1:], nargs="*", default=[], help="algorithms timed beside the choice")
    p.add_argument("--gflop", type=_gflop, default=Range.gflop, help=f"most work of a forward pass (default: {Range.gflop})")
    p.add_argument("--budget", type=seconds, default=0.3, metavar="S", help="seconds for a problem and mode (default: 0.3)")
    p.add_argument("--limit", type=seconds, default=float("inf"), metavar="S", help="stop drawing after this many seconds")
    p.add_argument("--threads", type=positive, help="CPU threads (default: PyTorch's)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write every median")
    p.add_argument("--force", action="store_true", help="overwrite an existing file")
    return p


def _gflop(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value >= LEAST_GFLOP:
        raise argparse.ArgumentTypeError(f"expected a number of at least {LEAST_GFLOP}, got {text!r}")
    return value


def measure(problem: Problem, mode: str, algos: Sequence[str], budget: Budget, seed: int) -> Result:
    """Time one problem in one mode."""
    inputs = make_inputs(problem, CPU, seed)
    laid_out = {layout: inputs.laid_out(layout) for layout in LAYOUTS}
    variants = {BASELINES[name].name: BASELINES[name] for name in ("eager-nchw", "eager-channels-last")}
    for layout in LAYOUTS:
        variants[FUSED[layout]] = fused("auto", "auto", layout, CPU)
        for algo in algos:
            if not (algo == "fft" and problem.dtype == torch.float64):
                variants[f"{algo} {layout}"] = fused("auto", algo, layout, CPU)
    with mode_context(mode):
        calls = {name: variant.prepare(laid_out[variant.layout], mode) for name, variant in variants.items()}
        for call in calls.values():
            call()
        times = round_robin(calls, CpuClock(), budget, seed)
    ms = {name: spread(measured)[0] for name, measured in times.items()}
    best = min(FUSED, key=lambda layout: ms[FUSED[layout]])
    return Result(problem, mode, ms, planned_algo(problem, mode, best))


def measured(problem: Problem, mode: str, algos: Sequence[str], seconds: float, seed: int) -> Result:
    """The same; where the operator seems to lose, a second and longer run is the result."""
    result = measure(problem, mode, algos, Budget(seconds, 3), seed)
    return measure(problem, mode, algos, Budget(6 * seconds, 3), seed) if result.ratio < LOST_BELOW else result


def planned_algo(problem: Problem, mode: str, layout: str) -> str:
    """What the operator does: that of the backward pass for a training step."""
    m = problem.map
    block = FusedGCN(m.channels, m.out, problem.k, mid_channels=m.mid, device="meta", dtype=problem.dtype)
    plan = block.plan((m.height, m.width), problem.batch, channels_last=layout == "channels_last")
    return str(plan["forward" if mode == "fwd" else "backward"]["algo"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status: 1 where the operator lost a problem."""
    p = parser()
    asked = p.parse_args(arguments)
    check_files(p, asked)
    environment.set_flags(CPU, asked.threads)
    machine = environment.describe(CPU)
    for name, value in machine.items():
        print(f"{name:<20} {value}")
    print(f"\n{HEADING}")
    start = time.perf_counter()
    results: list[Result] = []
    skipped = 0
    for number in range(asked.first, asked.first + asked.count):
        if time.perf_counter() - start > asked.limit:
            break
        for dtype in asked.dtype:
            problem = draw(asked.seed, number, _DTYPES[dtype], Range(asked.gflop))
            for mode in asked.mode:
                if crashes_in_pytorch(problem, mode):
                    skipped += 1
                    continue
                results.append(measured(problem, mode, asked.algo, asked.budget, number))
                print(results[-1].line(), flush=True)
    print()
    for line in summary(results):
        print(line)
    if skipped:
        print(f"{skipped} not timed: PyTorch's own backward pass may end the process there")
    if asked.json is not None:
        content = {"machine": machine, "seed": asked.seed, "results": [r.row() for r in results]}
        asked.json.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if any(r.ratio < LOST_BELOW for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
