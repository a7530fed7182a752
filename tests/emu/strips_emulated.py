"""``fused_strips`` over emulated CUDA kernels, as a function of torch tensors with derivatives, and with faults planted in them.

Run in processes of their own as well, which see this folder only.
"""

import ctypes
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import emulated_library
import emulator
import torch
from emulated_library import launched_by, outcomes_of, take_launched, without_arguments
from rule import check, evaluate, expect
from strips_cases import LSKA, MSCA, STRIP_BLOCK, Case, InTf32, Strips, make
from strips_mutations import MUTATIONS, Mutation
from torch import Tensor

from gcn_kernels.core.checks import is_channels_last
from gcn_kernels.strips import problem
from gcn_kernels.strips.spec import CUDA_STRIPS, STRIPS, form_of

MUTATION = {m.name: m for m in MUTATIONS}
FORMS = {"msca": MSCA, "strip-block": STRIP_BLOCK, "lska": LSKA}
#: Numbers of gcn::cuda::Math.
MATHS = {torch.float16: 0, torch.bfloat16: 1, "tf32": 2, torch.float32: 3, torch.float64: 4}
#: Multiprocessors, bytes of shared memory of a block and of a multiprocessor, gigabytes a second of device memory.
H200 = (132, 227 << 10, 228 << 10, 4200)


def load(library: Path | str) -> ctypes.CDLL:
    return emulated_library.load(library, (*STRIPS.schemas, *CUDA_STRIPS.schemas), "strips_plan")


@cache
def functions() -> Any:
    """The kernels as they are, in this process: their operators can be registered once."""
    return load(emulator.strips_library())


def taken() -> set[str]:
    """Names of the templates of the kernels that ran in this process since the last question."""
    return without_arguments(take_launched(functions()))


def plan(
    functions: ctypes.CDLL,
    case: Case,
    math: torch.dtype | str,
    *,
    backward: bool = False,
    layout: str = "nchw",
    gpu: tuple[int, int, int, int] = H200,
    overrides: str = "",
) -> dict[str, Any]:
    """What the host code plans for a case: a forward pass, or a backward pass with all gradients."""
    kernels = [n for kh, kw, dilation in case.steps for n in (kh, kw, *dilation)]
    form = (len(case.steps), len(case.branches), case.stem is not None, case.skip)
    text = functions.strips_plan(
        (ctypes.c_int64 * 4)(case.n, case.c, case.h, case.w),
        MATHS[math],
        (ctypes.c_int * 4)(*gpu),
        (ctypes.c_int64 * len(kernels))(*kernels),
        (ctypes.c_int64 * len(case.branches))(*map(len, case.branches)),
        (ctypes.c_int * 4)(*form),
        backward,
        layout == "channels_last",
        overrides.encode(),
    )
    found: dict[str, Any] = json.loads(text)
    return found


@dataclass(frozen=True)
class Emulated:
    """Calling it with flat arguments computes a case; gradients come from the emulated backward operator, all or some."""

    case: Case
    wanted: int | None = None
    allow_tf32: bool = False
    backend = "emulated"

    def __call__(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        y: Tensor = _Emulated.apply(self, x, *parameters)
        return y

    def arguments(self, x: Tensor, parameters: Sequence[Tensor | None]) -> tuple[Any, ...]:
        """x, weights, biases, and the form."""
        case, count = self.case, len(self.case.steps)
        dilations, lengths = tuple(s[2] for s in case.steps), tuple(map(len, case.branches))
        weights: Any = tuple(parameters[:count])
        strips = problem.Strips(weights, tuple(parameters[count:]), dilations, lengths, bool(case.stem), case.skip)
        return x, list(weights), [b for b in strips.biases if b is not None], *form_of(strips)


class _Emulated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Emulated, x: Tensor, *parameters: Tensor | None) -> Tensor:
        ctx.run, ctx.given, ctx.parameters = run, run.arguments(x, parameters), parameters
        y: Tensor = torch.ops.gcn_emulated.cuda_strips(*ctx.given, is_channels_last(x), run.allow_tf32)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, biases, *form = ctx.given
        wanted = (1 << 1 + len(weights) + len(biases)) - 1 if ctx.run.wanted is None else ctx.run.wanted
        given = dy, x, weights, biases, wanted, *form, ctx.run.allow_tf32
        dx, of_weights, of_biases = torch.ops.gcn_emulated.cuda_strips_backward(*given)
        remaining = iter(of_biases)
        found = [dx, *of_weights, *(None if b is None else next(remaining) for b in ctx.parameters[len(weights) :])]
        return (None, *(g if g is None or g.numel() or x.numel() == 0 else None for g in found))


