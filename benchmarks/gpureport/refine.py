"""Program: boundary refinement on the GPU. See gpureport/subject.py for its tasks, ``check`` and ``time``.

GCN_KERNELS_PLAN=refine_march=1 in the environment runs forward by the kernel of sm_90a where it takes the problem.
Timed are the paper's refinements at batch 16 and 1; the floor is x and y once, with backward dy, x and dx besides.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from gcnbench.problems import LAYOUTS
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from gcn_kernels import fused_refine, reference
from gpureport.subject import Run, Sizes, Subject, rounded


class _Conv(torch.autograd.Function):
    """A convolution with the factors of every product rounded to tf32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(rounded(x), rounded(w))
        return torch.conv2d(rounded(x), rounded(w), padding=1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        (x, w), dy = ctx.saved_tensors, rounded(dy)
        return conv2d_input(x.shape, w, dy, padding=1), conv2d_weight(x, w.shape, dy, padding=1)  # type: ignore[no-untyped-call]


def in_tf32(x: Tensor, w1: Tensor, w2: Tensor, b1: Tensor, b2: Tensor) -> Tensor:
    def conv(t: Tensor, w: Tensor, b: Tensor) -> Tensor:
        product: Tensor = _Conv.apply(t, w)  # type: ignore[no-untyped-call]
        return product + b[:, None, None]

    return x + conv(torch.relu(conv(x, w1, b1)), w2, b2)


def tensors(sizes: Sizes, dtype: torch.dtype, device: torch.device, layout: str) -> list[Tensor]:
    """x, w1, w2, b1, b2, dy: numbers of bfloat16, of which rounding does not decide on which side of the ReLU they are."""
    cases: Any = importlib.import_module("refine_cases")
    torch.manual_seed(0)
    exact = dtype if dtype in (torch.float16, torch.bfloat16) else torch.bfloat16
    given, dy = cases.draw_sizes(sizes, exact)
    x, *parameters, dy = (t.to(device, dtype) for t in (*given, dy))
    return [x.contiguous(memory_format=LAYOUTS[layout]), *parameters, dy.contiguous(memory_format=LAYOUTS[layout])]


def timed_tensors(sizes: Sizes, dtype: torch.dtype, device: torch.device, layout: str) -> list[Tensor]:
    """The same without a search, which for large maps takes longer than the measurement."""
    n, c, m, h, w = sizes
    shapes = (n, c, h, w), (m, c, 3, 3), (c, m, 3, 3), (m,), (c,), (n, c, h, w)
    generator = torch.Generator(device).manual_seed(0)
    x, *parameters, dy = (torch.randn(s, generator=generator, device=device).to(dtype) / 4 for s in shapes)
    return [x.contiguous(memory_format=LAYOUTS[layout]), *parameters, dy.contiguous(memory_format=LAYOUTS[layout])]


def _rule() -> tuple[Callable[..., dict[str, Tensor]], Callable[..., None]]:
    cases: Any = importlib.import_module("refine_cases")
    return cases.evaluate, cases.check


def operator(backend: str) -> Run:
    return lambda *given: fused_refine(*given, backend=backend)


SUBJECT = Subject(
    run=operator,
    definition=reference.refine,
    in_tf32=in_tf32,
    tensors=tensors,
    timed_tensors=timed_tensors,
    rule=_rule,
    label=lambda s: "{}x{}-{}x{}x{}".format(*s),
    moved=lambda s: (2 * s[0] * s[1] * s[3] * s[4], 5 * s[0] * s[1] * s[3] * s[4]),
    checked=(
        *((16, 21, 21, 128, 128), (1, 21, 21, 128, 128), (2, 19, 19, 33, 65), (2, 64, 64, 32, 32), (1, 256, 128, 16, 16)),
        (2, 19, 18, 40, 136),
        *((3, 1, 1, 5, 7), (2, 3, 40, 1, 1)),
    ),
    timed=(*((16, 21, 21, size, size) for size in (128, 256, 512)), (1, 21, 21, 512, 512), (16, 19, 19, 256, 256)),
    small=((3, 1, 1, 5, 7), (2, 3, 40, 1, 1)),
    backends=("cuda",),
)

if __name__ == "__main__":
    sys.exit(SUBJECT.main(__doc__))
