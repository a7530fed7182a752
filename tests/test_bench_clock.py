"""How the benchmark measures time and memory."""

import contextlib
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gcnbench import clock, memory
from torch import Tensor

CPU = torch.device("cpu")


class FakeClock:
    """Hands out prepared times and notes what it was asked to measure."""

    def __init__(self, times: dict[str, list[float]]) -> None:
        self.times = {name: iter(values) for name, values in times.items()}
        self.order: list[str] = []

    def measure(self, call: Callable[[], Any]) -> float:
        name = call()[0]
        self.order.append(name)
        return next(self.times[name])

    def arm(self, calls: Any, mode: str) -> tuple[Any, dict[str, str]]:
        return calls, {}


def test_round_robin_measures_each_once_per_round_and_drops_the_first() -> None:
    fake = FakeClock({"a": [9.0, 1.0, 2.0, 3.0], "b": [9.0, 4.0, 5.0, 6.0]})
    times = clock.round_robin({"a": lambda: ("a",), "b": lambda: ("b",)}, fake, clock.Budget(1e-9, 3), seed=0)
    assert times == {"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}
    rounds = [fake.order[i : i + 2] for i in range(0, 8, 2)]
    assert all(sorted(names) == ["a", "b"] for names in rounds)


def test_round_robin_shuffles_and_uses_up_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    milliseconds = iter(range(1000))  # one passes between any two looks at the clock
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: next(milliseconds) / 1000))
    names = "abcde"
    fake = FakeClock({name: [1.0] * 2000 for name in names})
    times = clock.round_robin({name: lambda name=name: (name,) for name in names}, fake, clock.Budget(0.05, 1), seed=0)
    # Two looks a round, but for the first two rounds; of 25 rounds in 50 ms the first does not count.
    assert len(times["a"]) == 24
    orders = {tuple(fake.order[i : i + 5]) for i in range(0, len(fake.order), 5)}
    assert len(orders) > 1


def test_threads_of_others_settle_first() -> None:
    calls: list[str] = []
    fake = FakeClock({"a": [1.0] * 3, "b": [1.0] * 3})
    work = {name: lambda name=name: calls.append(name) or (name,) for name in "ab"}
    clock.round_robin(work, fake, clock.Budget(1e-9, 2), seed=0, settle=frozenset("b"))
    assert calls.count("a") == 3
    assert calls.count("b") == 6


@pytest.mark.parametrize(("times", "expected"), [([3.0], (3.0, 3.0, 3.0)), ([5.0, 1.0, 2.0, 4.0, 3.0, 6.0], (3.5, 2.0, 5.0))])
def test_spread(times: list[float], expected: tuple[float, float, float]) -> None:
    assert clock.spread(times) == pytest.approx(expected)


class FakeCuda:
    """Writes down what is asked of torch.cuda."""

    def __init__(self, call_ms: float, capture_fails: bool = False) -> None:
        self.log: list[str] = []
        self.call_ms = call_ms
        self.capture_fails = capture_fails

    def get_device_properties(self, device: object) -> SimpleNamespace:
        return SimpleNamespace(L2_cache_size=1024)

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def current_stream(self) -> SimpleNamespace:
        return SimpleNamespace(wait_stream=lambda other: None)

    Stream = current_stream

    def stream(self, side: object) -> Any:
        return contextlib.nullcontext()

    def CUDAGraph(self) -> SimpleNamespace:
        return SimpleNamespace(replay=lambda: self.log.append("replay"))

    def graph(self, graph: object) -> Any:
        if self.capture_fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        return contextlib.nullcontext()

    def Event(self, enable_timing: bool) -> SimpleNamespace:
        return SimpleNamespace(record=lambda: self.log.append("record"), elapsed_time=lambda stop: self.call_ms)


def cuda_clock(monkeypatch: pytest.MonkeyPatch, fake: FakeCuda, graphs: str = "auto") -> clock.CudaClock:
    monkeypatch.setattr(clock, "_cuda", fake)
    cuda = clock.CudaClock(CPU, graphs)
    monkeypatch.setattr(cuda, "_flush", lambda: fake.log.append("flush"))
    return cuda


def test_cuda_clock_flushes_before_the_first_event(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(5.0)
    cuda = cuda_clock(monkeypatch, fake)
    assert cuda.measure(lambda: fake.log.append("call") or ()) == 5.0
    assert fake.log == ["flush", "record", "call", "record", "synchronize"]


@pytest.mark.parametrize(
    ("graphs", "ms", "mode", "captured"),
    [
        ("auto", 0.5, "fwd", True),
        ("auto", 0.5, "fwdbwd", True),
        ("auto", 5.0, "fwd", False),
        ("on", 5.0, "fwd", True),
        ("off", 0.5, "fwd", False),
        ("auto", 0.5, "bwd", False),
    ],
)
def test_short_calls_become_graphs(monkeypatch: pytest.MonkeyPatch, graphs: str, ms: float, mode: str, captured: bool) -> None:
    fake = FakeCuda(ms)
    armed, remarks = cuda_clock(monkeypatch, fake, graphs).arm({"a": lambda: ()}, mode)
    fake.log.clear()
    armed["a"]()
    assert (fake.log == ["replay"]) == captured
    assert remarks == {}


def test_a_call_that_cannot_be_captured_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(0.5, capture_fails=True)
    call: Callable[[], tuple[Tensor, ...]] = lambda: ()  # noqa: E731
    armed, remarks = cuda_clock(monkeypatch, fake).arm({"a": call}, "fwd")
    assert armed == {"a": call}
    assert "not as a CUDA graph (RuntimeError: operation not permitted" in remarks["a"]


def test_peak_memory_is_the_peak_and_not_the_sum() -> None:
    def call() -> tuple[Tensor, ...]:
        for _ in range(3):
            torch.empty(1 << 18).fill_(1.0)
        return (torch.empty(1 << 18),)

    assert memory.cpu_allocated(call) == 1 << 20
    peak = memory.peak(call, CPU)
    assert peak.allocated == 1 << 20
    assert peak.bytes == max(peak.allocated, peak.resident or 0)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux's /proc")
def test_peak_memory_sees_what_pytorch_did_not_allocate() -> None:
    size = 256 << 20  # a tenth of which is more than the jobs beside the tests free meanwhile

    def call() -> tuple[Tensor, ...]:
        scratch = bytearray(size)
        return (torch.tensor(len(scratch)),)

    resident = memory.cpu_resident(call)
    if resident is None:
        pytest.skip("this system does not let a process reset its peak")
    assert memory.cpu_allocated(call) < 1 << 20
    assert resident > 0.9 * size
