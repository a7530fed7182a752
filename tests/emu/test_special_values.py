"""nan and inf in the emulated operator: the tests of the backends (test_non_finite.py), on fewer problems."""

from collections.abc import Sequence
from types import ModuleType

import emulator
import pytest
import test_non_finite
import torch
from ahead import Job
from cases import Case
from emulated_operator import EmulatedOperator
from operator_run import arguments, failures
from operator_run import run as run_operator
from problems import EmulatedCase
from special_cases import SPECIAL as SPECIAL_SIZES
from special_cases import SpecialCase
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


def ahead(items: object) -> list[Job]:
    return emulator.OPERATOR.jobs()


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


RUNS = (
    ("half", "nchw", "h100"),
    ("bfloat16", "channels_last", "h100"),
    ("tf32", "channels_last", "h100"),
    ("float", "nchw", "h100"),
    ("half", "channels_last", "hopper"),
)


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return emulator.OPERATOR.load()


@pytest.mark.parametrize("where", ["x", "dy"])
@pytest.mark.parametrize("how", RUNS, ids="-".join)
def test_only_partners_inside_the_map_count(how: tuple[str, str, str], where: str, module: ModuleType) -> None:
    """Weight gradients are exact where four convolutions may or may not multiply with their padding."""
    case = SpecialCase(SPECIAL_SIZES, *how, where=where)
    assert not failures(run_operator(module, case.problem()), *case.expected())


def operations_of_backward(module: ModuleType, case: EmulatedCase) -> int:
    of_run = arguments(module, case.problem())
    module.forward(*of_run.forward)
    module.take_operations()
    module.backward(*of_run.backward)
    return int(module.take_operations())


#: Gradients of everything; of the weights alone; and of the second weights alone, which is where the bound is tightest.
WANTED: tuple[Sequence[str] | None, ...] = (None, ("w_l1", "w_r1", "w_l2", "w_r2"), ("w_l2", "w_r2"))


@pytest.mark.parametrize(
    "wanted", in_suites(WANTED, everyday=lambda wanted: wanted == WANTED[2]), ids=["all", "weights", "second-weights"]
)
@pytest.mark.parametrize("gpu", ["h100", "hopper"])
def test_backward_costs_at_most_twice_a_finite_one(gpu: str, wanted: tuple[str, ...] | None, module: ModuleType) -> None:
    """Counted in what threads ask of the device layer, products among it; whatever the pattern."""
    finite = EmulatedCase(SPECIAL_SIZES, "half", "channels_last", gpu, wanted)
    most = 2 * operations_of_backward(module, finite)
    for where in ("x", "dy"):
        for pattern in ("one", "border", "all", "nan"):
            case = SpecialCase(*(getattr(finite, name) for name in ("case", "math", "layout", "gpu", "wanted")), where, pattern)
            assert operations_of_backward(module, case) <= most, str(case)
