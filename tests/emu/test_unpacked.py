"""Forward in two launches: what is particular to it, beside the problems and the faults that all kernels have."""

from types import ModuleType

import emulator
import numpy as np
import pytest
from ahead import Job
from isolated import call
from operator_run import arguments, launched
from problems import ONE_TILE, SINGLE, EmulatedCase

pytestmark = pytest.mark.skipif(emulator.why_not() is not None, reason=str(emulator.why_not()))

TWO = {"unpacked_first_stage_kernel", "unpacked_second_stage_kernel"}
SPLIT = EmulatedCase(SINGLE, "half", "channels_last", "unpacked-splits")


def ahead(items: object) -> list[Job]:
    return emulator.OPERATOR.jobs()


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return emulator.OPERATOR.load()


@pytest.mark.parametrize("case", [SPLIT, EmulatedCase(ONE_TILE, "bfloat16", "channels_last", "unpacked")], ids=str)
def test_a_forward_pass_is_two_launches_and_leaves_its_counters_as_they_were(case: EmulatedCase, module: ModuleType) -> None:
    """As a graph does that is replayed: the same memory, the same counters, other values in between."""
    other = arguments(module, EmulatedCase(SINGLE, "half", "channels_last", "unpacked").problem())
    results = []
    for _ in range(3):
        a = arguments(module, case.problem())
        module.take_launched()
        module.forward(*a.forward)
        assert launched(module) == TWO
        results.append((a.y, a.u_l, a.u_r))
        module.forward(*other.forward)
    for result in results[1:]:
        assert all(np.array_equal(one, first) for one, first in zip(result, results[0], strict=True))


def test_where_no_counters_are_left_a_call_has_its_own_and_the_same_bits() -> None:
    kernels, y, with_counters = call("operator_run:forward_without_counters", str(emulator.OPERATOR.library()), SPLIT.problem())
    assert kernels == TWO and np.array_equal(y, with_counters)
