"""The problems that the emulated operator is tested on: cases of tests/cases.py and more, in an arithmetic and a layout."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import rule
import torch
import torch.nn.functional as F
import wild_layouts
from cases import CASES, SMALL, Block, Case, make, square
from operator_run import Array, Problem, settled
from torch import Tensor

from gcn_kernels import reference

DTYPES = {
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "tf32": torch.float32,
    "float": torch.float32,
    "double": torch.float64,
}
LAYOUTS = ("nchw", "channels_last", "unaligned")

#: GPUs that the plan is made for: an H100; one so small that it is always full; one with the shared memory of sm_86; and one with
#: less of it than any has, where only the direct kernels are left, as they are for sizes that an emulator takes too long for.
GPUS = {
    "h100": {},
    "tiny": {"multiprocessors": 2},
    "cramped": {"shared_per_block": 32 << 10, "shared_per_multiprocessor": 64 << 10},
    "small-shared": {"multiprocessors": 84, "shared_per_block": 99 << 10, "shared_per_multiprocessor": 100 << 10},
    # These ask for the Hopper kernels: with plenty of multiprocessors; with two, and so slow a way from L2 that blocks share
    # what they load; and with one, where there are no clusters. Where launches are fast, channels are split. The second stage has
    # patches of one size or the other, or what the plan chooses, and its windows may be turned; the gradient of x into NCHW has
    # patches of so many columns; one warpgroup of the first stage is as far ahead of the other as can be.
    "hopper": {"hopper": 1, "second_stage": 128, "second_stage_turned": 2},
    "hopper-2": {"hopper": 1, "second_stage": 512, "second_stage_turned": 2, "multiprocessors": 2, "l2_gigabytes": 10},
    "hopper-1": {"hopper": 1, "second_stage": 128, "second_stage_turned": 2, "multiprocessors": 1},
    "hopper-large": {"hopper": 1, "second_stage": 512, "second_stage_turned": 2, "multiprocessors": 1},
    "hopper-turned": {"hopper": 1, "second_stage": 128, "second_stage_turned": 1, "multiprocessors": 1},
    "hopper-turned-large": {"hopper": 1, "second_stage": 512, "second_stage_turned": 1, "multiprocessors": 1},
    "hopper-choice": {"hopper": 1},
    "hopper-ahead": {"hopper": 1, "second_stage": 128, "multiprocessors": 1, "first_stage_ahead": 9},
    "hopper-64": {"hopper": 1, "second_stage": 128, "multiprocessors": 2, "l2_gigabytes": 10, "input_grad_columns": 64},
    "hopper-32": {"hopper": 1, "second_stage": 128, "multiprocessors": 1, "input_grad_columns": 32},
    # Weights are read as they are given, by blocks that have whole sums, or not.
    "unpacked": {"unpacked_weights": 1, "first_stage_splits": 1},
    "unpacked-splits": {"unpacked_weights": 1, "first_stage_splits": 3},
    "hopper-fast-launch": {"hopper": 1, "dependent_launch_us": 0},
}


@dataclass(frozen=True)
class EmulatedCase:
    """A case as an emulator problem."""

    case: Case
    math: str
    layout: str
    gpu: str = "h100"
    wanted: tuple[str, ...] | None = field(default=None)

    def __str__(self) -> str:
        parts = [self.case.name, self.math, self.layout]
        if self.gpu != "h100":
            parts.append(self.gpu)
        if self.wanted is not None:
            parts.append("+".join(self.wanted))
        return "-".join(parts)

    def block(self) -> Block:
        return _block(self.case, self.math, self.layout)

    def problem(self) -> Problem:
        block = self.block()
        arrays = {name: as_array(t) for name, t in {**block.named, "dy": block.dy}.items()}
        return Problem(self.math, arrays, self.layout, GPUS[self.gpu], self.wanted)

    def expected(self) -> tuple[dict[str, Array], dict[str, float]]:
        """Values in float64 and allowed errors."""
        expected = _expected(self.case, self.math, self.layout if self.layout in wild_layouts.LAYOUTS else "nchw")
        return {name: t.numpy() for name, t in expected.values.items()}, expected.allowed


def as_array(t: Tensor) -> Array:
    t = t.detach().contiguous()
    return t.view(torch.int16).numpy().view(np.uint16) if t.element_size() == 2 else t.numpy()


def _block(case: Case, math: str, layout: str) -> Block:
    """The case's tensors; where elements of a layout share memory, with values that it can hold."""
    block = make(case, DTYPES[math])
    if layout not in wild_layouts.LAYOUTS:
        return block

    def held(t: Tensor) -> Tensor:
        a = settled(as_array(t), layout)
        return torch.from_numpy(a.view(np.int16) if a.itemsize == 2 else a).view(t.dtype)

    return replace(block, x=held(block.x), dy=held(block.dy))


