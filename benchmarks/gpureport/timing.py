"""Program: the benchmark of the paper's maps in one dtype, saved after every map, so that a time limit loses little.

Everything is that of ``bench_gcn.py``: correctness first, variants interleaved, CUDA events, L2 cold, CUDA graphs where
launches dominate. float32 means what PyTorch's convolutions mean by it, tf32 unless that was switched off.
"""

import argparse
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from gcnbench import environment, report, runner
from gcnbench.baselines import BASELINES, default_baselines
from gcnbench.clock import Budget, Clock, CpuClock, CudaClock
from gcnbench.problems import LAYOUTS, PRESETS, Inputs, Problem
from gcnbench.variants import Call, Variant, fused

from gcn_kernels import backends

MODES = ("fwd", "fwdbwd")
K = 15


#: Said to the kernels at every call, so that those of one generation can run beside those of another.
GENERATION = "GCN_KERNELS_GENERATION"


def variants(device: torch.device, names: list[str], generations: list[str], *, compiled: bool) -> list[Variant]:
    """The fused operator on every backend that runs here, of the CUDA kernels each generation, and what it is compared with."""
    chosen = [name for name in default_baselines(device, MODES) if compiled or not name.startswith("compile")]
    ours = [b for b in names if backends.why_not(b, device) is None]
    found = [BASELINES[name] for name in chosen]
    for backend in ours:
        for layout in LAYOUTS:
            plain = fused(backend, "auto", layout, device)
            found += [of_generation(plain, g) for g in generations] if backend == "cuda" and generations else [plain]
    return found


def of_generation(variant: Variant, generation: str) -> Variant:
    """The variant with its calls, and so the graphs captured from them, by the kernels of one generation."""

    def prepare(inputs: Inputs, mode: str) -> Call:
        call = variant.prepare(inputs, mode)

        def asking() -> tuple[torch.Tensor, ...]:
            before = os.environ.get(GENERATION)
            os.environ[GENERATION] = generation
            try:
                return call()
            finally:
                if before is None:
                    del os.environ[GENERATION]
                else:
                    os.environ[GENERATION] = before

        return asking

    start, layout = variant.name.rsplit(" ", 1)
    return replace(variant, name=f"{start} {generation} {layout}", prepare=prepare)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--seconds", type=float, required=True, help="no map is started after these")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 1])
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds of timing per map and mode")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backends", nargs="+", default=["cuda"])
    parser.add_argument("--generations", nargs="+", default=[], help="of the CUDA kernels, each a variant: portable hopper")
    parser.add_argument(
        "--graphs", choices=("auto", "on", "off"), default="auto", help="CUDA graphs: for short calls, all or none"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave out the torch.compile baselines, which take long")
    given = parser.parse_args()
    stop = time.monotonic() + given.seconds
    device, dtype = torch.device(given.device), getattr(torch, given.dtype)
    environment.set_flags(device, None)
    clock: Clock = CudaClock(device, given.graphs) if device.type == "cuda" else CpuClock()
    rates = environment.measure_rates(device, [dtype], clock, min(0.5, given.budget))
    header: dict[str, object] = {"machine": environment.describe(device), "rates": asdict(rates)}
    measured: list[report.Row] = []
    not_reached = []
    for problem in [Problem(m, batch, K, dtype) for batch in given.batch for m in PRESETS[given.preset]]:
        if time.monotonic() > stop:
            not_reached.append(problem.heading())
            continue
        found = variants(device, given.backends, given.generations, compiled=not given.no_compile)
        budget = Budget(given.budget, 3, min(0.5, given.budget))
        runner.run(runner.Plan([problem], MODES, found, device, budget, 0), rates, clock, measured)
        report.write_json(given.out, header, measured, report.geometric_means(measured))
    for line in not_reached:
        print(f"not reached in time: {line}")
    failed = [row for row in measured if row.status == "failed"]
    for row in failed:
        print(f"FAILED: {row.map}, batch {row.batch}, {row.dtype}, {row.mode}, {row.backend}: {row.reason}")
    return 1 if failed or not_reached else 0


if __name__ == "__main__":
    sys.exit(main())
