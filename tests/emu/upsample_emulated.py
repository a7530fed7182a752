"""``fused_upsample`` over emulated CUDA kernels, and with faults planted in them.

Run in processes of their own as well, which see this folder only.
"""

import ctypes
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import emulated_library
import torch
from cases import LAYOUTS
from emulated_library import launched_by, outcomes_of
from torch import Tensor
from upsample_cases import check, compare_finite, evaluate, tap_by_tap
from upsample_mutations import MUTATIONS, Case

from gcn_kernels import reference
from gcn_kernels.core.checks import is_channels_last
from gcn_kernels.upsample.spec import DOUBLING, UPSAMPLE

#: Numbers of gcn::cuda::Math.
MATHS = {"float16": 0, "bfloat16": 1, "float32": 3, "float64": 4}
#: Multiprocessors, and bytes of shared memory of a block and of a multiprocessor.
H200 = (132, 227 << 10, 228 << 10)
RTX_4090 = (128, 99 << 10, 100 << 10)
ALL_GRADIENTS = 7
#: The problem of each mutation.
CASE = {m.name: m.caught_by for m in MUTATIONS}


def load(library: Path | str) -> ctypes.CDLL:
    return emulated_library.load(library, (*DOUBLING.schemas, *UPSAMPLE.schemas), "upsample_plan")


def plan(
    functions: ctypes.CDLL, sizes: Sequence[int], math: str, wanted: int = -1, gpu: tuple[int, int, int] = H200
) -> dict[str, Any]:
    """What the host code plans for n, c, o, h, w, yh, yw, k, each channel by itself, something is added."""
    text = functions.upsample_plan((ctypes.c_int64 * 10)(*sizes), MATHS[math], (ctypes.c_int * 3)(*gpu), wanted)
    found: dict[str, Any] = json.loads(text)
    return found


class _Doubling(torch.autograd.Function):
    """What :class:`gcn_kernels.core.operator.Operator` makes of the operators."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, add: Tensor | None, size: Any, groups: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.groups = groups
        like = x if add is None else add
        last = weight.shape[1] * groups > 1 and is_channels_last(like)
        y: Tensor = torch.ops.gcn_emulated.doubling(x, weight, bias, add, *size, groups, last)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        wanted = sum(needed << i for i, needed in enumerate(ctx.needs_input_grad[:3]))
        found = torch.ops.gcn_emulated.doubling_backward(dy, *ctx.saved_tensors, wanted, ctx.groups)
        return (
            *(t if wanted >> i & 1 else None for i, t in enumerate(found)),
            dy if ctx.needs_input_grad[3] else None,
            None,
            None,
        )


def doubling(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    add: Tensor | None = None,
    size: Sequence[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """The emulated operator, as ``fused_upsample`` is called."""
    y: Tensor = _Doubling.apply(x, weight, bias, add, size or (None, None), groups)  # type: ignore[no-untyped-call]
    return y


def make(case: Case) -> tuple[tuple[Tensor, ...], Callable[..., Callable[..., Tensor]]]:
    """The tensors of a case, dy last, and what makes a function of the others of an implementation."""
    torch.manual_seed(0)
    n, c, o, h, w = case.sizes
    o, reads = (c, 1) if case.by_itself else (o, c)
    height, width = 2 * h - case.crop[0], 2 * w - case.crop[1]
    dtype, groups = getattr(torch, case.math), c if case.by_itself else 1

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64).to(dtype).contiguous(memory_format=LAYOUTS[case.layout])

    x, add, dy = drawn(n, c, h, w), drawn(n, o, height, width), drawn(n, o, height, width)
    weight, bias = torch.randn(c, o // groups, case.k, case.k) / (2 * reads**0.5), torch.randn(o)
    if case.special is not None:
        where, value, row, column = case.special
        {"x": x, "dy": dy}[where][0, 0, row, column] = value
    tensors = (x, weight.to(dtype), bias.to(dtype), *((add,) if case.add else ()), dy)

    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        options: dict[str, Any] = {"groups": groups}
        if case.crop != (0, 0) and not case.add:
            options["size"] = (height, width)

        def call(x: Tensor, weight: Tensor, bias: Tensor, *add: Tensor) -> Tensor:
            return function(x, weight, bias, **({"add": add[0]} if add else {}), **options)

        return call

    return tensors, of


def wrong_with(case: Case) -> str:
    """What is wrong with a case, or nothing."""
    tensors, of = make(case)
    try:
        results = evaluate(of(doubling), *tensors)
        if case.special is not None:
            compare_finite(results, of(partial(_tap_by_tap)), *tensors)
        else:
            check(results, *tensors, definition=of(reference.upsample))
    except (AssertionError, RuntimeError) as error:
        return str(error) or "an assertion failed"
    return ""


def _tap_by_tap(
    x: Tensor, weight: Tensor, bias: Tensor, *, add: Tensor | None = None, size: Any = None, groups: int = 1
) -> Tensor:
    assert size is None, "special values are drawn for whole results"
    return tap_by_tap(x, weight, bias, add, groups=groups)


def wrong(library: str, cases: Sequence[Case]) -> list[str]:
    """What is wrong with cases, in a process of its own."""
    load(library)
    return [f"{case}: {said}" for case in cases if (said := wrong_with(case))]


def launched(library: str, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The kernels that the case of each mutation, given by its name, launches without the fault."""

    def run(name: str) -> None:
        tensors, of = make(CASE[name])
        evaluate(of(doubling), *tensors)

    return launched_by(load(library), names, run)


def outcomes(library: str, faults: Sequence[tuple[int, str]]) -> list[str]:
    """What is said about each fault, given by its number and the name of its mutation; nothing if it is not caught."""
    return outcomes_of(load(library), faults, lambda name: wrong_with(CASE[name]))
