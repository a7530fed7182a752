"""Runs an emulator module with faults planted in it, each in a process forked for it. Needs numpy only, as operator_run.py."""

from collections.abc import Mapping, Sequence

from emulator import load
from forked import forked
from operator_run import Array, Problem, wrong_with

Checked = tuple[Problem, Mapping[str, Array], Mapping[str, float]]


def outcomes(library: str, faults: Sequence[tuple[int, str]], problems: Mapping[str, Checked]) -> list[str]:
    """What is said about each fault, given by its number and the name of its problem; nothing if it is not caught."""
    module = load(library, "emu_operator")

    def said(number: int, problem: Checked) -> str:
        module.choose_fault(number)
        return wrong_with(module, *problem)

    return [forked(lambda number=number, name=name: said(number, problems[name])) for number, name in faults]


def launched(library: str, problems: Sequence[Checked]) -> list[tuple[str, tuple[str, ...]]]:
    """What is wrong with each problem in a module without a fault, and the kernels that it launches."""
    module = load(library, "emu_operator")
    found = []
    for problem in problems:
        module.take_launched()
        wrong = wrong_with(module, *problem)
        found.append((wrong, tuple(sorted(module.take_launched()))))
    return found
