"""The whole operator in the emulator, forward and backward: every kernel's own source, under the rule of all backends."""

from types import ModuleType

import emulator
import numpy as np
import pytest
from ahead import Job
from hopper_problems import THREE_TILES as HOPPER
from isolated import call
from operator_run import facts, failures, run
from problems import EIGHTS, ONE_TILE, PROBLEMS, SINGLE, EmulatedCase
from suites import in_suites

pytestmark = pytest.mark.skipif(emulator.why_not() is not None, reason=str(emulator.why_not()))


def ahead(items: object) -> list[Job]:
    return emulator.OPERATOR.jobs()


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return emulator.OPERATOR.load()


#: Every arithmetic and layout, offsets of more than 32 bits, and one gradient alone; and the narrowest and the widest tiles.
EVERY_DAY = [case for case in PROBLEMS if case.case == EIGHTS and case.gpu == "h100"]
EVERY_DAY += [case for case in PROBLEMS if str(case) in ("small-half-nchw-w_r1", "many-middle-half-nchw", "crop-half-nchw-tiny")]
EVERY_DAY += [case for case in PROBLEMS if case.gpu == "unpacked-splits"]


@pytest.mark.parametrize("case", in_suites(PROBLEMS, everyday=lambda case: case in EVERY_DAY), ids=str)
def test_obeys_the_rule(module: ModuleType, case: EmulatedCase) -> None:
    module.set_schedule("random", seed=len(str(case)))
    values, allowed = case.expected()
    assert not failures(run(module, case.problem()), values, allowed)


@pytest.mark.parametrize(
    "case",
    in_suites(
        [EmulatedCase(EIGHTS, "half", "nchw"), EmulatedCase(ONE_TILE, "bfloat16", "channels_last")],
        everyday=lambda case: case.case == EIGHTS,
    ),
    ids=str,
)
def test_no_bit_depends_on_the_order_of_threads(module: ModuleType, case: EmulatedCase) -> None:
    results = []
    for order, seed in (("ascending", 0), ("descending", 0), ("random", 1), ("random", 2)):
        module.set_schedule(order, seed)
        results.append(run(module, case.problem()))
    for other in results[1:]:
        for name, expected in results[0].items():
            assert np.array_equal(other[name], expected), name


#: What plans decide, and what the problems above have to reach, one way and the other.
BRANCHES = {
    *("x packed", "x packed from planes", "x channels_last", "x nchw", "taps skipped", "combine"),
    *(f"first_stage of {n} column blocks" for n in (8, 16, 21, 22)),
    *(f"first_stage {fact}" for fact in ("splits", "overhang", "whole lines", "interleaved lines", "completes u")),
    *(f"first_stage groups of {what}" for what in ("taps", "middle channels")),
    *(f"line_conv {tile}" for tile in ("narrow", "narrow, small map", "medium", "wide", "wide, small map")),
    *(f"line_conv {fact}" for fact in ("phases", "tiles of outputs")),
    *(
        f"line_conv to {order}, {stores}"
        for order in ("channels_last", "nchw", "rows of channels_last")
        for stores in ("whole pieces", "single elements")
    ),
    *(f"weight_grad {kind}" for kind in ("narrow", "channels_last", "nchw", "splits", "several octets")),
    *(f"weight_grad of {n} column blocks" for n in (15, 21, 48)),
    *(f"weight_grad narrow {fact}" for fact in ("tiles of channels", "groups", "with all octets")),
    *(f"second_stage_grad {fact} du" for fact in ("with", "without")),
    *(f"unpacked weights, {fact}" for fact in ("tickets", "whole sums", "taps skipped")),
    *(f"unpacked weights, first_stage of {n} column blocks" for n in (8, 21)),
    "packed: the first weights are not whole pieces of channels, as they are in channels_last",
    "packed: unpacked weights are read in bfloat16 and float16",
    "direct: float64 has no tensor core kernels",
}


def test_the_problems_reach_every_branch_of_the_plan(module: ModuleType) -> None:
    reached = set().union(*(facts(module, case.problem()) for case in PROBLEMS))
    assert not BRANCHES - reached
    assert not {fact for fact in reached - BRANCHES if not fact.startswith("direct: ")}, "a branch that the list does not know"
    assert any("shared memory" in fact for fact in reached), "no size was too large for the tensor core kernels"


#: Enough of every kernel, arithmetic and layout; sanitizers are several times slower.
SANITIZED = [
    *(EmulatedCase(EIGHTS, *of) for of in (("half", "nchw"), ("half", "channels_last"), ("tf32", "unaligned"))),
    *(case for case in PROBLEMS if str(case) in ("odd-sizes-half-nchw", "k_gt_map-float-nchw", "map1x1-half-channels_last")),
    *(EmulatedCase(EIGHTS, math, "nchw") for math in ("float", "double")),
    EmulatedCase(SINGLE, "half", "channels_last", "unpacked-splits"),
    # All three Hopper kernels, in clusters.
    EmulatedCase(HOPPER, "half", "channels_last", "hopper-2"),
]


@pytest.mark.proof
def test_sanitizers_find_nothing() -> None:
    problems = [(case.problem(), *case.expected()) for case in SANITIZED]
    found = facts(emulator.OPERATOR.load(), problems[-1][0])
    for kernel in emulator.HOPPER_KERNELS:
        assert any(fact.startswith(f"hopper {kernel}") for fact in found), f"{kernel} is not among what is sanitised"
    assert not call("operator_run:check_all", str(emulator.SANITIZED.library()), problems, sanitized=True)