@cache
def _expected(case: Case, math: str, layout: str) -> rule.Expected:
    if math != "tf32" and layout not in wild_layouts.LAYOUTS:
        return rule.expect_case(case, DTYPES[math])
    return rule.expect(_block(case, math, layout), own=tf32_gcn if math == "tf32" else reference.gcn)


def tf32_gcn(x: Tensor, *parameters: Tensor | None) -> Tensor:
    """Four convolutions as PyTorch computes them on a GPU where tf32 is allowed."""
    w_l1, w_l2, w_r1, w_r2, b_l1, b_l2, b_r1, b_r2 = parameters
    return _tf32(_tf32(x, w_l1, b_l1), w_l2, b_l2) + _tf32(_tf32(x, w_r1, b_r1), w_r2, b_r2)


def _tf32(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
    y: Tensor = _Tf32Convolution.apply(x, w)
    return y if b is None else y + b[:, None, None]


class _Tf32Convolution(torch.autograd.Function):
    """Operands in tf32, sums in fp32, as well in the gradients. Without oneDNN, which crashes on some sizes (see rule.py)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        with _without_onednn():
            return F.conv2d(rounded(x), rounded(w), padding=_padding(w))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        x, w, dy = rounded(x), rounded(w), rounded(dy)
        with _without_onednn():
            dx = torch.nn.grad.conv2d_input(x.shape, w, dy, padding=_padding(w))
            dw = torch.nn.grad.conv2d_weight(x, w.shape, dy, padding=_padding(w))
        return dx, dw


@contextmanager
def _without_onednn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about switches of another device
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _padding(w: Tensor) -> tuple[int, int]:
    return w.shape[2] // 2, w.shape[3] // 2


def rounded(t: Tensor) -> Tensor:
    """To the nearest number with 10 bits behind the point."""
    bits = t.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


# --- the list

#: Larger than an emulator likes: these run once.
LARGE = ("res5-k15-M21", "res4-k15-M21", "res3-k7-M19", "res2-k25-M19", "wide", "k63", "k127", "long-row", "long-column")
#: Not a single launch.
EMPTY = ("batch0",)

EIGHTS = Case("eights", n=2, c=40, h=12, w=16, mid_l=6, mid_r=5, out=7, k=(5, 7, 9, 3))
ONE_TILE = Case("one-tile", n=1, c=72, h=16, w=8, mid_l=21, mid_r=21, out=21, k=square(15))
WHOLE_LINES = Case("whole-lines", n=2, c=48, h=16, w=32, mid_l=9, mid_r=11, out=10, k=square(11))
#: Five k-blocks of channels, lines that overhang tiles, several groups of middle channels, pixels that fill no tile.
CROP = Case("crop", n=1, c=136, h=20, w=24, mid_l=21, mid_r=21, out=21, k=square(15))
CITYSCAPES = Case("cityscapes", n=1, c=64, h=25, w=26, mid_l=19, mid_r=19, out=19, k=square(25))
TALL_KERNEL = Case("tall-kernel", n=1, c=24, h=100, w=8, mid_l=2, mid_r=3, out=3, k=(199, 3, 5, 99))
LONG_KERNEL = Case("long-kernel", n=1, c=16, h=3, w=130, mid_l=3, mid_r=2, out=3, k=(3, 129, 255, 3))
WIDE_BLOCK = Case("wide-block", n=1, c=80, h=10, w=16, mid_l=130, mid_r=70, out=90, k=(3, 5, 5, 3))
#: More outputs than one narrow block of the weight gradient has; more middle channels than a narrow line convolution has.
MANY_OUTPUTS = Case("many-outputs", n=1, c=16, h=9, w=16, mid_l=12, mid_r=27, out=43, k=(3, 5, 3, 7))
MANY_MIDDLE = Case("many-middle", n=1, c=16, h=9, w=16, mid_l=33, mid_r=5, out=7, k=(3, 5, 3, 7))
MANY_INPUTS = Case("many-inputs", n=1, c=520, h=8, w=8, mid_l=5, mid_r=4, out=6, k=square(3))
#: Whole lines in a tile; two of them, and the second not full, and taps that lead nowhere.
SINGLE = Case("single", n=1, c=104, h=8, w=16, mid_l=5, mid_r=6, out=7, k=(5, 7, 9, 3))
SINGLE_SKIPS = Case("single-skips", n=3, c=72, h=8, w=8, mid_l=3, mid_r=4, out=24, k=(31, 3, 5, 17))
MANY_PIXELS = Case("many-pixels", n=2, c=16, h=40, w=48, mid_l=5, mid_r=4, out=6, k=square(7))


def _small_cases() -> list[EmulatedCase]:
    """Every small case in two of the arithmetics and of the layouts, in turn."""
    chosen = []
    pairs = [("half", "nchw"), ("bfloat16", "channels_last"), ("tf32", "unaligned"), ("float", "nchw"), ("half", "channels_last")]
    pairs += [("bfloat16", "nchw"), ("tf32", "channels_last"), ("float", "channels_last"), ("half", "unaligned")]
    small = [case for case in CASES if case.name not in (*LARGE, *EMPTY)]
    for i, case in enumerate(small):
        chosen += [EmulatedCase(case, *pairs[(2 * i + j) % len(pairs)]) for j in range(2)]
    return chosen


def _everything_about_one() -> list[EmulatedCase]:
    return [EmulatedCase(EIGHTS, math, layout) for math in DTYPES for layout in LAYOUTS]


def _plan_branches() -> list[EmulatedCase]:
    large = {case.name: case for case in CASES if case.name in LARGE}
    return [
        *(EmulatedCase(ONE_TILE, math, layout) for math in ("half", "tf32") for layout in ("nchw", "channels_last")),
        *(EmulatedCase(WHOLE_LINES, math, layout, "tiny") for math in ("bfloat16", "tf32", "float") for layout in LAYOUTS[:2]),
        *(
            EmulatedCase(CROP, math, layout, "tiny")
            for math, layout in (("half", "nchw"), ("bfloat16", "channels_last"), ("tf32", "nchw"))
        ),
        EmulatedCase(CITYSCAPES, "bfloat16", "channels_last", "small-shared"),
        EmulatedCase(CITYSCAPES, "half", "nchw", "tiny"),
        EmulatedCase(TALL_KERNEL, "half", "nchw"),
        EmulatedCase(TALL_KERNEL, "float", "channels_last"),
        EmulatedCase(LONG_KERNEL, "bfloat16", "channels_last"),
        EmulatedCase(LONG_KERNEL, "tf32", "unaligned"),
        *(EmulatedCase(WIDE_BLOCK, math, layout, gpu) for math, layout, gpu in WIDE_BLOCK_RUNS),
        *(EmulatedCase(EIGHTS, math, layout, "cramped") for math, layout in (("half", "nchw"), ("float", "channels_last"))),
        EmulatedCase(MANY_OUTPUTS, "bfloat16", "channels_last"),
        EmulatedCase(MANY_OUTPUTS, "tf32", "nchw", "tiny"),
        EmulatedCase(MANY_MIDDLE, "half", "nchw"),
        EmulatedCase(MANY_MIDDLE, "float", "channels_last", "tiny"),
        EmulatedCase(MANY_INPUTS, "half", "channels_last"),
        EmulatedCase(MANY_INPUTS, "half", "nchw"),
        EmulatedCase(MANY_PIXELS, "half", "nchw", "tiny"),
        EmulatedCase(MANY_PIXELS, "bfloat16", "channels_last", "tiny"),
        EmulatedCase(MANY_PIXELS, "tf32", "nchw", "tiny"),
        EmulatedCase(large["res3-k7-M19"], "bfloat16", "nchw"),
        EmulatedCase(large["res2-k25-M19"], "half", "channels_last"),
        EmulatedCase(large["k63"], "half", "nchw"),
        EmulatedCase(large["k127"], "bfloat16", "unaligned"),
        EmulatedCase(large["long-row"], "half", "nchw"),
        EmulatedCase(large["long-column"], "half", "channels_last"),
    ]


WIDE_BLOCK_RUNS = (
    ("half", "nchw", "h100"),
    ("bfloat16", "channels_last", "tiny"),
    ("half", "unaligned", "small-shared"),
    ("tf32", "nchw", "tiny"),
    ("float", "channels_last", "tiny"),
)


def _unpacked() -> list[EmulatedCase]:
    """Forward from weights as they are given, and what it does not take."""
    return [
        EmulatedCase(SINGLE, "bfloat16", "channels_last", "unpacked"),
        EmulatedCase(SINGLE, "half", "channels_last", "unpacked-splits"),
        EmulatedCase(SINGLE_SKIPS, "half", "channels_last", "unpacked"),
        EmulatedCase(SINGLE_SKIPS, "bfloat16", "channels_last", "unpacked-splits"),
        EmulatedCase(ONE_TILE, "bfloat16", "channels_last", "unpacked-splits"),
        EmulatedCase(SINGLE, "half", "nchw", "unpacked"),
        EmulatedCase(SINGLE, "tf32", "channels_last", "unpacked"),
    ]


def _far_apart() -> list[EmulatedCase]:
    """Offsets of more than 32 bits, in every kernel that reads x or dy, or writes y or dx."""
    return [
        EmulatedCase(EIGHTS, "half", "far"),  # x as it is
        EmulatedCase(SMALL, "bfloat16", "far"),  # x packed first
        EmulatedCase(EIGHTS, "tf32", "far", "tiny"),
        EmulatedCase(SMALL, "half", "far", "cramped"),  # the direct kernels
    ]


def _single_gradients() -> list[EmulatedCase]:
    """One gradient at a time: what is not wanted is not computed, and nothing that is depends on it."""
    return [EmulatedCase(SMALL, "half", "nchw", wanted=(name,)) for name in make(SMALL).named]


#: One row of one map: strides of dimensions with one element say nothing.
LONE_ROW = Case("lone-row", n=1, c=24, h=1, w=19, mid_l=5, mid_r=9, out=6, k=(3, 5, 15, 3))


def wild(gpu: str, math: str, case: Case) -> list[EmulatedCase]:
    """Maps whose elements share memory, or have any stride where there is one element."""
    return [EmulatedCase(LONE_ROW if layout == "lone" else case, math, layout, gpu) for layout in wild_layouts.LAYOUTS]


PROBLEMS = (
    *_small_cases(),
    *_everything_about_one(),
    *_plan_branches(),
    *_unpacked(),
    *_far_apart(),
    *_single_gradients(),
    *wild("h100", "half", EIGHTS),
)