def with_special_value(block: Strips, special: tuple[str, float]) -> Strips:
    """With a value in the last place of a map, "x" or "dy"."""
    name, value = special
    case, t = block.case, getattr(block, name).clone(memory_format=torch.preserve_format)
    t[case.n - 1, case.c - 1, case.h - 1, case.w - 1] = value
    return replace(block, **{name: t})


def wrong_reach(block: Strips, special: tuple[str, float], run: Any) -> str:
    """Where a value that is not finite gets to that it should not, or does not; nothing if all is well.

    What it reaches is what a one in its place reaches among zeros, with weights and the other map of ones.
    """
    name, _ = special
    found = evaluate(run, with_special_value(block, special))
    ones = replace(block, weights=tuple(map(torch.ones_like, block.weights)), x=torch.ones_like(block.x))
    ones = replace(
        ones, biases=tuple(None if b is None else torch.zeros_like(b) for b in block.biases), dy=torch.ones_like(ones.x)
    )
    one = with_special_value(replace(ones, **{name: torch.zeros_like(block.x)}), (name, 1.0))
    reached = evaluate(block.definition, one.to(torch.float64))
    untouched = {"x": lambda n: n == "x" or n.startswith("b"), "dy": lambda n: n == "y"}[name]
    wrong = [n for n, t in found.items() if not torch.equal(~t.isfinite(), (reached[n].abs() > 1e-9) & (not untouched(n)))]
    return ", ".join(wrong)


def launched(library: str, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The kernels that the problem of each mutation, given by its name, launches without the fault."""
    return launched_by(load(library), names, lambda name: evaluate(_run(MUTATION[name]), _block(MUTATION[name])))


def outcomes(library: str, faults: Sequence[tuple[int, str]]) -> list[str]:
    """What is said about each fault, given by its number and the name of its mutation; nothing if it is not caught."""
    functions = load(library)
    own = {"tf32": InTf32}
    expected = {
        (m.caught_by, m.math): expect(_block(m), own=own[m.math](m.caught_by) if m.math in own else None)
        for m in (MUTATION[name] for _, name in faults)
        if not m.special
    }

    def wrong_with(m: Mutation) -> str:
        try:
            if m.special:
                return wrong_reach(_block(m), m.special, _run(m))
            check(evaluate(_run(m), _block(m)), expected[m.caught_by, m.math])
        except (AssertionError, RuntimeError) as error:
            return str(error)
        return ""

    return outcomes_of(functions, faults, lambda name: wrong_with(MUTATION[name]))


def _block(m: Mutation) -> Strips:
    return make(m.caught_by, torch.float32 if m.math == "tf32" else getattr(torch, m.math)).in_layout(m.layout)


def _run(m: Mutation) -> Emulated:
    """How a mutation's problem is run, in a process of its own: in tf32 on tensor cores, whatever the plan would rather do."""
    os.environ["GCN_KERNELS_PLAN"] = "strips_banded=2" if m.math == "tf32" else ""
    return Emulated(m.caught_by, allow_tf32=m.math == "tf32")


def wrong(library: str, problems: Sequence[tuple[str, tuple[int, int, int, int], str, str]]) -> list[str]:
    """What is wrong with problems, each the name of a form, N, C, H, W, a dtype and a layout; nothing where none is."""
    load(library)
    found = []
    for form, (n, c, h, w), dtype, layout in problems:
        case = replace(FORMS[form], n=n, c=c, h=h, w=w)
        block = make(case, getattr(torch, dtype))
        try:
            check(evaluate(Emulated(case), block.in_layout(layout)), expect(block))
        except (AssertionError, RuntimeError) as error:
            found.append(f"{case} {dtype} {layout}: {error}")
    return found
