"""Boundary refinement forward by the kernel for Hopper, emulated behind its own host file."""

from functools import cache
from typing import Any

import emulator
import pytest
import torch
from ahead import Job
from isolated import call
from march_mutations import CASES, STRIPS, March
from refine_emulated import H200, load, plan

reason = emulator.why_not()
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))


def ahead(items: object) -> list[Job]:
    return emulator.REFINE.jobs()


@cache
def library() -> str:
    return str(emulator.refine_library())


@cache
def functions() -> Any:
    return load(library())


def test_problems() -> None:
    found = call("march_emulated:wrong", library(), CASES)
    assert found.wrong == []
    assert found.launched == {"refine_march_kernel"}


#: What the kernel does not take: rows that are no multiples of eight pixels, other channels, other arithmetics.
OTHERS = [
    March((1, 21, 21, 3, 12)),
    March((1, 21, 21, 2, 9), layout="channels_last"),
    March((1, 16, 21, 2, 8)),
    March((1, 21, 22, 2, 8)),
    March((1, 17, 17, 2, 8), "float32"),
]


def test_other_problems_take_the_portable_kernels() -> None:
    found = call("march_emulated:wrong", library(), OTHERS)
    assert found.wrong == []
    assert found.launched == {"refine_forward_kernel"}


def test_same_bits_whatever_runs_first() -> None:
    first, *others = call("march_emulated:bits", library(), STRIPS, (0, 1, 2))
    assert all(torch.equal(first, other) for other in others)


FASTER, WHEREVER = -2, -3


@pytest.mark.parametrize(
    ("sizes", "math", "why"),
    [
        ((1, 21, 21, 4, 12), "bfloat16", "multiples of eight pixels"),
        ((1, 22, 21, 4, 16), "bfloat16", "17 to 21 channels"),
        ((1, 21, 16, 4, 16), "float16", "17 to 21 channels"),
        ((1, 21, 21, 4, 16), "tf32", "bfloat16 and float16"),
        ((1, 21, 21, 4, 16), "float64", "bfloat16 and float16"),
        ((1, 21, 21, 4, 16), "bfloat16", ""),
    ],
)
def test_the_plan_says_why(sizes: tuple[int, ...], math: str, why: str) -> None:
    found = plan(functions(), sizes, math, WHEREVER)["why_portable"]
    assert why in found and bool(why) == bool(found)


def test_it_runs_only_where_it_is_asked_for() -> None:
    assert "asked for" in plan(functions(), (1, 21, 21, 4, 16), "bfloat16")["why_portable"]


#: Bytes a second of an H200's memory; and times what reading x and writing y takes: at most with the kernel for Hopper, at least
#: with the portable one.
MEMORY = 4.2e12
PREDICTED = {512: (2.35, 3.0), 256: (3.0, 3.2)}


@pytest.mark.parametrize("size", PREDICTED)
def test_plans_of_the_papers_sizes(size: int) -> None:
    """All warpgroups have work, and what the documentation says of times holds."""
    sizes = (16, 21, 21, size, size)
    found, portable = (plan(functions(), sizes, "bfloat16", wanted, H200) for wanted in (FASTER, -1))
    assert found["why_portable"] == "" and found["shared_bytes"] <= H200[1]
    assert found["units"] <= 3 * found["blocks"] <= 3 * H200[0]
    floor = 2 * 2 * 16 * 21 * size**2 / MEMORY
    at_most, at_least = PREDICTED[size]
    assert found["seconds"] <= at_most * floor and portable["seconds"] >= at_least * floor


def test_small_maps_stay_with_the_portable_kernel() -> None:
    small = (16, 21, 21, 128, 128)
    by_choice, wherever, portable = (plan(functions(), small, "bfloat16", wanted, H200) for wanted in (FASTER, WHEREVER, -1))
    assert "less time" in by_choice["why_portable"] and wherever["why_portable"] == ""
    assert by_choice["seconds"] == portable["seconds"] < wherever["seconds"]
