"""All steps of the report, the most valuable first, with what each needs and may take."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gcnbench import plot

from gcn_kernels import backends
from gpureport.steps import Step

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
#: Files of the tests whose cases on a GPU say most; all of them together are pytest -m gpu.
GPU_TESTS = (
    "test_cuda_stream.py",
    "test_registration.py",
    "test_determinism.py",
    "test_strides.py",
    "test_non_finite.py",
    "test_autocast.py",
    "test_compile.py",
    "test_errors.py",
    "test_gradients.py",
    "test_forward.py",
)
#: How the names of the kernels begin.
OURS = "prepare|first_stage|combine|line_conv|weight_grad|second_stage_grad|finish|direct|hopper"
#: Seconds that all steps together take at most, and with them their limits below.
SECONDS = 525.0


def environment(*, built_in_place: bool) -> dict[str, str]:
    """What the programs of the steps see: the benchmarks' and the tests' modules, and the sources if they were built in place."""
    folders = [*([ROOT] if built_in_place else []), ROOT / "benchmarks", TESTS, TESTS / "emu"]
    return {"PYTHONPATH": ":".join(map(str, folders)), "PYTHONUNBUFFERED": "1"}


def no_kernels(seen: Mapping[str, str]) -> str | None:
    """Why the CUDA kernels cannot run in the programs of the steps, which see ``environment()``."""
    code = "from gcn_kernels import backends; print(backends.why_not('cuda', 'cuda') or '')"
    # Not in the current folder, whose sources Python would import.
    options: dict[str, Any] = {"cwd": TESTS, "env": {**os.environ, **seen}}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options)
    return (found.stdout.strip() or None) if found.returncode == 0 else f"gcn_kernels cannot be imported: {found.stderr[-500:]}"


def _no_calibration() -> str | None:
    if not (TESTS / "emu" / "calibration.py").is_file():
        return "this checkout has no tests/emu/calibration.py"
    if not torch.cuda.is_available():
        return "no GPU that this PyTorch can use"
    return None if shutil.which("nvcc") else "nvcc is not installed"


def _no_hopper() -> str | None:
    if torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0):
        return None
    return "no GPU of compute capability 9.0"


def build_step() -> Step:
    """Compile the libraries in the source tree; setup.py takes the architectures of the GPUs that it sees."""
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return Step("build", "compile for the GPUs in this machine", command, 300.0, folder=ROOT)


def steps(out: Path, seconds: float, why_not: str | None) -> list[Step]:
    """All steps after the build, in order, together within about ``seconds``.

    Args:
        out: folder of the results.
        seconds: for all steps.
        why_not: the CUDA kernels cannot run, or None.
    """
    scale = seconds / SECONDS
    running = [b for b in ("cuda", "triton") if b in backends.BACKENDS]

    def module(name: str, *arguments: object) -> list[str]:
        return [sys.executable, "-m", f"gpureport.{name}", *map(str, arguments)]

    def kernels(name: str, what: str, limit: float, command: list[str], tool: str | None = None) -> Step:
        missing = f"{tool} is not installed" if tool is not None and shutil.which(tool) is None else None
        return Step(name, what, command, limit * scale, why_not or missing)

    def benchmark(dtype: str, what: str, limit: float, *more: str) -> Step:
        # Programs stop by themselves a little before they would be stopped.
        options = ["--out", out / f"benchmark-{dtype}.json", "--seconds", 0.8 * limit * scale, "--dtype", dtype]
        return kernels(f"benchmark-{dtype}", what, limit, module("timing", *options, "--backends", *running, *more))

    def hopper(name: str, what: str, limit: float, command: list[str]) -> Step:
        asked_for = ["env", "GCN_KERNELS_GENERATION=hopper", *command]
        return Step(f"hopper-{name}", what, asked_for, limit * scale, why_not or _no_hopper())

    def sanitizer(tool: str, what: str) -> Step:
        command = ["compute-sanitizer", "--error-exitcode", "9", "--tool", tool]
        return kernels(tool, what, 40, [*command, *module("exercise")], command[0])

    correctness = ["--out", out / "correctness.jsonl", "--seconds", 90 * scale, "--backends", *running]
    correctness_hopper = ["--out", out / "hopper-correctness.jsonl", "--seconds", 25 * scale, "--backends", "cuda"]
    calibration = [sys.executable, str(TESTS / "emu" / "calibration.py"), "--out", str(out / "calibration")]
    files = [str(TESTS / name) for name in GPU_TESTS if (TESTS / name).is_file()]
    pytest = [sys.executable, "-m", "pytest", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    pytest += ["-m", "gpu", "-q", "-rf", "--maxfail=50", "--tb=short", "-p", "no:cacheprovider"]
    ncu = ["ncu", "--set", "basic", "--csv", "--log-file", str(out / "ncu.csv"), "-k", f"regex:^({OURS})"]
    return [
        Step("info", "what is installed", [sys.executable, "-m", "gcn_kernels.info"], 20 * scale),
        kernels("correctness", "every problem of the tests against float64", 95, module("correctness", *correctness)),
        Step("calibration", "wrappers of the device layer with fixed inputs", calibration, 35 * scale, _no_calibration()),
        benchmark("bfloat16", "paper's maps, bfloat16", 115),
        kernels("kernels", "every kernel against its floor", 30, module("kernels", "--out", out / "kernels.json")),
        hopper("correctness", "the kernels of sm_90a, asked for", 30, module("correctness", *correctness_hopper)),
        hopper("kernels", "the same against their floors", 30, module("kernels", "--out", out / "hopper-kernels.json")),
        kernels("tests", "tests that need a GPU", 40, [*pytest, *files]),
        benchmark("float32", "paper's maps, tf32", 50, "--no-compile"),
        sanitizer("memcheck", "accesses out of bounds"),
        sanitizer("racecheck", "races in shared memory"),
        kernels("ncu", "profile of every kernel", 30, [*ncu, *module("exercise", "--paper")], "ncu"),
        Step("plots", "pictures", module("summary", "--plots", out), 15 * scale, why_not or plot.missing()),
    ]
