"""The operator with the Hopper kernels, in the emulator."""

from types import ModuleType

import emulator
import numpy as np
import pytest
from ahead import Job
from hopper_problems import BACKWARD, FORWARD, LARGE_PATCHES, ODD_SIZES, THREE_TILES, VIEWS
from operator_run import facts, failures, run
from problems import EmulatedCase
from suites import in_suites

pytestmark = pytest.mark.skipif(emulator.why_not() is not None, reason=str(emulator.why_not()))


def ahead(items: object) -> list[Job]:
    return emulator.OPERATOR.jobs()


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return emulator.OPERATOR.load()


CASES = (*FORWARD, *(c for c in BACKWARD if c not in FORWARD), *VIEWS)
#: Every arithmetic and kernel: by whole lines and overhanging tiles, with and without clusters, with small and large patches.
EVERY_DAY = (
    *(FORWARD[0], FORWARD[1], FORWARD[2], BACKWARD[0], BACKWARD[2], *VIEWS[2:3]),
    EmulatedCase(LARGE_PATCHES, "half", "channels_last", "hopper-large"),
    EmulatedCase(THREE_TILES, "bfloat16", "nchw", "hopper-2"),
)


@pytest.mark.parametrize("case", in_suites(CASES, everyday=lambda case: case in EVERY_DAY), ids=str)
def test_obeys_the_rule(module: ModuleType, case: EmulatedCase) -> None:
    module.set_schedule("random", seed=len(str(case)))
    values, allowed = case.expected()
    assert not failures(run(module, case.problem()), values, allowed)


@pytest.mark.proof
@pytest.mark.parametrize("case", [FORWARD[1], BACKWARD[4], BACKWARD[8]], ids=str)
def test_no_bit_depends_on_the_order_of_threads_and_copies(module: ModuleType, case: EmulatedCase) -> None:
    results = []
    for order, seed in (("ascending", 0), ("descending", 0), ("random", 1)):
        module.set_schedule(order, seed)
        results.append(run(module, case.problem()))
    for other in results[1:]:
        for name, expected in results[0].items():
            assert np.array_equal(other[name], expected), name


STORES = (
    "channels_last, whole pieces",
    *(f"{order}, {what}" for order in ("nchw", "rows of channels_last") for what in ("whole pieces", "single elements")),
)
#: What plans of the Hopper kernels decide, and what the problems have to reach, one way and the other.
BRANCHES = {
    *(f"hopper first_stage of {n} positions" for n in (18, 34)),
    "hopper first_stage blocks that share weights",
    *(f"hopper first_stage {what}" for what in ("splits", "block without items", "warpgroup without an item", "unequal axes")),
    *(f"hopper first_stage groups of {what}" for what in ("taps that overlap", "middle channels")),
    "hopper first_stage segments of lines",
    *(f"hopper input_grad of {n} channels" for n in (128, 256)),
    *(f"hopper input_grad of {n} pixels" for n in ("4 x 64", "8 x 32", "16 x 16", "8 x 16")),
    *(f"hopper input_grad in clusters of {n}" for n in (1, 2)),
    "hopper input_grad patch outside",
    *(f"hopper input_grad {what}" for what in ("tiles of channels", "tiles with the same windows", "tile without another one")),
    *(f"hopper input_grad {what}" for what in ("pairs of octets", "single octet")),
    *(f"hopper second_stage {of} in {how}patches of {n}" for of in ("y", "du") for how in ("", "turned ") for n in (128, 512)),
    *(f"hopper second_stage {of} of blocks with several units" for of in ("y", "du")),
    *(f"hopper second_stage {of} of tiles of outputs" for of in ("y", "du")),
    *(f"hopper second_stage {of} of pairs of octets" for of in ("y", "du")),
    *(f"hopper second_stage {of} of a single octet, {n} radius" for of in ("y", "du") for n in ("odd", "even")),
    *(f"hopper second_stage y to {how}" for how in STORES),
    "hopper second_stage du to channels_last, whole pieces",
    *("x channels_last", "x packed", "x packed from planes"),
    "hopper weight_grad",
    *(f"hopper weight_grad {what}" for what in ("splits", "groups of octets", "groups of taps")),
}


def test_the_problems_reach_every_branch_of_the_plan(module: ModuleType) -> None:
    of_forward = [facts(module, case.problem()) for case in FORWARD]
    assert all(any("hopper first_stage" in fact for fact in facts_of_one) for facts_of_one in of_forward)
    of_views = [facts(module, case.problem()) for case in VIEWS]
    assert all(any("hopper first_stage" in fact for fact in of_one) for of_one in of_views)
    reached = set().union(*of_forward, *(facts(module, case.problem()) for case in BACKWARD))
    assert not BRANCHES - reached
    assert not {fact for fact in reached - BRANCHES if "hopper" in fact}, "a branch that the list does not know"


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (EmulatedCase(ODD_SIZES, "half", "nchw", "hopper", wanted=("x",)), "rows that are multiples of eight pixels"),
        (EmulatedCase(THREE_TILES, "float", "channels_last", "hopper"), "bfloat16, float16 and tf32"),
        (EmulatedCase(ODD_SIZES, "half", "nchw", "hopper-choice"), "the portable second stage should take less time"),
    ],
    ids=str,
)
def test_what_is_not_taken_is_left_to_the_portable_kernels(module: ModuleType, case: EmulatedCase, why: str) -> None:
    reasons = [fact for fact in facts(module, case.problem()) if fact.startswith("portable: ")]
    assert any(why in reason for reason in reasons)
    values, allowed = case.expected()
    assert not failures(run(module, case.problem()), values, allowed)
