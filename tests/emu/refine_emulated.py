"""``fused_refine`` over emulated CUDA kernels, and with faults planted in them.

Run in processes of their own as well, which see this folder only.
"""

import ctypes
import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import emulated_library
import torch
from emulated_library import launched_by, outcomes_of
from refine_cases import NAMES, Arguments, check, check_reach, draw_sizes, with_special_value
from refine_mutations import MUTATIONS, Case
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from gcn_kernels.core.checks import is_channels_last
from gcn_kernels.refine.spec import CUDA_REFINE

#: Numbers of gcn::cuda::Math.
MATHS = {"float16": 0, "bfloat16": 1, "tf32": 2, "float32": 3, "float64": 4}
#: Multiprocessors, and bytes of shared memory of a block and of a multiprocessor.
H200 = (132, 227 << 10, 228 << 10)
RTX_4090 = (128, 99 << 10, 100 << 10)
ALL_GRADIENTS = 31
#: The problem of each mutation.
CASE = {m.name: m.caught_by for m in MUTATIONS}


@cache  # two files of tests have plans made in the process that collects them, and an operator is defined once
def load(library: str) -> ctypes.CDLL:
    return emulated_library.load(library, CUDA_REFINE.schemas, "refine_plan")


def plan(
    functions: ctypes.CDLL, sizes: Sequence[int], math: str, wanted: int = -1, gpu: tuple[int, int, int] = H200
) -> dict[str, Any]:
    """What the host code plans for n, c, m, h, w: a forward pass, or a backward pass with these gradients."""
    text = functions.refine_plan((ctypes.c_int64 * 5)(*sizes), MATHS[math], (ctypes.c_int * 3)(*gpu), wanted)
    found: dict[str, Any] = json.loads(text)
    return found


def run(given: Sequence[Tensor | None], dy: Tensor, allow_tf32: bool = False, wanted: int = ALL_GRADIENTS) -> dict[str, Tensor]:
    """y and the gradients, those that are not wanted empty."""
    operators, x = torch.ops.gcn_emulated, given[0]
    assert x is not None
    y = operators.cuda_refine(*given, x.shape[1] > 1 and is_channels_last(x), allow_tf32)
    gradients = operators.cuda_refine_backward(dy, *given[:4], wanted, allow_tf32)
    return {"y": y, **dict(zip(NAMES, gradients, strict=True))}


class _RoundedConv(torch.autograd.Function):
    """A convolution whose factors, and whose gradients' factors, are rounded to tf32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.factors = to_tf32(x), to_tf32(w)
        return torch.conv2d(*ctx.factors, padding=1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        (x, w), dy = ctx.factors, to_tf32(dy)
        return conv2d_input(x.shape, w, dy, padding=1), conv2d_weight(x, w.shape, dy, padding=1)


def to_tf32(t: Tensor) -> Tensor:
    """To the nearest of ten stored bits, ties away from zero."""
    return ((t.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def refine_in_tf32(x: Tensor, w1: Tensor, w2: Tensor, b1: Tensor, b2: Tensor) -> Tensor:
    """What PyTorch's convolutions are on a GPU where they may round their factors to tf32."""

    def conv(t: Tensor, w: Tensor, b: Tensor) -> Tensor:
        product: Tensor = _RoundedConv.apply(t, w)  # type: ignore[no-untyped-call]
        return product + b[:, None, None]

    return x + conv(torch.relu(conv(x, w1, b1)), w2, b2)


def make(case: Case) -> tuple[Arguments, Tensor]:
    """The tensors of a case; in tf32 such that rounding does not decide what the ReLU does."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if case.math == "tf32" else getattr(torch, case.math)
    given, dy = draw_sizes(case.sizes, dtype, case.layout)
    if case.math == "tf32":
        given, dy = [t.float() for t in given], dy.float()
    if case.negative:
        given[1] = -given[1].abs()
    if case.special is not None:
        with_special_value(given, dy, *case.special)
    return given, dy


def wrong_with(case: Case) -> str:
    """What is wrong with a case, or nothing."""
    given, dy = make(case)
    try:
        results = run(given, dy, case.math == "tf32")
        if case.special is not None:
            check_reach(results, given, dy)
        else:
            check(results, given, dy, **({"own": refine_in_tf32} if case.math == "tf32" else {}))
    except (AssertionError, RuntimeError) as error:
        return str(error) or "an assertion failed"
    return ""


def wrong(library: str, cases: Sequence[Case]) -> list[str]:
    """What is wrong with cases, in a process of its own."""
    load(library)
    return [f"{case}: {said}" for case in cases if (said := wrong_with(case))]


def launched(library: str, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The kernels that the case of each mutation, given by its name, launches without the fault."""
    return launched_by(load(library), names, lambda name: run(*make(CASE[name]), CASE[name].math == "tf32"))


def outcomes(library: str, faults: Sequence[tuple[int, str]]) -> list[str]:
    """What is said about each fault, given by its number and the name of its mutation; nothing if it is not caught."""
    return outcomes_of(load(library), faults, lambda name: wrong_with(CASE[name]))
