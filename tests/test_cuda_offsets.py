"""No offset into device memory is a product of 32-bit numbers, which a large tensor overflows: clang-tidy finds such products.

Offsets into shared memory and within a tile of packed weights are meant to be 32-bit. Needs the headers that come with nvcc, and
clang-tidy.
"""

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cuda_binary import JOBS, SOURCES

pytestmark = pytest.mark.skipif(
    shutil.which("nvcc") is None or shutil.which("clang-tidy") is None, reason="needs nvcc and clang-tidy"
)

CHECK = "bugprone-implicit-widening-of-multiplication-result"
OPTIONS = f"{{Checks: '-*,{CHECK}', CheckOptions: {{{CHECK}.IgnoreConstantIntExpr: true}}}}"
#: Headers that clang expects of CUDA and that CUDA 13 has no more; nothing here uses them.
GONE = ("curand_mtgp32_kernel.h", "texture_fetch_functions.h")
#: What pointers into shared memory are called, and in load_weights() those into a tile of weights that goes there whole.
BOUNDED = {"shared", "stage", "weights", "scratch", "source", "sums", "steps", "table", "tile", "square", "slots"}
BOUNDED |= {"own", "to", "from", "next", "pixel", "window", "entries", "needed", "odd"}
#: The same in the Hopper kernels.
BOUNDED |= {"ring", "stages", "rows", "barriers", "filled", "windows", "of_warps"}
#: Maps of the refinement in shared memory, where a unit reads them, and its biases there.
BOUNDED |= {"origin", "a_at", "b_at", "a_first", "b_first", "biases"}
#: Bands of the strips in shared memory, and sums of diagonals.
BOUNDED |= {"words", "diagonal"}
#: Functions that write device memory through a pointer of such a name; there it is not bounded.
WRITERS = ("prepare.cuh", "direct.cuh", "combine.cuh")


def cuda_path() -> Path:
    """Where nvcc itself looks for its parts."""
    plan = subprocess.run(["nvcc", "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True).stderr
    found = re.search(r"^#\$ TOP=(.*)$", plan, re.MULTILINE)
    assert found is not None, plan
    return Path(found[1]).resolve()


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, int, int]]:
    """File, line and column of every product that becomes a pointer offset."""
    cuda, stubs = cuda_path(), tmp_path_factory.mktemp("stubs")
    for name in GONE:
        if not (cuda / "include" / name).exists():
            (stubs / name).touch()
    language = ["-x", "cuda", "--cuda-gpu-arch=sm_90", f"--cuda-path={cuda}", "-std=c++17", f"-isystem{stubs}"]
    ours = f"--header-filter={re.escape(str(SOURCES))}"

    def tidy(source: Path) -> str:
        command = ["clang-tidy", "--quiet", f"--config={OPTIONS}", ours, str(source), "--", *language]
        done = subprocess.run(command, capture_output=True, text=True)
        assert "error:" not in done.stdout, done.stdout
        return done.stdout

    with ThreadPoolExecutor(JOBS) as pool:
        reports = pool.map(tidy, sorted(SOURCES.rglob("*.cu")))
        places = (
            re.findall(r"^(\S+):(\d+):(\d+): warning: result of multiplication.*pointer offset", r, re.MULTILINE) for r in reports
        )
        return {(str(Path(file).resolve()), int(line), int(column)) for found in places for file, line, column in found}


def test_offsets_into_device_memory_are_64_bit_numbers(findings: set[tuple[str, int, int]]) -> None:
    assert findings, "offsets into shared memory are 32-bit products: none found, so nothing was checked"
    unbounded = []
    for file, line, column in sorted(findings):
        text = Path(file).read_text().splitlines()[line - 1]
        pointer = re.match(r"(?:reinterpret_cast<[^(]*>\()?(\w+)", text[column - 1 :])
        bounded = (
            pointer is not None and pointer[1] in BOUNDED and not (Path(file).name in WRITERS and pointer[1] in ("to", "from"))
        )
        if not bounded:
            unbounded.append(f"{Path(file).name}:{line}: {text.strip()}")
    assert not unbounded
