"""Compile the libraries of gcn_kernels. Metadata is in pyproject.toml.

Environment variables:
    MAX_JOBS  compile jobs side by side; by default one per core, fewer where memory is short.
    Those of the CUDA kernels are described in csrc/build/cuda_build.py.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).parent / "csrc" / "build"))
import cuda_build
import cuda_sources

#: The LibTorch stable ABI this is compiled for (2.11): the libraries load in that PyTorch and every later one.
STABLE_ABI = "0x020b000000000000"
#: What plans CUDA launches needs no CUDA, so that plans can be looked at anywhere.
PLAN_SOURCES = [
    *sorted(glob("csrc/cuda/gcn/plan*.cpp")),
    "csrc/cuda/gcn/cost.cpp",
    "csrc/cuda/gcn/describe.cpp",
    *sorted(glob("csrc/cuda/gcn/hopper/hopper_plan*.cpp")),
]
#: Host code of an operator that the kernels of every device start from.
SHARED_SOURCES = sorted(glob("csrc/strips/*.cpp"))
CPU_SOURCES = [
    *sorted(glob("csrc/*.cpp")),
    *sorted(glob("csrc/cpu/**/*.cpp", recursive=True)),
    *SHARED_SOURCES,
    "csrc/cuda/gcn/gpu_plan.cpp",
    *PLAN_SOURCES,
]
#: The instances take longest, so they start first.
CUDA_SOURCES = [
    *sorted(glob("csrc/cuda/gcn/instances/*.cu")),
    *sorted(glob("csrc/cuda/strips/*.cu")),
    *sorted(glob("csrc/cuda/refine/*.cu")),
    *sorted(glob("csrc/cuda/upsample/*.cu")),
    "csrc/cuda/gcn/kernels.cu",
    "csrc/cuda/gcn/gcn_cuda.cpp",
    "csrc/cuda/gcn/execute.cpp",
    "csrc/cuda/gcn/hopper/hopper_execute.cpp",
    *sorted(glob("csrc/cuda/strips/*.cpp")),
    *sorted(glob("csrc/cuda/refine/*.cpp")),
    *sorted(glob("csrc/cuda/upsample/*.cpp")),
    *SHARED_SOURCES,
    *PLAN_SOURCES,
]
#: For sm_90a alone, where 9.0 is among the architectures; else the other files stand for them.
HOPPER_SOURCES = [
    *sorted(glob("csrc/cuda/gcn/hopper/instances/*.cu")),
    "csrc/cuda/gcn/hopper/hopper_kernels.cu",
    *sorted(glob("csrc/cuda/refine/hopper/*.cu")),
]
HOPPER_ABSENT = sorted(glob("csrc/cuda/*/hopper/*_absent.cpp"))
#: Memory that one compile job may need, in GiB.
JOB_MEMORY = 2
#: The oldest Python whose stable ABI the libraries are tagged for.
PYTHON_ABI = "cp310"


def default_jobs() -> int:
    """One job per core, as far as the free memory goes."""
    jobs = os.cpu_count() or 1
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        jobs = min(jobs, max(1, int(free / JOB_MEMORY)))
    return jobs


def extension_arguments() -> dict:
    """What setuptools needs to build the libraries; nothing where torch is absent (sdist and metadata need none)."""
    try:
        import torch
    except ImportError:
        return {}
    cuda, left_out = None, None
    try:
        visible = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
        cuda = cuda_build.decide(torch.__version__, torch.version.cuda, visible, Path(torch.__file__).parent.parent)
        os.environ["CUDA_HOME"] = str(cuda.toolkit.home)  # read when the next line is imported
    except cuda_build.LeftOutError as error:
        left_out = str(error)
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    windows = sys.platform == "win32"
    flags = (
        ["/O2", "/std:c++20"]
        if windows
        else ["-O3", "-g0", "-std=c++20", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]
    )
    if not windows:
        # The checks in PyTorch's headers name their file: not where it lay on the machine that built this.
        flags.append(f"-fmacro-prefix-map={Path(torch.__file__).parent / 'include'}/=")
    flags += [f"-DTORCH_TARGET_VERSION={STABLE_ABI}", "-DTORCH_STABLE_ONLY"]
    jobs = os.environ.setdefault("MAX_JOBS", str(default_jobs()))
    if not jobs.isdecimal() or int(jobs) < 1:
        raise SystemExit(f"gcn_kernels: MAX_JOBS: expected a whole number of at least 1, got {jobs!r}")

    class BuildLibraries(BuildExtension):
        """BuildExtension that prints what it builds first, and leaves a description beside the libraries."""

        def run(self) -> None:
            build = {"torch": torch.__version__, "cuda_sources": cuda_sources.state()}
            print(f"gcn_kernels: building for torch {torch.__version__} ({Path(torch.__file__).parent})")
            print(f"gcn_kernels: C++ flags {' '.join(flags)}, {os.environ['MAX_JOBS']} jobs")
            if cuda is None:
                build["cuda_left_out"] = left_out
                print(f"gcn_kernels: CPU kernels only; CUDA kernels left out: {left_out}")
            else:
                build |= {"nvcc": cuda.toolkit.version, "architectures": cuda.architectures}
                print(f"gcn_kernels: CPU kernels, and CUDA kernels by {cuda.toolkit.nvcc} {cuda.toolkit.version}")
                print(f"gcn_kernels: for {', '.join(cuda.architectures)}; headers {cuda.toolkit.include}")
                print("gcn_kernels: compiling the CUDA kernels takes minutes; GCN_KERNELS_NO_CUDA=1 leaves them out", flush=True)
            super().run()
            package = Path("gcn_kernels") if self.inplace else Path(self.build_lib) / "gcn_kernels"
            if cuda is None:  # one of an earlier build does not go with this _C
                for stale in package.glob("_cuda*"):
                    stale.unlink()
            (package / "_build.json").write_text(json.dumps(build) + "\n")

        def build_extensions(self) -> None:
            if cuda is not None and cuda.hopper:
                self.extensions[-1].extra_objects += self.compile_hopper(cuda)
            super().build_extensions()

        def compile_hopper(self, cuda: cuda_build.CudaBuild) -> list[str]:
            folder = Path(self.build_temp).resolve() / "hopper"
            folder.mkdir(parents=True, exist_ok=True)
            targets = [folder / f"{Path(source).stem}.o" for source in HOPPER_SOURCES]
            commands = [cuda.hopper_command(source, target) for source, target in zip(HOPPER_SOURCES, targets, strict=True)]
            with ThreadPoolExecutor(int(os.environ["MAX_JOBS"])) as pool:
                for _ in pool.map(lambda command: subprocess.run(command, check=True), commands):
                    pass
            return [str(target) for target in targets]

        def get_export_symbols(self, ext):
            # The libraries are loaded by torch.ops.load_library: there is no Python module to export.
            return ext.export_symbols

    libraries = [CppExtension("gcn_kernels._C", CPU_SOURCES, extra_compile_args={"cxx": flags}, py_limited_api=True)]
    if cuda is not None:
        libraries.append(
            CppExtension(
                "gcn_kernels._cuda",
                CUDA_SOURCES if cuda.hopper else [*CUDA_SOURCES, *HOPPER_ABSENT],
                include_dirs=[str(cuda.toolkit.include)],
                libraries=["torch_cuda"],
                # The CUDA runtime is linked statically: the library then needs only the driver, which comes with the GPU.
                extra_objects=[str(cuda.toolkit.runtime)],
                extra_link_args=["-ldl", "-lrt", "-lpthread"],
                extra_compile_args={"cxx": [*flags, "-DUSE_CUDA"], "nvcc": cuda.nvcc_flags},
                py_limited_api=True,
            )
        )
    return {
        "ext_modules": libraries,
        "cmdclass": {"build_ext": BuildLibraries},
        "options": {"bdist_wheel": {"py_limited_api": PYTHON_ABI}},
    }


setup(**extension_arguments())
