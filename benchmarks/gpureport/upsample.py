"""Program: the doubling of a map on the GPU. See gpureport/subject.py for its tasks, ``check`` and ``time``.

Timed are the paper's decoder and a wide one at batch 16; the floor is x, y and their gradients read or written once (three times
the forward pass).
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from gcnbench.problems import LAYOUTS
from torch import Tensor

from gcn_kernels import fused_upsample, reference
from gpureport.subject import Run, Sizes, Subject, rounded

#: n, c, o, h, w; of other kernels than 4 x 4 of all channels, k and the groups as well.
CHECKED: tuple[Sizes, ...] = (
    *((16, 21, 21, size, size) for size in (64, 256)),
    *((1, 21, 21, 128, 128), (2, 19, 19, 33, 65), (2, 256, 128, 16, 16), (4, 64, 64, 32, 32), (3, 1, 1, 5, 7), (2, 3, 40, 1, 1)),
)
TIMED: tuple[Sizes, ...] = (
    *((16, 21, 21, size, size) for size in (64, 128, 256)),
    *((1, 21, 21, 256, 256), (16, 256, 128, 64, 64)),
)
SMALL: tuple[Sizes, ...] = ((3, 1, 1, 5, 7), (2, 3, 40, 1, 1))


class _InTf32(torch.autograd.Function):
    """The transposed convolution with every product's factors rounded to tf32, computed in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(rounded(x), rounded(weight))
        ctx.groups = _groups(x, bias, weight)
        return reference.upsample(rounded(x), rounded(weight), bias, groups=ctx.groups)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        x, weight = (t.detach().requires_grad_() for t in ctx.saved_tensors)
        with torch.enable_grad():
            y = reference.upsample(x, weight, groups=ctx.groups)
        return (*torch.autograd.grad(y, (x, weight), rounded(dy)), dy.sum((0, 2, 3)))


def tensors(sizes: Sizes, dtype: torch.dtype, device: torch.device, layout: str) -> list[Tensor]:
    """x, weight, bias, dy; the same values in every layout."""
    n, c, o, h, w, k, groups = _with_form(sizes)
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    x, weight, bias, dy = (
        normal(n, c, h, w),
        normal(c, o // groups, k, k) / (2 * (c / groups) ** 0.5),
        normal(o),
        normal(n, o, 2 * h, 2 * w),
    )
    return [x.contiguous(memory_format=LAYOUTS[layout]), weight, bias, dy.contiguous(memory_format=LAYOUTS[layout])]


def _with_form(sizes: Sizes) -> Sizes:
    return sizes if len(sizes) == 7 else (*sizes, 4, 1)


def _groups(x: Tensor, bias: Tensor, weight: Tensor) -> int:
    return x.shape[1] if weight.shape[1] < bias.shape[0] else 1


def operator(backend: str) -> Run:
    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return fused_upsample(x, weight, bias, groups=_groups(x, bias, weight), backend=backend)

    return run


def definition(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return reference.upsample(x, weight, bias, groups=_groups(x, bias, weight))


def label(sizes: Sizes) -> str:
    n, c, o, h, w, k, groups = _with_form(sizes)
    form = "" if (k, groups) == (4, 1) else f" {k}x{k}{' by itself' * (groups > 1)}"
    return f"{n}x{c}->{o}x{h}x{w}{form}"


def _moved(sizes: Sizes) -> tuple[int, int]:
    n, c, o, h, w, *_ = sizes
    once = n * h * w * (c + 4 * o)
    return once, 3 * once


def _rule() -> tuple[Callable[..., dict[str, Tensor]], Callable[..., None]]:
    cases: Any = importlib.import_module("upsample_cases")
    return (
        lambda run, given, dy: cases.evaluate(run, *given, dy),
        lambda found, given, dy, theirs: cases.check(found, *given, dy, pytorch=theirs, definition=definition),
    )


SUBJECT = Subject(
    run=operator,
    definition=definition,
    in_tf32=_InTf32.apply,
    tensors=tensors,
    timed_tensors=tensors,
    rule=_rule,
    label=label,
    moved=_moved,
    checked=CHECKED,
    timed=TIMED,
    small=SMALL,
    backends=("cuda", "triton"),
)

if __name__ == "__main__":
    sys.exit(SUBJECT.main(__doc__))
