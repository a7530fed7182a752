"""What the build of the CUDA kernels needs: a CUDA toolkit that fits this PyTorch, and the architectures to compile for.

Used by setup.py. Nothing here imports torch; facts about it are arguments.

Environment variables:
    GCN_KERNELS_NO_CUDA, SKIP_CUDA  1 leaves the CUDA kernels out.
    FORCE_CUDA                      1 makes it an error if they cannot be built.
    TORCH_CUDA_ARCH_LIST            architectures, as in "8.0;9.0+PTX".
    CUDA_HOME, CUDA_PATH            the toolkit; by default the one whose nvcc is on the path.
    GCN_KERNELS_DEBUG_BARRIERS      1 makes a kernel of sm_90a that waits for more than two seconds say where, and end.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Built for where no GPU is visible, as far as nvcc knows them; the newest also as PTX.
DEFAULT_ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
#: The oldest architecture of the kernels (asynchronous copies, bfloat16 and tf32 matrix instructions).
OLDEST = (8, 0)
_ARCHITECTURE = re.compile(r"(\d+)\.(\d)([af]?)(\+PTX)?")
NVCC_FLAGS = ("-std=c++17", "-O3", "-Xcompiler=-fvisibility=hidden")
HEADER, RUNTIME = "cuda_runtime_api.h", "libcudart_static.a"


class LeftOutError(Exception):
    """The CUDA kernels cannot be built here; the message says why in one line."""


@dataclass(frozen=True)
class Toolkit:
    """An nvcc, and where the headers and the static runtime that go with it are."""

    nvcc: Path
    version: str
    include: Path
    runtime: Path

    @property
    def home(self) -> Path:
        """What CUDA_HOME means by it."""
        return self.nvcc.parent.parent


@dataclass(frozen=True)
class CudaBuild:
    """All that is decided before compiling."""

    toolkit: Toolkit
    architectures: tuple[str, ...]
    debug_barriers: bool = False

    @property
    def nvcc_flags(self) -> list[str]:
        return [*NVCC_FLAGS, *gencode(self.architectures)]

    @property
    def hopper(self) -> bool:
        """Whether the kernels for compute capability 9.0 alone are built."""
        return any(name.startswith("9.0") for name in self.architectures)

    def hopper_command(self, source: str, target: Path) -> list[str]:
        """Compiles one file of these kernels: for sm_90a, whatever the others are compiled for."""
        flags = [*NVCC_FLAGS, "-Xcompiler=-fPIC", *gencode(["9.0a"]), f"-I{self.toolkit.include}"]
        flags += ["-DGCN_DEBUG_BARRIERS"] if self.debug_barriers else []
        return [str(self.toolkit.nvcc), *flags, "-c", source, "-o", str(target)]


def decide(
    torch_version: str,
    torch_cuda: str | None,
    visible: Sequence[tuple[int, int]],
    site_packages: Path,
    environment: Mapping[str, str] = os.environ,
) -> CudaBuild:
    """Find out whether and for what the CUDA kernels are built.

    Args:
        torch_version: ``torch.__version__``.
        torch_cuda: ``torch.version.cuda``.
        visible: compute capabilities of the GPUs in this machine.
        site_packages: where torch is installed; NVIDIA's packages beside it may have what the toolkit lacks.
        environment: see above.

    Raises:
        LeftOutError: they are left out, and why.
        SystemExit: they are left out, and FORCE_CUDA=1 asks for them.
    """
    try:
        for name in ("GCN_KERNELS_NO_CUDA", "SKIP_CUDA"):
            if _is_on(environment, name):
                raise LeftOutError(f"{name} is set")
        if torch_cuda is None:
            raise LeftOutError(f"torch {torch_version} is built without CUDA")
        if sys.platform != "linux":
            raise LeftOutError(f"they have been built on Linux only, this is {sys.platform}")
        toolkit = _find_toolkit(torch_cuda, site_packages, environment)
        architectures = choose_architectures(environment.get("TORCH_CUDA_ARCH_LIST"), visible, _known_to(toolkit.nvcc))
        return CudaBuild(toolkit, architectures, _is_on(environment, "GCN_KERNELS_DEBUG_BARRIERS"))
    except LeftOutError as error:
        if _is_on(environment, "FORCE_CUDA"):
            raise SystemExit(f"gcn_kernels: FORCE_CUDA is set, but the CUDA kernels cannot be built: {error}") from error
        raise


def check_versions(nvcc: Path, nvcc_version: str, torch_cuda: str) -> None:
    """Raise unless nvcc and PyTorch are of the same major version of CUDA."""
    if nvcc_version.split(".")[0] != torch_cuda.split(".")[0]:
        raise LeftOutError(
            f"{nvcc} is of CUDA {nvcc_version}, and this PyTorch was built with CUDA {torch_cuda}: install CUDA "
            f"{torch_cuda} and point CUDA_HOME at it, or a PyTorch for CUDA {nvcc_version}"
        )


def choose_architectures(
    asked: str | None, visible: Sequence[tuple[int, int]], known: Sequence[tuple[int, int]]
) -> tuple[str, ...]:
    """The architectures to build for: those asked for, or those of the visible GPUs, or all that matter.

    Args:
        asked: TORCH_CUDA_ARCH_LIST.
        visible: compute capabilities of the GPUs in this machine.
        known: those that nvcc can compile for.

    Raises:
        LeftOutError: nothing that the kernels can be built for.
    """
    if asked and asked != "native":
        return _parse(asked)
    newest = max(known)
    wanted = sorted({min(capability, newest) for capability in visible if capability >= OLDEST})
    if not wanted:
        wanted = [c for c in (_numbers(name) for name in DEFAULT_ARCHITECTURES) if c in known]
    if not wanted:
        raise LeftOutError(f"this nvcc compiles for nothing among {', '.join(DEFAULT_ARCHITECTURES)}")
    names = [f"{major}.{minor}" for major, minor in wanted]
    return (*names[:-1], f"{names[-1]}+PTX")


def gencode(architectures: Sequence[str]) -> list[str]:
    """nvcc's flags for architectures such as ``9.0`` and ``12.0+PTX``."""
    flags = []
    for architecture in architectures:
        name, _, ptx = architecture.partition("+")
        number = name.replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if ptx:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def _parse(asked: str) -> tuple[str, ...]:
    names = asked.replace(";", " ").replace(",", " ").split()
    for name in names:
        if _ARCHITECTURE.fullmatch(name) is None:
            raise LeftOutError(f"TORCH_CUDA_ARCH_LIST: expected numbers as in '8.0;9.0+PTX', got {name!r}")
    new_enough = tuple(name for name in dict.fromkeys(names) if _numbers(name) >= OLDEST)
    if not new_enough:
        raise LeftOutError(f"TORCH_CUDA_ARCH_LIST={asked!r} has nothing from 8.0 on, which the kernels need")
    return new_enough


