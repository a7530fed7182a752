"""Time and memory of two ways to compute the same, in turns, so that other load on the machine meets both."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile


class Cost(NamedTuple):
    """Median milliseconds and their quartiles, and the peak of what was allocated meanwhile, in MiB."""

    milliseconds: float
    low: float
    high: float
    peak: float

    def __str__(self) -> str:
        return f"{self.milliseconds:8.1f} ms ({self.low:.1f} ... {self.high:.1f}), peak {self.peak:7.1f} MiB"


def compare(jobs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Cost]:
    """Cost of every job; two rounds warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(repeats + 2):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn > 1:
                seconds[name].append(1e3 * (time.perf_counter() - start))
    costs = {}
    for name, job in jobs.items():
        low, middle, high = statistics.quantiles(seconds[name], n=4) if repeats > 1 else seconds[name] * 3
        costs[name] = Cost(middle, low, high, peak_memory(job))
    return costs


def peak_memory(job: Callable[[], object]) -> float:
    """Most memory that ``job`` held at one time beyond what was there before, in MiB."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        job()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        job()
    held, peak = 0, 0
    results = trace.profiler.kineto_results if trace.profiler is not None else None
    for event in results.events() if results is not None else ():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 2**20
