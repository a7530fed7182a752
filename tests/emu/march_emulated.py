"""``fused_refine`` forward by the kernel for Hopper, emulated, and with faults planted in it.

Run in processes of their own, in which the emulated GPU is one of compute capability 9.0, and which see this folder only.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import torch
from emulated_library import launched_by, outcomes_of, take_launched, without_arguments
from march_mutations import MUTATIONS, March
from refine_cases import check, check_reach
from refine_emulated import load, make
from refine_mutations import Case
from torch import Tensor

#: The problem of each mutation.
CASE = {m.name: m.caught_by for m in MUTATIONS}


@dataclass(frozen=True)
class Outcome:
    wrong: list[str]
    launched: set[str]


def _hopper() -> None:
    os.environ |= {"GCN_EMULATED_GPU": "hopper", "GCN_KERNELS_PLAN": "refine_march=1"}


def run(case: March) -> tuple[list[Tensor], Tensor, Tensor]:
    """What a case is given, dy, and y."""
    given, dy = make(Case(case.sizes, case.math, case.layout, case.special, case.negative))
    if not case.biases:
        given[3:] = [torch.zeros_like(t) for t in given[3:]]
    biases = given[3:] if case.biases else [None, None]
    out = case.out or case.layout
    return given, dy, torch.ops.gcn_emulated.cuda_refine(*given[:3], *biases, out == "channels_last", False)


def wrong_with(case: March) -> str:
    """What is wrong with a case, or nothing."""
    try:
        given, dy, y = run(case)
        if case.special is None:
            check({"y": y}, given, dy)
        else:
            check_reach({"y": y}, given, dy)
    except (AssertionError, RuntimeError) as error:
        return str(error) or "an assertion failed"
    return ""


def wrong(library: str, cases: Sequence[March]) -> Outcome:
    """What is wrong with cases, and the kernels that they launch."""
    _hopper()
    functions = load(library)
    said = [f"{case}: {what}" for case in cases if (what := wrong_with(case))]
    return Outcome(said, without_arguments(take_launched(functions)))


def bits(library: str, case: March, seeds: Sequence[int]) -> list[Tensor]:
    """y for several orders in which threads run."""
    _hopper()
    functions = load(library)
    results = []
    for seed in seeds:
        functions.set_random_order(seed)
        results.append(run(case)[2])
    return results


def launched(library: str, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The kernels that the case of each mutation, given by its name, launches without the fault."""
    _hopper()
    return launched_by(load(library), names, lambda name: run(CASE[name]))


def outcomes(library: str, faults: Sequence[tuple[int, str]]) -> list[str]:
    """What is said about each fault, given by its number and the name of its mutation; nothing if it is not caught."""
    _hopper()
    return outcomes_of(load(library), faults, lambda name: wrong_with(CASE[name]))
