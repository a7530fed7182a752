"""Compile the libraries of gcn_kernels. Metadata is in pyproject.toml.

Environment variables:
    MAX_JOBS  compile jobs side by side; by default one per core, fewer where memory is short.
"""

import json
import os
import sys
from glob import glob
from pathlib import Path

from setuptools import setup

#: The LibTorch stable ABI this is compiled for (2.11): the libraries load in that PyTorch and every later one.
STABLE_ABI = "0x020b000000000000"
CPU_SOURCES = ["csrc/ops.cpp", *sorted(glob("csrc/cpu/*.cpp") + glob("csrc/cpu/fft/*.cpp"))]
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
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:
        return {}

    windows = sys.platform == "win32"
    flags = (
        ["/O2", "/std:c++20"]
        if windows
        else ["-O3", "-g0", "-std=c++20", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]
    )
    flags += [f"-DTORCH_TARGET_VERSION={STABLE_ABI}", "-DTORCH_STABLE_ONLY"]
    os.environ.setdefault("MAX_JOBS", str(default_jobs()))

    class BuildLibraries(BuildExtension):
        """BuildExtension that prints what it builds first, and leaves a description beside the libraries."""

        def run(self) -> None:
            build = {"torch": torch.__version__, "libraries": ["_C"]}
            print(f"gcn_kernels: building for torch {torch.__version__} ({Path(torch.__file__).parent})")
            print(f"gcn_kernels: C++ flags {' '.join(flags)}, {os.environ['MAX_JOBS']} jobs")
            print("gcn_kernels: CPU kernels built; CUDA kernels left out, because this version has none")
            super().run()
            package = Path("gcn_kernels") if self.inplace else Path(self.build_lib) / "gcn_kernels"
            (package / "_build.json").write_text(json.dumps(build) + "\n")

        def get_export_symbols(self, ext):
            # The libraries are loaded by torch.ops.load_library: there is no Python module to export.
            return ext.export_symbols

    library = CppExtension("gcn_kernels._C", CPU_SOURCES, extra_compile_args={"cxx": flags}, py_limited_api=True)
    return {
        "ext_modules": [library],
        "cmdclass": {"build_ext": BuildLibraries},
        "options": {"bdist_wheel": {"py_limited_api": PYTHON_ABI}},
    }


setup(**extension_arguments())
