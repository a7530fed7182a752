"""Program: the time of every kernel of the paper's maps against its floor and the plan's prediction.

PyTorch's profiler says when the kernels of a CUDA graph start and end: one replay of a graph of several calls, before each of
which L2 is made cold by reading. So no launch waits for Python or the driver. Dependent launches overlap: a kernel may start
early and wait for the one before it. So its time is what it adds to the critical path, and the time of the whole call, from
the first start to the last end, stands beside them; gaps between kernels are in the latter only. The floor of a launch is the
larger of its issued operations at the matrix rate and its bytes at the copy rate, both measured in the same run. The
environment variable GCN_KERNELS_GENERATION says whose kernels, as it does everywhere.
"""

import argparse
import json
import os
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gcnbench import environment
from gcnbench.clock import CudaClock, cold_l2
from gcnbench.problems import LAYOUTS, PRESETS, Inputs, Problem, make_inputs

import gcn_kernels
from gcn_kernels import info

REPEATS = 7
K = 15
#: The row of a whole call.
WHOLE = "first start to last end"
#: A kernel in a trace: its name, start and end.
Span = tuple[str, float, float]
_KERNEL = re.compile(r"gcn::cuda::(?:\(anonymous namespace\)::)?(\w+)_kernel")


@dataclass
class Found:
    """Microseconds of all calls: of every kernel by its name, for each launch of it in a call, and of the calls as a whole."""

    kernels: dict[str, list[list[float]]] = field(default_factory=dict)
    whole: list[float] = field(default_factory=list)

    def add(self, spans: Sequence[Span]) -> None:
        """Add a call, given as the name, start and end of each kernel.

        A kernel's own time is from its start, or the latest end of those that started before it if that is later.
        """
        launches: dict[str, int] = defaultdict(int)
        ordered = sorted(spans, key=lambda span: span[1])
        latest = float("-inf")
        for name, start, end in ordered:
            times = self.kernels.setdefault(name, [])
            if launches[name] == len(times):
                times.append([])
            times[launches[name]].append(max(end - max(start, latest), 0.0))
            launches[name] += 1
            latest = max(latest, end)
        if ordered:
            self.whole.append(latest - ordered[0][1])


def calls_between(trace: Sequence[Span], reading: Collection[str]) -> list[list[Span]]:
    """This package's kernels of each call, by their short names; ``reading``: the kernels that come before every call."""
    calls: list[list[Span]] = []
    fresh = True
    for name, start, end in sorted(trace, key=lambda span: span[1]):
        if name in reading:
            fresh = True
        elif (match := _KERNEL.search(name)) is not None:
            if fresh:
                calls.append([])
            fresh = False
            calls[-1].append((match[1], start, end))
    return calls


def traced(run: Callable[[], object]) -> list[Span]:
    """What ``run`` has the GPU do."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    events: Sequence[Any] = profile.events() or []
    on_gpu = [event for event in events if event.device_type.name == "CUDA"]
    return [(event.name, event.time_range.start, event.time_range.end) for event in on_gpu]


def measure(inputs: Inputs, flush: Callable[[], object], *, backward: bool) -> Found:
    """Capture the calls, each behind a flush, in one graph and profile a replay of it.

    Raises:
        RuntimeError: they cannot be captured, or the replay was not as many calls.
    """
    cuda: Any = torch.cuda
    leaves = inputs.leaves()
    # Autograd runs a backward pass on the stream of its forward pass, so all is on the stream of the capture.
    stream = cuda.Stream()
    stream.wait_stream(cuda.current_stream())
    with cuda.stream(stream):
        y = gcn_kernels.fused_gcn(*leaves, backend="cuda")

        def call() -> object:
            if backward:
                return torch.autograd.grad(y, leaves, inputs.dy, retain_graph=True)
            with torch.inference_mode():
                return gcn_kernels.fused_gcn(*inputs.tensors, backend="cuda")

        call()
        reading = {name for name, _, _ in traced(flush) if not name.startswith("Mem")}
    graph = cuda.CUDAGraph()
    with cuda.graph(graph, stream=stream):
        for _ in range(REPEATS):
            flush()
            call()
    graph.replay()
    cuda.synchronize()
    found = Found()
    calls = calls_between(traced(graph.replay), reading)
    if len(calls) != REPEATS:
        raise RuntimeError(f"expected {REPEATS} calls in the trace of a replay, found {len(calls)}")
    for spans in calls:
        found.add(spans)
    return found


def compare(found: Found, launches: Sequence[dict[str, Any]], matrix_rate: float, copy_rate: float) -> list[dict[str, object]]:
    """One row per planned launch where the kernels ran as often as planned, per kernel otherwise; the last of the whole call."""
    planned: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for launch in launches:
        planned[launch["kernel"].split()[0]].append(launch)
    rows: list[dict[str, object]] = []

    def add(name: str, microseconds: float, floor: float, plans: Sequence[dict[str, Any]]) -> None:
        rows.append(
            {
                "kernel": name,
                "us": microseconds,
                "floor_us": floor,
                "share_of_floor": floor / microseconds if microseconds else None,
                "predicted_us": sum(plan["predicted_us"] for plan in plans),
            }
        )

    floors = 0.0
    for kernel in dict.fromkeys([*planned, *found.kernels]):
        medians = [statistics.median(times) for times in found.kernels.get(kernel, [])]
        plans = planned.get(kernel, [])
        if len(medians) == len(plans):
            groups = [([plan], time) for plan, time in zip(plans, medians, strict=True)]
        else:
            groups = [(plans, sum(medians))]
        for group, microseconds in groups:
            arithmetic, memory = (sum(plan[unit] for plan in group) for unit in ("gflop", "mbytes"))
            floor = max(arithmetic * 1e9 / matrix_rate, memory * 1e6 / copy_rate) * 1e6
            floors += floor
            add(" + ".join(plan["kernel"] for plan in group) or f"{kernel} (not in the plan)", microseconds, floor, group)
    add(WHOLE, statistics.median(found.whole) if found.whole else 0.0, floors, launches)
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
    unasked = "auto" if (gpu.major, gpu.minor) == (9, 0) else "portable"
    generation = os.environ.get("GCN_KERNELS_GENERATION") or unasked
    flush = cold_l2(device)
    copy_rate = rates.copy or float("inf")
    rows: list[dict[str, object]] = []
    failed = False
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
                        generation=generation,
                    )
                    place = {"map": m.label, "batch": batch, "layout": layout, "pass": "backward" if backward else "forward"}
                    try:
                        found = measure(laid_out, flush, backward=backward)
                    except RuntimeError as error:
                        print(f"FAILED: {place}: {error}", flush=True)
                        failed = True
                        continue
                    compared = compare(found, plan["launches"], rates.matmul["bfloat16"], copy_rate)
                    rows += [{**place, **row} for row in compared]
                    print(place, compared[-1]["us"], "us", flush=True)
            given.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
