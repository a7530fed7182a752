"""Peak memory of one call: what it needs on top of its arguments, results included.

GPU: PyTorch's caching allocator, which cuDNN's workspaces come from too.

CPU: the larger of two measurements, because neither sees everything.

* What PyTorch's CPU allocator handed out, as a running sum over the profiler's memory events. It is exact and repeatable and
  includes the scratch of PyTorch's convolutions (checked: it agrees within 10 % with the second one for eager PyTorch,
  forward and backward). It does not see memory that a library or kernel gets elsewhere, such as tile buffers.
* How far the process's resident memory grew (Linux: ``VmHWM`` after resetting it, with freed memory given back first). It
  sees every page that was touched, to about 0.1 MB, and misses what a library keeps between calls.

Both are taken in a call of their own, never while timing.
"""

import ctypes
import gc
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from gcnbench.variants import Call

_TRUSTED_GROWTH = 4 << 20


@dataclass(frozen=True)
class Peak:
    """Bytes on top of the arguments; ``resident`` is None where it cannot be measured."""

    allocated: int
    resident: int | None

    @property
    def bytes(self) -> int:
        """What the table shows."""
        return max(self.allocated, self.resident or 0)


def peak(call: Call, device: torch.device) -> Peak:
    """Peak memory of ``call``, which has run before on ``device``."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return Peak(torch.cuda.max_memory_allocated() - before, None)
    return Peak(cpu_allocated(call), cpu_resident(call))


def cpu_allocated(call: Call) -> int:
    """Peak of the bytes that PyTorch's CPU allocator handed out and had not got back."""
    with _no_garbage_freed(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        results = call()
    del results
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: float(e["ts"]))
    current = highest = 0
    for change in (int(e["args"]["Bytes"]) for e in changes):
        current += change
        highest = max(highest, current)
    return highest


@contextmanager
def _no_garbage_freed() -> Iterator[None]:
    """What was allocated before the call and is freed during it would count against it."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def cpu_resident(call: Call) -> int | None:
    """Growth of the resident memory during ``call``, or None where Linux's /proc is missing.

    A small growth is measured twice and the smaller one taken: pages that have nothing to do with the call show in it.
    """
    if sys.platform != "linux":
        return None
    try:
        growth = _resident_growth(call)
        return growth if growth > _TRUSTED_GROWTH else min(growth, _resident_growth(call))
    except OSError:
        return None


def _resident_growth(call: Call) -> int:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    results = call()
    highest = _status("VmHWM")
    del results
    return max(highest - before, 0)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")
