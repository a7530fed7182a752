"""Builds emulator modules: kernels' own source, compiled by the host's compiler against tests/emu instead of CUDA.

Objects are kept under build/emu by what the preprocessor makes of their source, so that an edit, or a fault planted in a copy
of the sources, recompiles what it reaches and nothing else.
"""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sysconfig
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCES = ROOT / "csrc" / "cuda"
CACHE = Path(os.environ.get("GCN_EMULATOR_CACHE", ROOT / "build" / "emu"))
JOBS = os.cpu_count() or 1

COMPILER = os.environ.get("CXX", "g++")
#: Uninitialised variables hold a pattern, sums are not contracted, and modules of one process do not share their variables.
FLAGS = (
    *("-std=c++20", "-fPIC", "-fvisibility=default", "-march=native", "-ffp-contract=off"),
    *("-ftrivial-auto-var-init=pattern", "-fno-gnu-unique"),
)
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g1")


def why_not() -> str | None:
    """Why the emulator cannot be built here."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return "the emulator's fibers are written for Linux on x86-64"
    if shutil.which(COMPILER) is None:
        return f"the emulator needs the compiler {COMPILER}"
    return None


@dataclass(frozen=True)
class Build:
    """A Python module and how it is compiled; ``sources`` are in this folder or in ``kernels``, which is searched first."""

    name: str
    sources: tuple[str, ...]
    kernels: Path = SOURCES
    optimize: str = "-O2"
    defines: tuple[str, ...] = ()
    sanitized: bool = False
    faulty: Path | None = None
    compiled_again: tuple[str, ...] = ()

    def over(self, faulty: Path, compiled_again: tuple[str, ...]) -> "Build":
        """The same module with some sources taken from a copy of the kernels that has a fault in it."""
        # First in line, and so first in the link: what several objects define is taken from the first.
        sources = (*compiled_again, *(s for s in self.sources if s not in compiled_again))
        return replace(self, sources=sources, faulty=faulty, compiled_again=compiled_again)

    @property
    def flags(self) -> tuple[str, ...]:
        return (*FLAGS, self.optimize, *(f"-D{d}" for d in self.defines), *(SANITIZERS if self.sanitized else ()))

    def library(self, more: Sequence[Path] = ()) -> Path:
        """Compile what is not in the cache and return the module's file, with ``more`` objects in it."""
        with ThreadPoolExecutor(JOBS) as pool:
            objects = [*pool.map(self._compiled, self.sources), *more]
        key = _digest(*map(str, objects), *self.flags)
        library = CACHE / key / f"{self.name}{sysconfig.get_config_var('EXT_SUFFIX')}"
        if not library.exists():
            _produce(library, [COMPILER, "-shared", *self.flags, *map(str, objects), "-ldl"])
        return library

    def jobs(self) -> list["partial[Path]"]:
        """What ``library`` of a module without a fault waits for: see ahead.py."""
        return [] if why_not() else [partial(_sound, source, self.kernels, self.flags) for source in self.sources]

    def load(self) -> ModuleType:
        return load(self.library(), self.name)

    def _compiled(self, source: str) -> Path:
        if self.faulty is not None and source in self.compiled_again:
            # It is compiled once and runs once, on a small problem; and a compiler may well warn of a fault.
            return compiled(source, self.faulty, (*self.flags, "-O1"), ("-w",))
        return _sound(source, self.kernels, self.flags)


def compiled(source: str, kernels: Path, flags: tuple[str, ...], warnings: tuple[str, ...]) -> Path:
    import pybind11

    path = HERE / source if (HERE / source).exists() else kernels / source
    folders = (kernels, SOURCES, HERE, Path(pybind11.get_include()), Path(sysconfig.get_paths()["include"]))
    includes = [f"-I{f}" for f in folders]
    same_names = [f"-fmacro-prefix-map={kernels}=kernels"]  # in messages, and so in the cache, wherever a copy lies
    command = [COMPILER, "-x", "c++", *flags, *same_names, *includes]
    text = _run([*command, "-E", "-P", str(path)])
    target = CACHE / f"{_digest(text, COMPILER, *flags)}.o"
    if not target.exists():
        _produce(target, [*command, *warnings, "-c", str(path)])
    return target


@cache
def _sound(source: str, kernels: Path, flags: tuple[str, ...]) -> Path:
    """Once in a process: modules with a fault in them share all other objects."""
    return compiled(source, kernels, flags, WARNINGS)


