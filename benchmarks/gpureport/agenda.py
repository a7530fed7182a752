"""The steps of every part of the report, the most valuable first, with what each needs and may take."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
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
    "test_cuda_first_call.py",
    "test_strips_cuda.py",
    "test_refine_cuda.py",
    "test_upsample_cuda.py",
    "test_registration.py",
    "test_determinism.py",
    "test_strides.py",
    "test_non_finite.py",
    "test_autocast.py",
    "test_compile.py",
    "test_errors.py",
    "test_gradients.py",
    "test_forward.py",
    "test_upsample.py",
)
#: How the names of the kernels begin.
OURS = "prepare|first_stage|unpacked|combine|line_conv|weight_grad|second_stage_grad|finish|direct|hopper|strips|refine|upsample"
#: Whose kernels: those of every GPU, and those of sm_90a wherever they take a problem.
GENERATIONS = ("hopper", "portable")


def environment(*, built_in_place: bool) -> dict[str, str]:
    """What the programs of the steps see: the benchmarks' and the tests' modules, and the sources if they were built in place."""
    folders = [*([ROOT] if built_in_place else []), ROOT / "benchmarks", TESTS, TESTS / "emu"]
    return {"PYTHONPATH": ":".join(map(str, folders)), "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Installed:
    """What the programs of the steps would run.

    Attributes:
        why_not: the CUDA kernels cannot run, or None.
        sources: state of the CUDA sources that the library is built from.
    """

    why_not: str | None
    sources: str


def installed(seen: Mapping[str, str]) -> Installed:
    """Ask a program that sees ``environment()``."""
    code = (
        "import json; from gcn_kernels import backends; from gcn_kernels.core.library import LIBRARIES; "
        "print(json.dumps([backends.why_not('cuda', 'cuda'), str(LIBRARIES.build.get('cuda_sources', 'unknown'))]))"
    )
    # Not in the current folder, whose sources Python would import.
    options: dict[str, Any] = {"cwd": TESTS, "env": {**os.environ, **seen}}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options)
    if found.returncode:
        return Installed(f"gcn_kernels cannot be imported: {found.stderr[-500:]}", "unknown")
    return Installed(*json.loads(found.stdout.splitlines()[-1]))


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


def parts(out: Path, why_not: str | None) -> dict[str, list[Step]]:
    """The steps of every part, in order. Together the limits of a part may be more than its time; see ``parts.run``.

    A is whether the kernels are right; B how fast they are, beside each other and the baselines in one process; C what the
    tools say of them, and the tests.

    Args:
        out: folder of the results.
        why_not: the CUDA kernels cannot run, or None.
    """
    running = [b for b in ("cuda", "triton") if b in backends.BACKENDS]

    def module(name: str, *arguments: object) -> list[str]:
        return [sys.executable, "-m", f"gpureport.{name}", *map(str, arguments)]

    def step(name: str, what: str, limit: float, command: list[str], *, least: float = 8, missing: str | None = None) -> Step:
        return Step(name, what, command, limit, why_not or missing, least=least)

    def of(generation: str, name: str, what: str, limit: float, command: list[str], tool: str | None = None) -> Step:
        missing = _no_hopper() if generation == "hopper" else None
        if tool is not None and shutil.which(tool) is None:
            missing = f"{tool} is not installed"
        asked_for = ["env", f"GCN_KERNELS_GENERATION={generation}", *command]
        return step(f"{name}-{generation}", f"{what}, {generation} kernels", limit, asked_for, missing=missing)

    def correctness(generation: str, limit: float, name: str, *more: object, backend: str = "cuda") -> Step:
        file = out / f"{name}-{generation}.jsonl"
        # Programs stop by themselves a little before they would be stopped.
        command = module("correctness", "--out", file, "--seconds", 0.85 * limit, "--backends", backend, *more)
        return of(generation, name, "results against float64, twice", limit, command)

    def unpacked(name: str, what: str, limit: float, command: list[str]) -> Step:
        asked_for = ["env", "GCN_KERNELS_GENERATION=portable", "GCN_KERNELS_PLAN=unpacked_weights=1", *command]
        return step(f"{name}-unpacked", f"{what}, kernels that read weights as they are given", limit, asked_for)

    def unpacked_correctness(limit: float) -> Step:
        options = ["--out", out / "correctness-unpacked.jsonl", "--seconds", 0.85 * limit, "--backends", "cuda"]
        command = module("correctness", *options, "--sets", "paper", "--math", "bfloat16", "float16")
        return unpacked("correctness", "results against float64, twice", limit, command)

    def benchmark(dtype: str, limit: float, *more: object) -> Step:
        options = ["--out", out / f"benchmark-{dtype}.json", "--seconds", 0.8 * limit, "--dtype", dtype, "--graphs", "on"]
        options += ["--generations", *(g for g in GENERATIONS if g == "portable" or _no_hopper() is None)]
        command = module("timing", *options, "--backends", *running, "--no-compile", *more)
        return step(f"benchmark-{dtype}", f"paper's maps, {dtype}, by replays of CUDA graphs", limit, command, least=20)

    def strips(task: str, limit: float) -> Step:
        command = module("strips", task, "--out", out / f"strips-{task}.jsonl", "--seconds", 0.8 * limit)
        return step(f"strips-{task}", f"depthwise strips: {task}", limit, command, least=10)

    def triton_strips(task: str, limit: float) -> Step:
        name, missing = f"triton-strips-{task}", backends.why_not("triton", "cuda")
        command = module("strips", task, "--out", out / f"{name}.jsonl", "--seconds", 0.8 * limit, "--backends", "triton")
        return Step(name, f"depthwise strips by Triton's kernels: {task}", command, limit, missing, least=15)

    by_either = backends.why_not("triton", "cuda") and backends.why_not("cuda", "cuda")

    def upsample(task: str, limit: float) -> Step:
        command = module("upsample", task, "--out", out / f"upsample-{task}.jsonl", "--seconds", 0.8 * limit)
        return Step(f"upsample-{task}", f"doubling of a map: {task}", command, limit, by_either, least=12)

    def upsample_forms(task: str, limit: float) -> Step:
        command = module("upsample_forms", task, "--out", out / f"upsample-forms-{task}.jsonl", "--seconds", 0.8 * limit)
        return Step(f"upsample-forms-{task}", f"doubling by other kernels: {task}", command, limit, by_either, least=12)

    def refine(task: str, limit: float) -> Step:
        command = module("refine", task, "--out", out / f"refine-{task}.jsonl", "--seconds", 0.8 * limit)
        return step(f"refine-{task}", f"boundary refinement: {task}", limit, command, least=12)

    def refine_in_triton(task: str, limit: float) -> Step:
        missing, file = backends.why_not("triton", "cuda"), out / f"refine-triton-{task}.jsonl"
        command = module("refine", task, "--out", file, "--seconds", 0.8 * limit, "--backends", "triton")
        return Step(f"refine-triton-{task}", f"boundary refinement in Triton: {task}", command, limit, missing, least=12)

    def refine_march(task: str, limit: float) -> Step:
        command = ["env", "GCN_KERNELS_PLAN=refine_march=1", *module("refine", task, "--out", out / f"refine-march-{task}.jsonl")]
        command += ["--seconds", str(0.8 * limit), "--math", "bfloat16", "float16"]
        what = f"boundary refinement, forward by the kernel of sm_90a: {task}"
        return step(f"refine-march-{task}", what, limit, command, missing=_no_hopper(), least=12)

    first = ("--sets", "paper", "views", "--math", "bfloat16", "float16", "tf32")
    rest = ("--sets", "tests")
    calibration = [sys.executable, str(TESTS / "emu" / "calibration.py"), "--out", str(out / "calibration")]
    files = [str(TESTS / name) for name in GPU_TESTS if (TESTS / name).is_file()]
    pytest = [sys.executable, "-m", "pytest", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    pytest += ["-m", "gpu", "-q", "-rf", "--maxfail=50", "--tb=short", "-p", "no:cacheprovider", *files]
    sanitizer = ["compute-sanitizer", "--error-exitcode", "9", "--tool"]

    def profile(generation: str) -> Step:
        ncu = ["ncu", "--set", "basic", "--section", "MemoryWorkloadAnalysis", "--clock-control", "none", "--csv"]
        ncu += ["--log-file", str(out / f"ncu-{generation}.csv"), "-k", f"regex:^({OURS})", *module("exercise", "--paper")]
        return of(generation, "ncu", "profile of the kernels at batch 16", 40, ncu, "ncu")

    def sanitized(generation: str, tool: str, what: str) -> Step:
        command = [*sanitizer, tool, *module("exercise")]
        return of(generation, tool, what, 30, command, sanitizer[0])

    return {
        "A": [
            Step("info", "what is installed", [sys.executable, "-m", "gcn_kernels.info"], 60),
            *(correctness(generation, 55, "correctness", *first) for generation in GENERATIONS),
            strips("check", 25),
            Step("calibration", "wrappers of the device layer with fixed inputs", calibration, 30, _no_calibration(), least=8),
            *(correctness(generation, 30, "tests-correctness", *rest) for generation in GENERATIONS),
            unpacked_correctness(25),
            correctness("portable", 20, "triton-correctness", *first, backend="triton"),
            upsample("check", 60),
            upsample_forms("check", 30),
            refine("check", 40),
            refine_march("check", 30),
            refine_in_triton("check", 60),
            triton_strips("check", 60),
        ],
        "B": [
            benchmark("bfloat16", 110),
            *(
                of(g, "kernels", "every kernel against its floor", 35, module("kernels", "--out", out / f"kernels-{g}.json"))
                for g in GENERATIONS
            ),
            unpacked("kernels", "every kernel against its floor", 35, module("kernels", "--out", out / "kernels-unpacked.json")),
            strips("time", 45),
            benchmark("float32", 40),
            upsample("time", 60),
            upsample_forms("time", 40),
            refine("time", 40),
            refine_march("time", 30),
            refine_in_triton("time", 60),
            triton_strips("time", 60),
            Step("plots", "pictures", module("summary", "--plots", out), 15, why_not or plot.missing(), least=5),
        ],
        "C": [
            *(profile(generation) for generation in GENERATIONS),
            *(sanitized(generation, "memcheck", "accesses out of bounds") for generation in GENERATIONS),
            *(of(generation, "tests", "tests that need a GPU", 35, pytest) for generation in GENERATIONS),
            *(sanitized(generation, "racecheck", "races in shared memory") for generation in GENERATIONS),
        ],
    }
