"""nan and inf in the emulated operator: the tests of the backends (test_non_finite.py), on fewer problems."""

import emulator
import pytest
import test_non_finite
import torch
from cases import Case
from emulated_operator import EmulatedOperator
from test_non_finite import CASES, SPECIAL

pytestmark = pytest.mark.skipif(emulator.why_not() is not None, reason=str(emulator.why_not()))

some_cases = pytest.mark.parametrize("case", [CASES["k<map"], CASES["k>map"]], ids=lambda case: case.name)
every_place = pytest.mark.parametrize("place", ["corner", "middle"])
some_dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)


@pytest.fixture(scope="module")
def run() -> EmulatedOperator:
    return EmulatedOperator(emulator.OPERATOR.load())


@some_cases
@every_place
@some_dtypes
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_forward(case: Case, place: str, dtype: torch.dtype, layout: str, run: EmulatedOperator) -> None:
    test_non_finite.test_forward(case, SPECIAL["inf-and-nan"], place, layout, dtype, run)


@some_cases
@some_dtypes
def test_zero_weights_hide_nothing(case: Case, dtype: torch.dtype, run: EmulatedOperator) -> None:
    test_non_finite.test_zero_weights_hide_nothing(case, SPECIAL["inf-and-nan"], dtype, run)


@some_cases
@every_place
@some_dtypes
@pytest.mark.parametrize("where", ["x", "dy"])
def test_backward(case: Case, place: str, dtype: torch.dtype, where: str, run: EmulatedOperator) -> None:
    test_non_finite.test_backward(case, SPECIAL["inf-and-nan"], place, dtype, where, run)


@pytest.mark.parametrize("name", ["b_l1", "b_l2", "b_r1", "b_r2"])
def test_special_biases(name: str, run: EmulatedOperator) -> None:
    test_non_finite.test_special_biases(name, run)
