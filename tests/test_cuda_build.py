"""What setup.py decides about the CUDA kernels: for which architectures, by which nvcc, and why not."""

import importlib.util
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "csrc" / "build" / "cuda_build.py"
if not SCRIPT.is_file():
    pytest.skip("needs the source tree", allow_module_level=True)
KNOWN = [(7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (12, 1)]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPT.with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


cuda_build = load("cuda_build")


@pytest.mark.parametrize(
    ("asked", "visible", "known", "expected"),
    [
        (None, [], KNOWN, ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX")),
        (None, [], [(8, 0), (8, 6), (9, 0)], ("8.0", "8.6", "9.0+PTX")),
        (None, [(9, 0), (8, 0), (9, 0)], KNOWN, ("8.0", "9.0+PTX")),
        (None, [(13, 0)], KNOWN, ("12.1+PTX",)),
        (None, [(7, 5)], KNOWN, ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX")),
        ("native", [(8, 6)], KNOWN, ("8.6+PTX",)),
        ("7.0 7.5;8.0,9.0a", [(8, 6)], KNOWN, ("8.0", "9.0a")),
        ("8.0;9.0+PTX", [], KNOWN, ("8.0", "9.0+PTX")),
    ],
)
def test_architectures(
    asked: str | None, visible: list[tuple[int, int]], known: list[tuple[int, int]], expected: tuple[str, ...]
) -> None:
    assert cuda_build.choose_architectures(asked, visible, known) == expected


@pytest.mark.parametrize(("asked", "says"), [("Hopper", "numbers as in"), ("7.0;7.5", "nothing from 8.0 on"), ("80", "numbers")])
def test_architectures_that_are_refused(asked: str, says: str) -> None:
    with pytest.raises(cuda_build.LeftOutError, match=says):
        cuda_build.choose_architectures(asked, [], KNOWN)


def test_flags_for_nvcc() -> None:
    assert cuda_build.gencode(["9.0a", "12.0+PTX"]) == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]


@pytest.mark.parametrize(("asked", "built"), [("8.0;9.0+PTX", True), ("9.0a", True), ("8.0;10.0", False)])
def test_the_kernels_of_sm_90a_are_built_for_it_alone(tmp_path: Path, asked: str, built: bool) -> None:
    environment = {**toolkit(tmp_path / "cuda", "13.0"), "TORCH_CUDA_ARCH_LIST": asked}
    build = cuda_build.decide("2.14.1+cu130", "13.0", [], tmp_path, environment)
    assert build.hopper == built
    command = build.hopper_command("a.cu", tmp_path / "a.o")
    assert [flag for flag in command if "gencode" in flag] == ["-gencode=arch=compute_90a,code=sm_90a"]
    assert "-Xcompiler=-fPIC" in command


def toolkit(folder: Path, release: str) -> dict[str, str]:
    """A folder with an nvcc that only answers questions, headers and the runtime; the environment that points at it."""
    for name in ("bin", "include", "lib64"):
        (folder / name).mkdir(parents=True)
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        f'  --version) echo "Cuda compilation tools, release {release}, V{release}.1";;\n'
        "  --list-gpu-arch) echo compute_80; echo compute_90;;\n"
        "esac\n"
    )
    nvcc.chmod(nvcc.stat().st_mode | stat.S_IXUSR)
    (folder / "include" / cuda_build.HEADER).touch()
    (folder / "lib64" / cuda_build.RUNTIME).touch()
    return {"CUDA_HOME": str(folder), "PATH": "/usr/bin:/bin"}


def test_a_toolkit_is_found_and_used(tmp_path: Path) -> None:
    build = cuda_build.decide("2.14.1+cu130", "13.0", [], tmp_path, toolkit(tmp_path / "cuda", "13.1"))
    assert build.architectures == ("8.0", "9.0+PTX")
    assert (build.toolkit.version, build.toolkit.home) == ("13.1", tmp_path / "cuda")
    assert build.toolkit.runtime == tmp_path / "cuda" / "lib64" / cuda_build.RUNTIME


def test_pips_packages_complete_a_toolkit(tmp_path: Path) -> None:
    environment = toolkit(tmp_path / "cuda", "13.0")
    (tmp_path / "cuda" / "lib64" / cuda_build.RUNTIME).unlink()
    with pytest.raises(cuda_build.LeftOutError, match=cuda_build.RUNTIME):
        cuda_build.decide("2.14.1+cu130", "13.0", [], tmp_path, environment)
    package = tmp_path / "nvidia" / "cu13" / "lib"
    package.mkdir(parents=True)
    (package / cuda_build.RUNTIME).touch()
    assert cuda_build.decide("2.14.1+cu130", "13.0", [], tmp_path, environment).toolkit.runtime.parent == package


@pytest.mark.parametrize(
    ("release", "torch_cuda", "more", "says"),
    [
        ("12.8", "13.0", {}, r"CUDA 12\.8.*CUDA 13\.0.*CUDA_HOME"),
        ("13.0", None, {}, "built without CUDA"),
        ("13.0", "13.0", {"GCN_KERNELS_NO_CUDA": "1"}, "GCN_KERNELS_NO_CUDA"),
        ("13.0", "13.0", {"SKIP_CUDA": "1"}, "SKIP_CUDA"),
        ("13.0", "13.0", {"CUDA_HOME": "/nowhere"}, "no nvcc.*CUDA_HOME=/nowhere"),
    ],
)
def test_reasons_to_leave_them_out(tmp_path: Path, release: str, torch_cuda: str | None, more: dict[str, str], says: str) -> None:
    environment = {**toolkit(tmp_path / "cuda", release), **more}
    with pytest.raises(cuda_build.LeftOutError, match=says):
        cuda_build.decide("2.14.1", torch_cuda, [], tmp_path, environment)
    with pytest.raises(SystemExit, match="FORCE_CUDA"):
        cuda_build.decide("2.14.1", torch_cuda, [], tmp_path, {**environment, "FORCE_CUDA": "1"})


@pytest.mark.parametrize("name", ["GCN_KERNELS_NO_CUDA", "SKIP_CUDA", "FORCE_CUDA"])
@pytest.mark.parametrize("value", ["flase", "2", "ja"])
def test_a_switch_that_is_neither_on_nor_off_is_an_error(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(SystemExit, match=rf"{name}: expected 1 .* or 0 .*, got '{value}'"):
        cuda_build.decide("2.13.0", None, [], tmp_path, {name: value})


@pytest.mark.parametrize("jobs", ["two", "0"])
def test_a_number_of_jobs_that_is_none_is_an_error(jobs: str) -> None:
    setup = Path(__file__).parents[1] / "setup.py"
    command = [sys.executable, str(setup), "--version"]
    done = subprocess.run(command, cwd=setup.parent, env={**os.environ, "MAX_JOBS": jobs}, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"MAX_JOBS: expected a whole number of at least 1, got '{jobs}'" in done.stderr


@pytest.mark.parametrize("asked", ["", "0", "1"])
def test_waits_that_end_are_built_where_they_are_asked_for(asked: str) -> None:
    toolkit = cuda_build.Toolkit(Path("nvcc"), "13.0", Path("include"), Path("lib"))
    build = cuda_build.CudaBuild(
        toolkit, ("9.0",), cuda_build._is_on({"GCN_KERNELS_DEBUG_BARRIERS": asked}, "GCN_KERNELS_DEBUG_BARRIERS")
    )
    assert ("-DGCN_DEBUG_BARRIERS" in build.hopper_command("kernel.cu", "kernel.o")) == (asked == "1")


def test_the_state_of_sources_is_that_of_the_code(tmp_path: Path) -> None:
    """Comments, white space and results of measurements do not count; names and code do."""
    sources = load("cuda_sources")
    (tmp_path / "kernel.cu").write_text("int x = 1;  // one\n")
    first = sources.state(tmp_path)
    (tmp_path / "kernel.cu").write_text("// another\nint  x = 1;\n")
    (tmp_path / "hopper_measured.h").write_text("a table")
    (tmp_path / "notes.md").write_text("notes")
    assert sources.state(tmp_path) == first
    (tmp_path / "kernel.cu").write_text("int x = 2;")
    assert sources.state(tmp_path) != first
