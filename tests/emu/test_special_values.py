"""nan and inf in the emulated operator: the tests of the backends (test_non_finite.py), on fewer problems."""

import emulator
import pytest
import test_non_finite
import torch
from cases import Case
from emulated_operator import EmulatedOperator
from suites import in_suites
from test_non_finite import CASES, SPECIAL

pytestmark = pytest.mark.skipif(emulator.why_not() is not None, reason=str(emulator.why_not()))

SOME_CASES = (CASES["k<map"], CASES["k>map"])
some_cases = pytest.mark.parametrize(
    "case", in_suites(SOME_CASES, everyday=lambda case: case.name == "k>map"), ids=lambda case: case.name
)
every_place = pytest.mark.parametrize("place", in_suites(["corner", "middle"], everyday=lambda place: place == "corner"))
#: The Hopper kernels take no true float32.
some_dtypes = pytest.mark.parametrize(
    ("dtype", "run"),
    [(torch.bfloat16, "h100"), (torch.float32, "h100"), (torch.bfloat16, "hopper")],
    indirect=["run"],
    ids=["bfloat16", "float32", "bfloat16-hopper"],
)


@pytest.fixture
def run(request: pytest.FixtureRequest) -> EmulatedOperator:
    return EmulatedOperator(emulator.OPERATOR.load(), getattr(request, "param", "h100"))


@some_cases
@every_place
@some_dtypes
@pytest.mark.parametrize("layout", in_suites(["nchw", "channels_last"], everyday=lambda layout: layout == "channels_last"))
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
