"""The state of the CUDA sources as a short text, so that a measurement can say which code it was made on.

Used by setup.py, the tests and the benchmarks' reports. Comments and white space do not count, nor do the files that hold
nothing but results of measurements.
"""

import hashlib
import re
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "cuda"
SUFFIXES = (".cpp", ".cu", ".cuh", ".h")
#: What measurements are written down in.
RESULTS = ("hopper_measured.h",)


def state(folder: Path = SOURCES) -> str:
    """Twelve hexadecimal digits of a hash of all that is compiled into the CUDA kernels, their plans and their launches."""
    digest = hashlib.sha256()
    files = [path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.name not in RESULTS]
    for path in sorted(files, key=lambda path: path.relative_to(folder).as_posix()):
        code = re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8"))
        digest.update(f"{path.relative_to(folder).as_posix()}\0{' '.join(code.split())}\0".encode())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    print(state())