def load(library: Path | str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _produce(target: Path, command: Sequence[str]) -> None:
    """Run a compiler; the target appears only when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.{threading.get_ident()}.unfinished")
    _run([*command, "-o", str(unfinished)])
    unfinished.replace(target)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


#: The wrappers' own tests.
DEVICE = Build("emu_device", ("device_module.cpp",))
#: A product to plant faults in.
EXAMPLE = Build("emu_example", ("example_module.cpp", "example_driver.cpp"), kernels=HERE / "example", optimize="-O1")
#: The whole operator: plan, launches and every kernel.
MATHS = ("half", "bfloat16", "tf32", "float")
KERNELS = ("first_stage", "line_conv", "weight_grad", "second_stage_grad")
HOPPER_KERNELS = ("first_stage", "weight_grad", "input_grad", "second_stage")
PLANS = (
    *(
        "gcn/plan.cpp",
        *(f"gcn/plan_{part}.cpp" for part in ("first_stage", "line_conv", "unpacked", "weight_grad")),
        "gcn/cost.cpp",
    ),
    *("gcn/hopper/hopper_plan.cpp", *(f"gcn/hopper/hopper_plan_{kernel}.cpp" for kernel in HOPPER_KERNELS)),
)
HOST = (
    *("operator_module.cpp", *PLANS),
    *("gcn/execute.cpp", "gcn/kernels.cu"),
    *("gcn/hopper/hopper_execute.cpp", "gcn/hopper/hopper_kernels.cu"),
)
INSTANCES = tuple(f"gcn/instances/{kernel}_{math}.cu" for kernel in KERNELS for math in MATHS)
HOPPER_INSTANCES = (
    *(f"gcn/hopper/instances/hopper_{kernel}_{math}.cu" for kernel in HOPPER_KERNELS for math in ("half", "bfloat16")),
    "gcn/hopper/instances/hopper_first_stage_tf32.cu",
)
OPERATOR = Build("emu_operator", (*HOST, *INSTANCES, *HOPPER_INSTANCES))
#: The operator under sanitizers, which take several times as long to compile. What differs from another arithmetic in the
#: conversion of numbers only is left out: see left_out.cpp.
SANITIZED = replace(
    OPERATOR,
    sources=(
        *(*HOST, "left_out.cpp"),
        *(source for source in INSTANCES if "bfloat16" not in source),
        *(source for source in HOPPER_INSTANCES if "half" in source),
    ),
    optimize="-O1",
    sanitized=True,
)


STRIPS = Build(
    "emu_strips",
    (
        *("host_module.cpp", "strips_module.cpp", *PLANS, "gcn/hopper/hopper_absent.cpp"),
        *("strips/strips_plan.cpp", "strips/strips_layout.cpp", "strips/strips_execute.cpp", "strips_program.cpp"),
        *("strips/strips_kernels.cu", *(f"strips/strips_{math}.cu" for math in ("half", "bfloat16", "tf32", "float", "double"))),
    ),
)
#: Boundary refinement likewise.
REFINE = Build(
    "emu_refine",
    (
        *("host_module.cpp", "refine_module.cpp", *PLANS),
        *(f"refine/refine_{part}.cpp" for part in ("plan", "plan_march", "execute")),
        *("refine/refine_kernels.cu", *(f"refine/refine_{math}.cu" for math in ("half", "bfloat16", "tf32", "float", "double"))),
        *(f"refine/hopper/refine_march_{part}.cu" for part in ("kernels", "half", "bfloat16")),
    ),
)
#: The doubling likewise.
UPSAMPLE = Build(
    "emu_upsample",
    (
        *("host_module.cpp", "upsample_module.cpp", *PLANS, "gcn/hopper/hopper_absent.cpp"),
        *("upsample/upsample_plan.cpp", "upsample/upsample_execute.cpp", "upsample/upsample_kernels.cu"),
        *(f"upsample/upsample_{stored}.cu" for stored in ("half", "bfloat16", "float", "double")),
    ),
)


def host_library() -> Path:
    """The host file of the first operator over the same kernels, as a library for ``torch.ops.load_library``."""
    return _host_library("host_library.cpp", [source for source in OPERATOR.sources if source != "operator_module.cpp"])


def strips_library(more: Sequence[Path] = (), build: Build = STRIPS) -> Path:
    """The same of the depthwise strips, with ``more`` objects in it."""
    return _host_library("host_strips.cpp", build.sources, more, build)


def refine_library(more: Sequence[Path] = (), build: Build = REFINE) -> Path:
    """The same of boundary refinement."""
    return _host_library("host_refine.cpp", build.sources, more, build)


def upsample_library(more: Sequence[Path] = (), build: Build = UPSAMPLE) -> Path:
    """The same of the doubling."""
    return _host_library("host_upsample.cpp", build.sources, more, build)


def _host_library(host_source: str, sources: Sequence[str], more: Sequence[Path] = (), build: Build = OPERATOR) -> Path:
    import torch

    installed = Path(torch.__file__).parent
    headers = (f"-isystem{installed / 'include'}", f"-I{HERE / 'host'}")
    stable = ("-fvisibility=hidden", "-DTORCH_TARGET_VERSION=0x020b000000000000", "-DTORCH_STABLE_ONLY")
    host = compiled(host_source, SOURCES, (*build.flags, *stable, *headers), WARNINGS)
    with ThreadPoolExecutor(JOBS) as pool:
        objects = [host, *pool.map(build._compiled, sources), *more]
    library = CACHE / _digest(*map(str, objects)) / f"{Path(host_source).stem}.so"
    if not library.exists():
        links = [f"-L{installed / 'lib'}", f"-Wl,-rpath,{installed / 'lib'}", "-ltorch_cpu", "-lc10", "-ldl"]
        _produce(library, [COMPILER, "-shared", *build.flags, *map(str, objects), *links])
    return library
