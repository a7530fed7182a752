"""Where the numbers come from: machine, versions, flags, and the rates that the floors are made of."""

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import gcn_kernels
from gcn_kernels import backends
from gcnbench.clock import Clock
from gcnbench.problems import AnyProblem


@dataclass(frozen=True)
class Rates:
    """What the machine reached in this run.

    Attributes:
        matmul: operations per second of a large square matrix product, by name of the dtype.
        copy: bytes read and written per second of a large copy; None on a CPU where it is not asked for, as maps may stay in
            the caches there.
    """

    matmul: dict[str, float]
    copy: float | None

    def floor_ms(self, problem: AnyProblem, mode: str) -> float:
        """The time that no direct algorithm can beat: its operations at the matmul rate, or its bytes at the copy rate."""
        arithmetic = problem.flops(mode) / self.matmul[str(problem.arithmetic).removeprefix("torch.")]
        memory = problem.bytes(mode) / self.copy if self.copy else 0.0
        return max(arithmetic, memory) * 1e3


def measure_rates(
    device: torch.device, dtypes: Iterable[torch.dtype], clock: Clock, seconds: float, memory: bool = False
) -> Rates:
    """Measure the matrix rate for each dtype and, on a GPU or for ``memory``, the copy rate: the best in so many seconds each."""
    on_gpu = device.type == "cuda"
    matmul = {}
    for dtype in dtypes:
        size = (8192 if dtype.itemsize == 2 else 4096) if on_gpu else 1024
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        matmul[str(dtype).removeprefix("torch.")] = 2 * size**3 / _best(clock, seconds, a, b, out)
    if not (on_gpu or memory):
        return Rates(matmul, None)
    source = torch.zeros(1 << 29 if on_gpu else 1 << 27, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return Rates(matmul, 2 * source.nbytes / _best(clock, seconds, source, None, target))


def _best(clock: Clock, seconds: float, a: torch.Tensor, b: torch.Tensor | None, out: torch.Tensor) -> float:
    def call() -> tuple[torch.Tensor, ...]:
        return (out.copy_(a) if b is None else torch.mm(a, b, out=out),)

    clock.measure(call)
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while not times or time.perf_counter() < stop:
        times.append(clock.measure(call))
    return min(times) * 1e-3


def set_flags(device: torch.device, threads: int | None) -> None:
    """Set up PyTorch as the benchmark wants it.

    cuDNN searches for its fastest algorithm, and float32 matrix products may use TF32 exactly if float32 convolutions may:
    otherwise the floors and the matmul baseline would not compute what cuDNN computes.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = backends.allow_tf32()


def describe(device: torch.device) -> dict[str, str]:
    """The header: names and one-line values."""
    b: Any = torch.backends  # carries no types
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    lines = {
        "CPU": f"{_cpu_name()}, {os.cpu_count()} logical, {b.cpu.get_cpu_capability()}",
        "load": "unknown" if load is None else _load(load),
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "torch": f"{torch.__version__}, MKL {_yes(b.mkl.is_available())}, oneDNN {_yes(b.mkldnn.is_available())}",
        "gcn_kernels": f"{gcn_kernels.__version__}, commit {_commit()}",
        "float32 precision": f"cudnn.conv {b.cudnn.conv.fp32_precision}, "
        f"cuda.matmul {b.cuda.matmul.fp32_precision}, "
        f"mkldnn.conv {b.mkldnn.conv.fp32_precision}, "
        f"mkldnn.matmul {b.mkldnn.matmul.fp32_precision}",
        "cudnn": f"version {b.cudnn.version() or 'none'}, benchmark {b.cudnn.benchmark}, deterministic {b.cudnn.deterministic}",
    }
    runtimes = [f"{name} {version}" for name in ("onnxruntime", "openvino", "triton") if (version := _version(name))]
    if runtimes:
        lines["also installed"] = ", ".join(runtimes)
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        size, cache = gpu.total_memory / 2**30, gpu.L2_cache_size / 2**20
        lines["GPU"] = (
            f"{gpu.name}, sm_{gpu.major}{gpu.minor}, {gpu.multi_processor_count} SMs, {size:.0f} GiB, L2 {cache:.0f} MiB, "
            f"CUDA {torch.version.cuda}"
        )
    return lines


def describe_rates(rates: Rates) -> dict[str, str]:
    """The measured rates as further lines of the header."""
    lines = {f"matmul rate {name}": f"{rate / 1e9:.3g} GFLOP/s, measured in this run" for name, rate in rates.matmul.items()}
    if rates.copy is not None:
        lines["copy rate"] = f"{rates.copy / 1e9:.0f} GB/s read and written, measured in this run"
    return lines


def _load(load: float) -> str:
    """The load average, and what to think of it."""
    warning = ": other work is running here, expect slow and scattered times" if load > 0.25 * (os.cpu_count() or 1) else ""
    return f"{load:.1f} at the start{warning}"


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    """The processor's name as its maker calls it, where the system tells."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin" and (name := _output("sysctl", "-n", "machdep.cpu.brand_string")):
        return name
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit of the benchmark's own checkout, marked if files differ from it.

    For a copy without one, the environment variable GCN_KERNELS_COMMIT says what it is a copy of.
    """
    folder = str(Path(__file__).parent)
    commit = _output("git", "-C", folder, "rev-parse", "--short=12", "HEAD")
    if not commit:
        stated = os.environ.get("GCN_KERNELS_COMMIT")
        return f"{stated} as GCN_KERNELS_COMMIT says" if stated else "unknown"
    changed = _output("git", "-C", folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit} with changes" if changed else commit


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
