"""The tests are honest: a fault in any of the package's kernels is caught, by the emulator or by the rule.

Each fault is planted in a copy of the sources. Only the file that a kernel is compiled in is compiled again.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import emulator
import pytest
from isolated import Died, call
from mutations import MUTATIONS, Mutation

pytestmark = pytest.mark.skipif(emulator.why_not() is not None, reason=str(emulator.why_not()))

#: Where the kernels of a header are compiled for 16-bit floats; those of all others are in kernels.cu.
COMPILED_IN = {
    "first_stage.cuh": ("instances/first_stage_half.cu",),
    "line_conv.cuh": ("instances/line_conv_half.cu", "instances/second_stage_grad_half.cu"),
    "weight_grad.cuh": ("instances/weight_grad_half.cu", "instances/second_stage_grad_half.cu"),
    "second_stage_grad.cuh": ("instances/second_stage_grad_half.cu",),
}


@cache
def problem(mutation: Mutation) -> tuple[object, ...]:
    return (mutation.caught_by.problem(), *mutation.caught_by.expected())


def outcome(mutation: Mutation, copy: Path) -> str:
    """What is said about the operator with the fault in it."""
    mutation.fault.plant(emulator.SOURCES, copy)
    compiled_again = COMPILED_IN.get(mutation.fault.file, ("kernels.cu",))
    base = replace(emulator.OPERATOR, sanitized=True, optimize="-O1") if mutation.sanitized else emulator.OPERATOR
    library = base.over(copy, compiled_again).library()
    try:
        return str(call("operator_run:check_all", str(library), [problem(mutation)], sanitized=mutation.sanitized))
    except Died as died:
        return str(died)


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[str]]]:
    """All that were asked for, two at a time."""
    chosen = [
        item.callspec.params["mutation"] for item in request.session.items if "mutation" in getattr(item, "fixturenames", ())
    ]
    for mutation in chosen:
        problem(mutation)
    emulator.OPERATOR.library()
    folder = tmp_path_factory.mktemp("mutations")
    with ThreadPoolExecutor(emulator.JOBS) as pool:
        yield {m.name: pool.submit(outcome, m, folder / m.name) for m in chosen}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_a_fault_in_a_kernel_is_caught(mutation: Mutation, outcomes: dict[str, Future[str]]) -> None:
    assert outcomes[mutation.name].result(), f"not caught: {mutation.fault.why}"


@pytest.mark.parametrize("case", sorted({m.caught_by for m in MUTATIONS}, key=str), ids=str)
def test_without_the_fault_nothing_is_said(case: object, tmp_path: Path) -> None:
    mutation = next(m for m in MUTATIONS if m.caught_by == case)
    assert call("operator_run:check_all", str(emulator.OPERATOR.library()), [problem(mutation)]) == ""


def test_names_are_unique() -> None:
    assert len({m.name for m in MUTATIONS}) == len(MUTATIONS)
