"""Emulated kernels behind an operator's own host file, as a library: its operators, which kernels run, what planted faults do."""

import ctypes
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from forked import forked

from gcn_kernels.core.library import SCHEMAS


def load(library: Path | str, operators: Iterable[str], plan: str) -> ctypes.CDLL:
    """Register the operators, which the package has under these names, in the namespace gcn_emulated.

    What is returned has the functions of host_module.cpp, and one of the name ``plan``.
    """
    for operator in operators:
        name, _, signature = SCHEMAS[operator].partition("(")
        torch.library.define(name.replace("gcn_kernels", "gcn_emulated"), f"({signature}")
    torch.ops.load_library(str(library))
    functions = ctypes.CDLL(str(library))
    functions.take_launched.restype = getattr(functions, plan).restype = ctypes.c_char_p
    return functions


def take_launched(functions: ctypes.CDLL) -> tuple[str, ...]:
    """The kernels that ran since the last question, with their template arguments."""
    return tuple(functions.take_launched().decode().splitlines())


def without_arguments(kernels: Iterable[str]) -> set[str]:
    """The names of the kernels' templates."""
    return {name.split("<")[0].split("::")[-1] for name in kernels}


def launched_by(functions: ctypes.CDLL, names: Sequence[str], run: Callable[[str], object]) -> list[tuple[str, ...]]:
    """The kernels that ``run`` of each of these launches."""
    found = []
    for name in names:
        take_launched(functions)
        run(name)
        found.append(take_launched(functions))
    return found


def outcomes_of(functions: ctypes.CDLL, faults: Sequence[tuple[int, str]], wrong_with: Callable[[str], str]) -> list[str]:
    """What is said about each fault, given by its number and the name of its mutation; nothing if it is not caught.

    Args:
        wrong_with: what is wrong with the problem of a mutation.
    """
    torch.set_num_threads(1)  # threads do not outlive a fork

    def said(number: int, name: str) -> str:
        functions.choose_fault(number)
        return wrong_with(name)

    return [forked(lambda number=number, name=name: said(number, name)) for number, name in faults]
