"""Compiles the CUDA kernels for one architecture each and reads what came out: registers, spills, machine instructions.

Binaries and reports are kept under build/cubin as long as no file of the kernels changes.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from ahead import Job

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "csrc" / "cuda"
CACHE = ROOT / "build" / "cubin"
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
JOBS = os.cpu_count() or 1
#: Names of the arithmetics as they stand in symbols.
MATHS = {"6__half": "half", "13__nv_bfloat16": "bfloat16", "NS0_4Tf32E": "tf32", "NS0_4Fp32E": "float"}


def nvcc() -> str | None:
    return shutil.which("nvcc")


def nvdisasm() -> str | None:
    """CUDA's own, or the one that Triton brings along."""
    if (found := shutil.which("nvdisasm")) is not None:
        return found
    spec = importlib.util.find_spec("triton")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        candidate = Path(folder) / "backends" / "nvidia" / "bin" / "nvdisasm"
        if candidate.exists():
            return str(candidate)
    return None


@dataclass
class Kernel:
    """One compiled kernel. ``loop`` counts the instructions of the innermost loop with the most products in it; of the weight
    gradient's two, of the one with the larger share of products: the other, for values that are not finite, masks each."""

    symbol: str
    registers: int = 0
    stack: int = 0
    spilled: int = 0
    instructions: Counter[str] = field(default_factory=Counter)
    loop: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """The template's name: first_stage_kernel and so on."""
        found = re.match(r"_ZN3gcn4cuda(\d+)", self.symbol)
        assert found is not None, self.symbol
        return self.symbol[found.end() :][: int(found[1])]

    @property
    def math(self) -> str:
        """The first template argument."""
        return next((MATHS[m] for m in MATHS if f"{self.name}I{m}" in self.symbol), "")

    @property
    def numbers(self) -> tuple[int, ...]:
        """The template arguments that are numbers, flags or enumerators."""
        return tuple(int(n) for n in re.findall(r"L(?:[ib]|NS0_\d+[A-Za-z]*TileE)(\d+)E", self.symbol))

    def __str__(self) -> str:
        return f"{self.name}<{', '.join([self.math, *map(str, self.numbers)])}>"


PORTABLE = sorted(path for path in SOURCES.rglob("*.cu") if "hopper" not in path.parts)
HOPPER = sorted(SOURCES.glob("gcn/hopper/instances/*.cu")) + sorted(SOURCES.glob("refine/hopper/*.cu"))


@dataclass(frozen=True)
class Compiled:
    """All kernels of some files, and what ptxas said about them."""

    kernels: tuple[Kernel, ...]
    report: str


def jobs(architecture: int, math: str = "") -> list[Job]:
    """What ``compiled`` waits for."""
    return _jobs(_portable(math), str(architecture))


def jobs_hopper() -> list[Job]:
    return _jobs(HOPPER, "90a")


def _jobs(sources: Sequence[Path], architecture: str) -> list[Job]:
    return [] if nvcc() is None else [partial(_binary, source, architecture) for source in sources]


def compiled(architecture: int, math: str = "") -> Compiled:
    """The kernels that every architecture has, for ``sm_<architecture>``; of the block's those of one arithmetic, or all."""
    return _compiled(_portable(math), str(architecture))


def _portable(math: str) -> tuple[Path, ...]:
    return tuple(path for path in PORTABLE if path.parent.name != "instances" or path.stem.endswith(math))


def compiled_hopper() -> Compiled:
    return _compiled(tuple(HOPPER), "90a")


@cache
def _compiled(sources: tuple[Path, ...], architecture: str) -> Compiled:
    with ThreadPoolExecutor(JOBS) as pool:
        binaries = list(pool.map(lambda source: _binary(source, architecture), sources))
    kernels: list[Kernel] = []
    reports = [binary.with_suffix(".txt").read_text() for binary in binaries]
    for binary, report in zip(binaries, reports, strict=True):
        found = _read_report(report)
        if (disassembler := nvdisasm()) is not None:
            _read_listing(_run([disassembler, "-c", str(binary)]).stdout, found)
        kernels += found.values()
    return Compiled(tuple(kernels), "".join(reports))


def _binary(source: Path, architecture: str) -> Path:
    """The cubin of a file; the report of the compiler lies beside it."""
    flags = ["-std=c++17", f"-gencode=arch=compute_{architecture},code=sm_{architecture}", "-O3", "-Xptxas", "-v", "-cubin"]
    binary = CACHE / f"{source.stem}.sm_{architecture}.{_state_of_the_sources()}.cubin"
    report = binary.with_suffix(".txt")
    if not report.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = binary.with_name(f"{os.getpid()}.{binary.name}")
        done = _run(["nvcc", *flags, str(source), "-o", str(unfinished)])
        unfinished.replace(binary)
        unfinished.write_text(done.stderr)
        unfinished.replace(report)
    return binary


@cache
def _state_of_the_sources() -> str:
    digest = hashlib.sha256(_run(["nvcc", "--version"]).stdout.encode())
    for path in sorted(path for path in SOURCES.rglob("*") if path.suffix in (".cu", ".cuh", ".h")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done


def _read_report(report: str) -> dict[str, Kernel]:
    """What ptxas says of each kernel."""
    kernels: dict[str, Kernel] = {}
    for line in report.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            current = kernels.setdefault(found[1], Kernel(found[1]))
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            current.stack, current.spilled = int(found[1]), int(found[2]) + int(found[3])
        elif found := re.search(r"Used (\d+) registers", line):
            current.registers = int(found[1])
    return kernels


def _read_listing(listing: str, kernels: dict[str, Kernel]) -> None:
    for symbol, body in re.findall(r"^\.text\.(\w+):\n(.*?)(?=^//-----|\Z)", listing, re.MULTILINE | re.DOTALL):
        lines = body.splitlines()
        kernels[symbol].instructions = _count(lines)
        loops = [_count(lines[first : last + 1]) for first, last in _innermost_loops(lines)]
        two = kernels[symbol].name == "weight_grad_kernel"
        kernels[symbol].loop = max(loops, key=lambda loop: loop["HMMA"] / (loop.total() if two else 1), default=Counter())


def _count(lines: list[str]) -> Counter[str]:
    """Instructions by the part of their names before the first point."""
    found = (re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z0-9]+)", line) for line in lines)
    return Counter(match[1] for match in found if match)


def _innermost_loops(lines: list[str]) -> list[tuple[int, int]]:
    """First and last lines of the branches backwards that have products between them and no other such loop."""
    labels = {line.removesuffix(":"): i for i, line in enumerate(lines) if line.startswith(".L_x_")}
    loops = []
    for i, line in enumerate(lines):
        target = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", line)
        if target and labels.get(target[1], i) < i and any("HMMA" in inner for inner in lines[labels[target[1]] : i]):
            loops.append((labels[target[1]], i))
    return [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