def _numbers(name: str) -> tuple[int, int]:
    match = _ARCHITECTURE.fullmatch(name)
    assert match is not None
    return int(match[1]), int(match[2])


def _is_on(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name, "")
    if value.lower() in ("", "0", "off", "no", "false"):
        return False
    if value.lower() not in ("1", "on", "yes", "true"):
        raise SystemExit(f"gcn_kernels: {name}: expected 1 (or on, yes, true) or 0 (or off, no, false), got {value!r}")
    return True


def _find_toolkit(torch_cuda: str, site_packages: Path, environment: Mapping[str, str]) -> Toolkit:
    home = environment.get("CUDA_HOME") or environment.get("CUDA_PATH")
    found = str(Path(home) / "bin" / "nvcc") if home else shutil.which("nvcc", path=environment.get("PATH"))
    if found is None and Path("/usr/local/cuda/bin/nvcc").is_file():
        found = "/usr/local/cuda/bin/nvcc"
    if found is None or not Path(found).is_file():
        where = f"in CUDA_HOME={home}" if home else "on the path"
        raise LeftOutError(f"no nvcc {where} (this PyTorch is built with CUDA {torch_cuda})")
    nvcc = Path(found)
    release = re.search(r"release (\d+\.\d+)", _output([found, "--version"]))
    if release is None:
        raise LeftOutError(f"{nvcc} --version does not say which CUDA it is of")
    check_versions(nvcc, release[1], torch_cuda)
    # A wrapper script or link may stand for nvcc, so nvcc itself is asked where its toolkit is.
    dry = _output([found, "--dryrun", "-c", "-x", "cu", os.devnull, "-o", os.devnull])
    folders = [_named(dry, "INCLUDES", "-I"), _named(dry, "LIBRARIES", "-L")]
    packages = [site_packages / "nvidia" / f"cu{torch_cuda.split('.')[0]}", site_packages / "nvidia" / "cuda_runtime"]
    include = _holding(HEADER, [*folders[0], nvcc.parent.parent / "include", *(p / "include" for p in packages)])
    runtime = _holding(
        RUNTIME, [*folders[1], *(nvcc.parent.parent / name for name in ("lib64", "lib")), *(p / "lib" for p in packages)]
    )
    return Toolkit(nvcc, release[1], include, runtime / RUNTIME)


def _named(dry_run: str, variable: str, option: str) -> list[Path]:
    """The folders in a variable that ``nvcc --dryrun`` prints."""
    line = re.search(rf"^#\$ {variable}=(.*)$", dry_run, re.MULTILINE)
    words = shlex.split(line[1]) if line else []
    return [Path(word.removeprefix(option)).resolve() for word in words if word.startswith(option)]


def _holding(file: str, folders: Sequence[Path]) -> Path:
    for folder in folders:
        if (folder / file).is_file():
            return folder
    raise LeftOutError(f"{file} is in none of {', '.join(map(str, dict.fromkeys(folders)))}: the CUDA toolkit is not complete")


def _known_to(nvcc: Path) -> list[tuple[int, int]]:
    numbers = re.findall(r"compute_(\d+)(\d)\b", _output([str(nvcc), "--list-gpu-arch"]))
    if not numbers:
        raise LeftOutError(f"{nvcc} --list-gpu-arch lists no architectures")
    return [(int(major), int(minor)) for major, minor in numbers]


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise LeftOutError(f"{' '.join(command)} does not run: {error}") from error
    return done.stdout + done.stderr
