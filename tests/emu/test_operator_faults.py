"""The tests of the operators behind host files of their own are honest: a fault in any of their kernels is caught.

All chosen faults of an operator are planted in one library, and each runs in a process of its own; see planting.py. The everyday
suite has one of every header; the others are part of the proof. For the GCN block test_mutations.py does the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import emulator
import march_mutations
import planting
import pytest
import refine_mutations
import strips_mutations
import upsample_mutations
from ahead import Job
from emulator import Build
from faults import Fault
from isolated import call
from planting import Planting
from suites import in_suites

reason = emulator.why_not()
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))


@dataclass(frozen=True, eq=False)
class Operator:
    """Kernels behind a host file.

    Args:
        mutations: their faults; the first of each header is its canary.
        module: of this folder, with the functions ``launched`` and ``outcomes``.
        build: the emulated kernels.
        library: the operator over them, with the objects it is given.
    """

    name: str
    mutations: Sequence[Any]
    module: str
    build: Build
    library: Callable[..., Path]


@dataclass(frozen=True, eq=False)
class Run:
    """The problem of a mutation in copies of the kernels that its header reaches, with the fault or without."""

    operator: Operator
    mutation: Any
    fault: Fault | None

    @property
    def header(self) -> str:
        file: str = self.mutation.fault.file
        return file

    def __str__(self) -> str:
        return f"{self.operator.name}-{self.mutation.name}" if self.fault else f"{self.operator.name}-{Path(self.header).name}"


OPERATORS = (
    Operator("strips", strips_mutations.MUTATIONS, "strips_emulated", emulator.STRIPS, emulator.strips_library),
    Operator("refine", refine_mutations.MUTATIONS, "refine_emulated", emulator.REFINE, emulator.refine_library),
    Operator("refine-hopper", march_mutations.MUTATIONS, "march_emulated", emulator.REFINE, emulator.refine_library),
    Operator("upsample", upsample_mutations.MUTATIONS, "upsample_emulated", emulator.UPSAMPLE, emulator.upsample_library),
)
WITH_FAULT = [Run(operator, m, m.fault) for operator in OPERATORS for m in operator.mutations]
CANARIES = {(run.operator, run.header): run for run in reversed(WITH_FAULT)}
WITHOUT_FAULT = [Run(run.operator, run.mutation, None) for run in reversed(CANARIES.values())]


def ahead(items: Sequence[pytest.Function]) -> list[Job]:
    chosen = dict.fromkeys(item.callspec.params["run"].operator.build for item in items if hasattr(item, "callspec"))
    return [job for build in chosen for job in build.jobs()]


def outcomes(operator: Operator, runs: Sequence[Run]) -> dict[Run, str]:
    """What is said about each of these runs of an operator; nothing if all is well."""
    names = [run.mutation.name for run in runs]
    launched = call(f"{operator.module}:launched", str(operator.library()), names)
    plantings = [
        Planting(n, run.header, run.fault, kernels) for n, (run, kernels) in enumerate(zip(runs, launched, strict=True), start=1)
    ]
    planted = operator.library(planting.objects(operator.build, plantings))
    return dict(zip(runs, call(f"{operator.module}:outcomes", str(planted), list(enumerate(names, start=1))), strict=True))


@pytest.fixture(scope="module")
def said(request: pytest.FixtureRequest) -> Callable[[Run], str]:
    """What was said about a run: the chosen ones of its operator are made together."""
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    chosen = [item.callspec.params["run"] for item in items]

    @cache
    def of(operator: Operator) -> dict[Run, str]:
        return outcomes(operator, [run for run in chosen if run.operator is operator])

    return lambda run: of(run.operator)[run]


@pytest.mark.parametrize("run", in_suites(WITH_FAULT, everyday=lambda run: run in CANARIES.values()), ids=str)
def test_a_fault_in_a_kernel_is_caught(run: Run, said: Callable[[Run], str]) -> None:
    assert run.fault is not None
    assert said(run), f"not caught: {run.fault.why}"


@pytest.mark.parametrize("run", WITHOUT_FAULT, ids=str)
def test_of_a_copy_without_a_fault_nothing_is_said(run: Run, said: Callable[[Run], str]) -> None:
    """What is caught above is the fault, and not that its kernels are copies."""
    assert said(run) == ""


def test_names_are_unique() -> None:
    assert len({str(run) for run in WITH_FAULT}) == len(WITH_FAULT)
