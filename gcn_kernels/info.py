"""What was built and what can run here: ``python -m gcn_kernels.info``."""

import os
import platform
import sys

import torch

import gcn_kernels
from gcn_kernels import backends
from gcn_kernels._library import LIBRARIES


def describe() -> dict[str, str]:
    """The installation as an ordered mapping of names to one-line values.

    Returns:
        Versions, what the libraries were built with, the devices, and for every backend whether it runs here or why not.

    Example:
        >>> describe()["backend torch"]
        'runs (plain PyTorch convolutions, the reference)'
    """
    return {
        "gcn_kernels": gcn_kernels.__version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda or 'not in this build'}",
        "built with torch": str(LIBRARIES.build.get("torch", "unknown")),
        "CPU": f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} of {os.cpu_count()} threads",
        "CPU weight spectra": f"{spectra_cache_bytes() / 1e6:.1f} MB kept",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none visible",
        "backend cpu": _status("cpu", "cpu", "C++ kernels, forward and backward"),
        "backend cuda": _status("cuda", "cuda", "CUDA kernels"),
        "backend torch": _status("torch", "cpu", "plain PyTorch convolutions, the reference"),
    }


def spectra_cache_bytes(*, clear: bool = False) -> int:
    """Bytes of weight spectra that the CPU kernels keep between calls, for all blocks together.

    At most 256 MB, or ``GCN_KERNELS_SPECTRA_MB`` megabytes (0 keeps none); the least recently used go first.

    Args:
        clear: drop them all first.

    Example:
        >>> spectra_cache_bytes(clear=True)
        0
    """
    if LIBRARIES.cpu_reason is not None:
        return 0
    return int(torch.ops.gcn_kernels.cpu_spectra_cache(clear))


def _status(backend: str, device_type: str, what: str) -> str:
    reason = backends.why_not(backend, device_type)
    return f"runs ({what})" if reason is None else f"does not run: {reason}"


def main() -> int:
    lines = describe()
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
