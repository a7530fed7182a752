"""Program: the time of every kernel of the paper's maps against its floor and the plan's prediction.

PyTorch's profiler gives the kernels' times, L2 cold before each call. The floor of a launch is the larger of its issued
operations at the matrix rate and its bytes at the copy rate, both measured in the same run. The environment variable
GCN_KERNELS_GENERATION says whose kernels, as it does everywhere.
"""

import argparse
import json
import os
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from gcnbench import environment
from gcnbench.clock import CudaClock
from gcnbench.problems import LAYOUTS, PRESETS, Inputs, Problem, make_inputs

import gcn_kernels
from gcn_kernels import info

REPEATS = 7
K = 15
_KERNEL = re.compile(r"gcn::cuda::(?:\(anonymous namespace\)::)?(\w+)_kernel")


def measure(inputs: Inputs, flush: torch.Tensor, *, backward: bool) -> dict[str, list[list[float]]]:
    """Microseconds of every kernel by its name: for each launch of it in a call, the times of all calls."""
    leaves = inputs.leaves()
    y = gcn_kernels.fused_gcn(*leaves, backend="cuda")

    def call() -> object:
        if backward:
            return torch.autograd.grad(y, leaves, inputs.dy, retain_graph=True)
        with torch.inference_mode():
            return gcn_kernels.fused_gcn(*inputs.tensors, backend="cuda")

    call()
    found: dict[str, list[list[float]]] = {}
    for _ in range(REPEATS):
        flush.zero_()
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call()
            torch.cuda.synchronize()
        times: dict[str, list[float]] = defaultdict(list)
        events: list[Any] = sorted(profile.events() or [], key=lambda event: event.time_range.start)
        for event in events:
            if (match := _KERNEL.search(event.name)) is not None:
                times[match[1]].append(event.time_range.elapsed_us())
        for name, calls in times.items():
            for launch, microseconds in enumerate(calls):
                found.setdefault(name, [])
                if len(found[name]) <= launch:
                    found[name].append([])
                found[name][launch].append(microseconds)
    return found


def compare(
    found: dict[str, list[list[float]]], launches: Sequence[dict[str, Any]], matrix_rate: float, copy_rate: float
) -> list[dict[str, object]]:
    """One row per planned launch where the kernels ran as often as planned; per kernel otherwise."""
    planned: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for launch in launches:
        planned[launch["kernel"].split()[0]].append(launch)
    rows = []
    for kernel in dict.fromkeys([*planned, *found]):
        medians = [statistics.median(times) for times in found.get(kernel, [])]
        plans = planned.get(kernel, [])
        if len(medians) == len(plans):
            groups = [([plan], time) for plan, time in zip(plans, medians, strict=True)]
        else:
            groups = [(plans, sum(medians))]
        for group, microseconds in groups:
            arithmetic, memory = (sum(plan[unit] for plan in group) for unit in ("gflop", "mbytes"))
            floor = max(arithmetic * 1e9 / matrix_rate, memory * 1e6 / copy_rate) * 1e6
            rows.append(
                {
                    "kernel": " + ".join(plan["kernel"] for plan in group) or f"{kernel} (not in the plan)",
                    "us": microseconds,
                    "floor_us": floor,
                    "share_of_floor": floor / microseconds if microseconds else None,
                    "predicted_us": sum(plan["predicted_us"] for plan in group),
                }
            )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    given = parser.parse_args()
    device = torch.device("cuda")
    clock = CudaClock(device)
    rates = environment.measure_rates(device, [torch.bfloat16], clock, 0.3)
    gpu = torch.cuda.get_device_properties(device)
    shared: Any = gpu
    sizes = [gpu.multi_processor_count, shared.shared_memory_per_block_optin, shared.shared_memory_per_multiprocessor]
    flush = torch.empty(max(4 * shared.L2_cache_size, 1 << 26), dtype=torch.uint8, device=device)
    copy_rate = rates.copy or float("inf")
    rows: list[dict[str, object]] = []
    for batch in (16, 1):
        for m in PRESETS["paper"]:
            inputs = make_inputs(Problem(m, batch, K, torch.bfloat16), device, 0)
            for layout in LAYOUTS:
                laid_out = inputs.laid_out(layout)
                for backward in (False, True):
                    plan = info.plan(
                        m.channels,
                        m.out,
                        (m.height, m.width),
                        K,
                        batch=batch,
                        channels_last=layout == "channels_last",
                        backward=backward,
                        gpu=sizes,
                        generation=os.environ.get("GCN_KERNELS_GENERATION", "portable"),
                    )
                    found = measure(laid_out, flush, backward=backward)
                    place = {"map": m.label, "batch": batch, "layout": layout, "pass": "backward" if backward else "forward"}
                    compared = compare(found, plan["launches"], rates.matmul["bfloat16"], copy_rate)
                    rows += [{**place, **row} for row in compared]
                    print(place, sum(row["us"] for row in compared if isinstance(row["us"], float)), "us", flush=True)
            given.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
