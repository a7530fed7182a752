"""The emulator is honest: every fault planted in a small product is caught, and for the right reason, in any order of threads."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import emulator
import pytest
from ahead import Job
from faults import Fault
from isolated import Died, call
from suites import in_suites

pytestmark = pytest.mark.skipif(emulator.why_not() is not None, reason=str(emulator.why_not()))


def ahead(items: object) -> list[Job]:
    return emulator.EXAMPLE.jobs()


ORDERS = [("ascending", 0), ("descending", 0), ("random", 1), ("random", 2)]

WAIT = "    copy_wait<Tile::kStages - 2>();\n"
BARRIER = "    __syncthreads();\n"
DEPENDENCIES = "  wait_for_dependencies();\n"
PROLOGUE = """  float sums[2][4][4] = {};
  for (int step = 0; step < Tile::kStages - 1; ++step) {
    if (step < steps) load(step);
    copy_commit();
  }
"""


@dataclass(frozen=True)
class Caught:
    """A fault, and a pattern for what is said about it; only sanitizers see an access outside of global memory."""

    fault: Fault
    said: str
    sanitized: bool = False


def planted(old: str, new: str, why: str, said: str, sanitized: bool = False) -> Caught:
    return Caught(Fault("gemm.cuh", old, new, why), said, sanitized)


FAULTS = {
    "missing-barrier": planted(BARRIER, "", "other threads' copies are not visible", "race .* with no barrier between"),
    "lax-wait": planted(
        WAIT, WAIT.replace("2", "1"), "one group too many is left in flight", "where a copy .* is still in flight"
    ),
    "wait-after-barrier": planted(WAIT + BARRIER, BARRIER + WAIT, "other threads' copies may not have landed", "race|in flight"),
    "prefetch-too-far": planted(
        "load(step + Tile::kStages - 1);", "load(step + Tile::kStages);", "refills what is read", "race|in flight"
    ),
    "copy-at-the-end": planted(
        "  copy_wait<0>();\n",
        "  if (threadIdx.x == 0) copy_async<4>(tiles_a, a, true);\n",
        "nothing waits for it",
        "ends with a copy .* in flight",
    ),
    "wrong-stage": planted(
        "tiles_a + step % ", "tiles_a + (step + 1) % ", "another stage than the one that has landed", "in flight"
    ),
    "stage-past-the-ring": planted(
        "stage = step % Tile::kStages", "stage = step % (Tile::kStages + 1)", "there is no such stage", "race|in flight|outside"
    ),
    "shared-memory-too-small": planted(
        "size_t(kStages) *", "size_t(kStages - 1) *", "the launch asks for too little", "outside its"
    ),
    "not-transposed": planted("ldmatrix_x4_trans(", "ldmatrix_x4(", "b lies by rows", "wrong result"),
    "fragments-swapped": planted(
        "{b_fragments[j / 2][j % 2 * 2], b_fragments[j / 2][j % 2 * 2 + 1]}",
        "{b_fragments[j / 2][j % 2 * 2 + 1], b_fragments[j / 2][j % 2 * 2]}",
        "the halves of k change places",
        "wrong result",
    ),
    "unaligned-rows": planted("kPitchA = kK + 8", "kPitchA = kK + 4", "16-byte rows start at multiples of 8", "not aligned"),
    "divergent-barrier": planted(BARRIER, BARRIER + "    if (warp < 3) __syncthreads();\n", "a warp does not come", "diverge"),
    "divergent-warp": planted(
        "j < 2; ++j)\n        ldmatrix", "j < 2 && lane != 9; ++j)\n        ldmatrix", "a lane does not come", "diverge"
    ),
    "uninitialised-sums": planted("sums[2][4][4] = {};", "sums[2][4][4];", "registers start with anything", "wrong result"),
    "reads-before-its-dependencies": planted(
        DEPENDENCIES + PROLOGUE, PROLOGUE + DEPENDENCIES, "a and b are not there yet", "wrong result: error nan"
    ),
    "never-waits": planted(DEPENDENCIES, "", "a and b may not be there", "never calls wait_for_dependencies|was written before"),
    "row-mask-missing": planted("m0 + row < M && k0", "k0", "reads past the end of a", "heap-buffer-overflow", sanitized=True),
    "column-mask-missing": planted("m < M && n < N", "m < M", "writes past the end of c", "heap-buffer-overflow", sanitized=True),
}


def run(build: emulator.Build) -> list[str]:
    """What is said about the product of a build, in every order of threads; the death of the process is said once."""
    try:
        return call("example:products", str(build.library()), ORDERS, sanitized=build.sanitized)
    except Died as died:
        return [str(died)]


@pytest.mark.parametrize(
    "sanitized", in_suites([False, True], everyday=lambda sanitized: not sanitized), ids=["plain", "sanitized"]
)
def test_nothing_is_said_about_a_sound_kernel(sanitized: bool) -> None:
    assert run(replace(emulator.EXAMPLE, sanitized=sanitized)) == [""] * len(ORDERS)


#: A race, a copy that has not landed, and wrong numbers.
EVERY_DAY = ("missing-barrier", "lax-wait", "not-transposed")


@pytest.mark.parametrize("name", in_suites(FAULTS, everyday=lambda name: name in EVERY_DAY))
def test_a_planted_fault_is_caught(name: str, tmp_path: Path) -> None:
    caught = FAULTS[name]
    copy = tmp_path / "kernels"
    caught.fault.plant(emulator.EXAMPLE.kernels, copy)
    for said in run(replace(emulator.EXAMPLE.over(copy, ("example_driver.cpp",)), sanitized=caught.sanitized)):
        assert re.search(caught.said, said), f"{caught.fault.why}: {said or 'not caught'}"
