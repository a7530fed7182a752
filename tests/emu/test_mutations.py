"""The tests are honest: a fault in any of the package's kernels is caught, by the emulator or by the rule.

All faults are planted in one module, and each runs in a process of its own; see planting.py. The everyday suite has one of
every header; the others are part of the proof.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar

import backward_mutations
import emulator
import hopper_mutations
import mutations
import planting
import pytest
import unpacked_mutations
from ahead import Job
from faults import Fault
from isolated import call
from mutations import Mutation
from planting import Planting
from problems import EmulatedCase
from suites import in_suites

Given, Result = TypeVar("Given"), TypeVar("Result")

pytestmark = pytest.mark.skipif(emulator.why_not() is not None, reason=str(emulator.why_not()))

MUTATIONS = (*mutations.MUTATIONS, *backward_mutations.MUTATIONS, *hopper_mutations.MUTATIONS, *unpacked_mutations.MUTATIONS)
#: The first fault of each header.
CANARIES = {m.fault.file: m for m in reversed(MUTATIONS) if not m.sanitized}
CASES = sorted({m.caught_by for m in MUTATIONS}, key=str)
OF_CANARIES = {m.caught_by for m in CANARIES.values()}


def ahead(items: object) -> list[Job]:
    return emulator.OPERATOR.jobs()


@dataclass(frozen=True)
class Asked:
    """A problem to run in a module with a fault, or with a copy of a header's kernels as they are."""

    header: str
    fault: Fault | None
    case: EmulatedCase
    sanitized: bool


def with_fault(m: Mutation) -> Asked:
    return Asked(m.fault.file, m.fault, m.caught_by, m.sanitized)


def without_fault(header: str) -> Asked:
    return Asked(header, None, CANARIES[header].caught_by, False)


@cache
def checked(case: EmulatedCase) -> tuple[object, ...]:
    return (case.problem(), *case.expected())


@dataclass(frozen=True)
class Answers:
    """What was said about each problem in the sound module, and about everything asked for."""

    sound: dict[EmulatedCase, str]
    planted: dict[Asked, str]


def answers(asked: Sequence[Asked], cases: Sequence[EmulatedCase]) -> Answers:
    """Run everything that is asked for, and all problems without a fault, on all cores."""
    cases = list(dict.fromkeys((*cases, *(a.case for a in asked))))
    for case in cases:
        checked(case)  # by PyTorch, which has threads of its own
    emulator.OPERATOR.library()
    sound = dict(_on_all_cores(_run_sound, cases))
    planted: dict[Asked, str] = {}
    for sanitized in (False, True):
        chosen = [(n, a) for n, a in enumerate(asked, start=1) if a.sanitized == sanitized]
        if chosen:
            plantings = [Planting(n, a.header, a.fault, sound[a.case][1]) for n, a in chosen]
            library = planting.library(emulator.SANITIZED if sanitized else emulator.OPERATOR, plantings)
            planted.update(_on_all_cores(partial(_run_planted, str(library)), chosen))
    return Answers({case: wrong for case, (wrong, _) in sound.items()}, planted)


def _run_sound(cases: Sequence[EmulatedCase]) -> list[tuple[EmulatedCase, tuple[str, tuple[str, ...]]]]:
    problems = [checked(case) for case in cases]
    ran = call("planted_run:launched", str(emulator.OPERATOR.library()), problems)
    return list(zip(cases, ran, strict=True))


def _run_planted(library: str, chosen: Sequence[tuple[int, Asked]]) -> list[tuple[Asked, str]]:
    problems = {str(a.case): checked(a.case) for _, a in chosen}
    faults = [(n, str(a.case)) for n, a in chosen]
    sanitized = chosen[0][1].sanitized
    said = call("planted_run:outcomes", library, faults, problems, sanitized=sanitized)
    return [(a, one) for (_, a), one in zip(chosen, said, strict=True)]


def _on_all_cores(run: Callable[[Sequence[Given]], list[Result]], given: Sequence[Given]) -> list[Result]:
    """``run`` of a share of what is given, in a process to each core."""
    shares = [share for i in range(emulator.JOBS) if (share := given[i :: emulator.JOBS])]
    with ThreadPoolExecutor(len(shares)) as pool:
        return [result for results in pool.map(run, shares) for result in results]


@pytest.fixture(scope="module")
def said(request: pytest.FixtureRequest) -> Answers:
    """The answers to all that the chosen tests ask."""
    chosen = [item.callspec.params for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    asked = [with_fault(p["mutation"]) for p in chosen if "mutation" in p]
    asked += [without_fault(p["header"]) for p in chosen if "header" in p]
    return answers(asked, [p["case"] for p in chosen if "case" in p])


@pytest.mark.parametrize(
    "mutation", in_suites(MUTATIONS, everyday=lambda m: CANARIES.get(m.fault.file) is m), ids=lambda m: m.name
)
def test_a_fault_in_a_kernel_is_caught(mutation: Mutation, said: Answers) -> None:
    assert said.planted[with_fault(mutation)], f"not caught: {mutation.fault.why}"


@pytest.mark.parametrize("header", CANARIES)
def test_of_a_copy_without_a_fault_nothing_is_said(header: str, said: Answers) -> None:
    """What is caught above is the fault, and not that its kernels are copies."""
    assert said.planted[without_fault(header)] == ""


@pytest.mark.parametrize("case", in_suites(CASES, everyday=lambda case: case in OF_CANARIES), ids=str)
def test_without_the_fault_nothing_is_said(case: EmulatedCase, said: Answers) -> None:
    assert said.sound[case] == ""


def test_names_are_unique() -> None:
    assert len({m.name for m in MUTATIONS}) == len(MUTATIONS)
