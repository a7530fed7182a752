"""Long lists of cases in two suites: a few cases of every kind are for every day, the others are part of the proof."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import pytest
from _pytest.mark.structures import ParameterSet

Case = TypeVar("Case")


def in_suites(cases: Iterable[Case], everyday: Callable[[Case], bool]) -> list[ParameterSet]:
    """The values of a parameter, those that are not for every day with the marker ``proof``."""
    return [pytest.param(case, marks=() if everyday(case) else pytest.mark.proof) for case in cases]
