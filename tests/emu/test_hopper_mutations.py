"""The tests are honest about the Hopper kernels, too: a fault in any of them is caught. See test_mutations.py."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import emulator
import pytest
import test_mutations
from hopper_mutations import MUTATIONS
from mutations import Mutation

pytestmark = pytest.mark.skipif(emulator.why_not() is not None, reason=str(emulator.why_not()))

COMPILED_IN = {f"hopper/hopper_{k}.cuh": (f"hopper/instances/hopper_{k}_half.cu",) for k in emulator.HOPPER_KERNELS}
COMPILED_IN["hopper/hopper_tiles.h"] = ("hopper/hopper_plan_first_stage.cpp", "hopper/instances/hopper_first_stage_half.cu")


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[str]]]:
    """All that were asked for, two at a time."""
    chosen = [i.callspec.params["hopper"] for i in request.session.items if "hopper" in getattr(i, "fixturenames", ())]
    test_mutations.COMPILED_IN.update(COMPILED_IN)
    for mutation in chosen:
        test_mutations.problem(mutation)
    emulator.OPERATOR.library()
    folder = tmp_path_factory.mktemp("hopper")
    with ThreadPoolExecutor(emulator.JOBS) as pool:
        yield {m.name: pool.submit(test_mutations.outcome, m, folder / m.name.replace("/", "-")) for m in chosen}


@pytest.mark.parametrize("hopper", MUTATIONS, ids=lambda m: m.name)
def test_a_fault_in_a_hopper_kernel_is_caught(hopper: Mutation, outcomes: dict[str, Future[str]]) -> None:
    assert outcomes[hopper.name].result(), f"not caught: {hopper.fault.why}"


def test_names_are_unique() -> None:
    assert len({m.name for m in MUTATIONS}) == len(MUTATIONS)
