"""The operator with the Hopper kernels, in the emulator."""

from types import ModuleType

import emulator
import numpy as np
import pytest
from hopper_problems import FORWARD, ODD_SIZES, THREE_TILES
from operator_run import facts, failures, run
from problems import EmulatedCase

pytestmark = pytest.mark.skipif(emulator.why_not() is not None, reason=str(emulator.why_not()))


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return emulator.OPERATOR.load()


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
@pytest.mark.parametrize("case", FORWARD, ids=str)
def test_obeys_the_rule(module: ModuleType, case: EmulatedCase, order: str) -> None:
    module.set_schedule(order, seed=len(str(case)))
    values, allowed = case.expected()
    assert not failures(run(module, case.problem()), values, allowed)
