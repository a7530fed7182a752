"""Clocks, and the round robin that keeps every variant under the same conditions.

All variants of a problem are timed in one process, one call each per round, in a new random order every round: a slow
minute of the machine, or what the previous variant left in a cache, falls on all of them alike.

CPU: wall-clock of one call; caches are as the other variants left them.

GPU: CUDA events around one call, after a buffer of several times the L2 cache has been read, so that every call starts with
a cold L2, which has nothing to write back either. The work queued by the reading also hides most of the launch latency.
Where calls are so short that launching would be timed rather than computing, every call is captured in a CUDA graph once and
its replay is timed.
"""

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from gcnbench.variants import Call, TimedElsewhere, first_line

#: The parts of torch.cuda that are used here carry no types.
_cuda: Any = torch.cuda
#: With graphs="auto", calls are captured if the fastest variant of a problem takes less than this.
GRAPH_BELOW_MS = 1.0
MAX_ROUNDS = 1000


class Clock(Protocol):
    """Measures calls on one kind of device."""

    def measure(self, call: Call) -> float:
        """Milliseconds that one call takes."""

    def arm(self, calls: Mapping[str, Call], mode: str) -> tuple[dict[str, Call], dict[str, str]]:
        """The calls as they are to be measured, and by name a remark about those that could not be captured."""


class CpuClock:
    """Wall-clock; that of its own process for a call that is computed in another one."""

    def measure(self, call: Call) -> float:
        if isinstance(call, TimedElsewhere):
            return call.milliseconds()
        start = time.perf_counter()
        # Held until the clock has stopped: freeing the results belongs to the caller's code.
        results = call()
        stop = time.perf_counter()
        del results
        return (stop - start) * 1e3

    def arm(self, calls: Mapping[str, Call], mode: str) -> tuple[dict[str, Call], dict[str, str]]:
        return dict(calls), {}


def cold_l2(device: torch.device) -> Callable[[], object]:
    """Makes what is in L2 something else, by reading: what is written there would be written back while something is timed."""
    cache = int(_cuda.get_device_properties(device).L2_cache_size)
    lines, total = torch.zeros(max(4 * cache, 1 << 26) // 4, device=device), torch.zeros((), device=device)
    return lambda: torch.sum(lines, 0, out=total)


class CudaClock:
    """CUDA events, cold L2, and CUDA graphs: ``graphs`` is ``"on"``, ``"off"`` or ``"auto"`` (for short calls)."""

    def __init__(self, device: torch.device, graphs: str = "auto") -> None:
        self._flush = cold_l2(device)
        self._graphs = graphs

    def measure(self, call: Call) -> float:
        start, stop = _cuda.Event(enable_timing=True), _cuda.Event(enable_timing=True)
        self._flush()
        start.record()
        results = call()
        stop.record()
        _cuda.synchronize()
        del results
        return float(start.elapsed_time(stop))

    def arm(self, calls: Mapping[str, Call], mode: str) -> tuple[dict[str, Call], dict[str, str]]:
        armed: dict[str, Call] = dict(calls)
        remarks: dict[str, str] = {}
        if mode == "bwd":
            # Autograd runs a backward pass on the streams of its forward pass, which was not captured.
            return armed, remarks
        short = self._graphs == "auto" and calls and min(self.measure(call) for call in calls.values()) < GRAPH_BELOW_MS
        if self._graphs == "on" or short:
            for name, call in calls.items():
                try:
                    armed[name] = _captured(call)
                except RuntimeError as error:
                    _cuda.synchronize()
                    remarks[name] = f"timed with its launches, not as a CUDA graph ({first_line(error)})"
        return armed, remarks


def _captured(call: Call) -> Call:
    """``call`` as a CUDA graph."""
    # Lazy initialisation (cuDNN's search, cuBLAS handles) may not happen during a capture, so it happens before, on a side
    # stream as the capture itself.
    side = _cuda.Stream()
    side.wait_stream(_cuda.current_stream())
    with _cuda.stream(side):
        for _ in range(2):
            call()
    _cuda.current_stream().wait_stream(side)
    _cuda.synchronize()
    graph = _cuda.CUDAGraph()
    with _cuda.graph(graph):
        results = call()

    def replay() -> tuple[torch.Tensor, ...]:
        graph.replay()
        return results

    return replay


def wait_until_idle(seconds: float = 0.5) -> None:
    """Wait until no thread of this process computes, for at most so long.

    The threads of a pool that has just worked spin for some milliseconds in wait of more. A process that is timed
    meanwhile would have to share their cores.
    """
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        used = time.process_time()
        # Time of threads that run is booked at ticks of up to 4 ms.
        time.sleep(0.01)
        if time.process_time() - used < 1e-3:
            return


@dataclass(frozen=True)
class Budget:
    """How long one problem in one mode is timed.

    Attributes:
        seconds: rounds are added until this is used up,
        rounds: but there are at least this many.
        calibration: seconds for each of the rates that the floors are made of.
    """

    seconds: float
    rounds: int
    calibration: float = 0.5


def round_robin(
    calls: Mapping[str, Call],
    clock: Clock,
    budget: Budget,
    seed: int,
    *,
    settle: frozenset[str] = frozenset(),
    tick: Callable[[float], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Time all calls, interleaved.

    Args:
        calls: what to time, by name. Each has run before.
        clock: measures one call.
        budget: how long.
        seed: of the order within rounds.
        settle: names of calls that run once untimed before each measurement, because they use threads of their own and
            those of the variant before are still spinning, or because a call in another process may have gone before.
        tick: told the part of the budget that is used up, after every call.

    Returns:
        Milliseconds of every call of every round, by name. One round is thrown away as warm-up.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    shuffle = random.Random(seed).shuffle
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for number in range(MAX_ROUNDS + 1):
            done = min((time.perf_counter() - start) / budget.seconds, number / (budget.rounds + 1))
            if number > budget.rounds and time.perf_counter() - start >= budget.seconds:
                break
            shuffle(order)
            for name in order:
                if name in settle:
                    calls[name]()
                elapsed = clock.measure(calls[name])
                if number > 0:
                    times[name].append(elapsed)
                tick(min(done, 1.0))
    finally:
        if collecting:
            gc.enable()
    return times


def spread(times: list[float]) -> tuple[float, float, float]:
    """Median, 20th and 80th percentile."""
    if len(times) == 1:
        return times[0], times[0], times[0]
    fifths = statistics.quantiles(times, n=5, method="inclusive")
    return statistics.median(times), fifths[0], fifths[3]
