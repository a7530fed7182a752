"""The operators ``gcn_kernels::triton_strips`` and ``::triton_strips_backward``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op

from gcn_kernels.core.checks import is_channels_last
from gcn_kernels.strips.spec import fake
from gcn_kernels.triton import device
from gcn_kernels.triton.plan import MOST_POSITIONS, cdiv, larger, power_of_two, smaller
from gcn_kernels.triton.strips import kernels, rows

#: Lanes times channels of a program, and its warps: four elements for each thread, what one load of float32 moves.
ELEMENTS, WARPS = 512, 4
#: Channels of a program, at most, where neighbours in memory are channels; elsewhere it has one.
CHANNELS = 32
#: Lanes of a program of ``convolve_rows``, each with four outputs.
ROW_LANES = 256
#: Outputs of a lane, and taps of a group, at most; see :mod:`gcn_kernels.triton.strips.kernels`. Not measured: they fit the
#: registers of every architecture that tests/test_triton_strips.py compiles them for.
OUTPUTS, TAPS = 8, 7
#: Programs of ``weight_gradient`` for each multiprocessor.
GRADIENT_PROGRAMS = 8
#: Splits that ``finish`` adds at a time, and sums of a program of it.
SUMMED_SPLITS, SUMS = 16, 64


@dataclass(frozen=True)
class Step:
    """A depthwise convolution: its weight [C, 1, kh, kw], its bias [C] or None, its dilation (dh, dw)."""

    weight: Tensor
    bias: Tensor | None
    dilation: tuple[int, int]


@dataclass(frozen=True)
class Form:
    """Depthwise strips; steps are numbered the stem's first, then branch by branch."""

    stem: Step | None
    branches: list[list[Step]]
    skip: bool


@dataclass(frozen=True)
class Axes:
    """How a launch sees a map: which axis runs ``along``, and how many lanes, channels and outputs a program has."""

    along: int
    lanes: int
    channels: int
    outputs: int

    @property
    def across(self) -> int:
        return 5 - self.along

    @property
    def meta(self) -> dict[str, Any]:
        sizes = {"M": self.lanes, "CB": self.channels, "R": self.outputs}
        return {**sizes, "ALONG_ROWS": self.along == 3, "num_warps": WARPS}

    def pair(self, dims: Sequence[Any]) -> tuple[Any, Any]:
        """Of four values, one for each dimension of a map, those along and across."""
        return dims[self.along], dims[self.across]

    def strides(self, t: Tensor) -> tuple[Any, ...]:
        """In the kernels' order."""
        stride = t.stride()
        return stride[0], stride[1], *self.pair(stride)

    def reach(self, t: Tensor, step: Step) -> tuple[Any, ...]:
        """Taps between neighbours, along and across. One as far as the map is wide leaves the map as every farther one does."""
        distances, sizes = self.pair((1, 1, *step.dilation)), self.pair(t.shape)
        return tuple(1 if d == 1 else smaller(d, size) for d, size in zip(distances, sizes, strict=True))

    def tiles(self, t: Tensor, step: Step) -> Any:
        """Of the lanes that cover a map."""
        along, across = self.pair(t.shape)
        distance = self.reach(t, step)[0]
        return cdiv(t.shape[0] * across * (cdiv(along, self.outputs * distance) * distance), self.lanes)


def axes(t: Tensor, along: int, planar: bool, outputs: int) -> Axes:
    """For a map like ``t``, whose neighbours in memory are pixels if ``planar``, else channels."""
    channels = 1 if planar else min(CHANNELS, power_of_two(int(t.shape[1])))
    size = t.shape[along]
    return Axes(along, ELEMENTS // channels, channels, min(outputs, power_of_two(size)) if isinstance(size, int) else outputs)


def forward(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    lengths: list[int],
    dilations: list[int],
    biased: list[int],
    stem: bool,
    skip: bool,
    channels_last: bool,
) -> Tensor:
    """-> y [N, C, H, W]."""
    form = _read(x, weights, biases, lengths, dilations, biased, stem, skip)
    y = fake(x, weights, biases, lengths, dilations, biased, stem, skip, channels_last)
    if y.numel() == 0:
        return y
    with device.current(x):
        a = x if form.stem is None else _convolve(x, form.stem, _between(x, channels_last))
        total = a if skip else None
        for branch in form.branches:
            t = a
            for step in branch[:-1]:
                t = _convolve(t, step, _between(x, channels_last))
            out = y if branch is form.branches[-1] else _between(x, channels_last)
            total = _convolve(t, branch[-1], out, total)
    return y


def backward(
    dy: Tensor,
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    wanted: int,
    lengths: list[int],
    dilations: list[int],
    biased: list[int],
    stem: bool,
    skip: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """-> the gradients of x, the weights and the biases; those that bit i of ``wanted`` does not ask for are empty."""
    form = _read(x, weights, biases, lengths, dilations, biased, stem, skip)
    if dy.shape != x.shape or dy.dtype != x.dtype or dy.device != x.device:
        raise RuntimeError(
            f"dy: expected {list(x.shape)} of {x.dtype} on {x.device}, got {list(dy.shape)} of {dy.dtype} on {dy.device}"
        )
    gradients = _backward_fake(dy, x, weights, biases, wanted, lengths, dilations, biased, stem, skip)
    dx, dws, dbs = gradients
    if dy.numel() == 0:
        return dx, [dw.zero_() for dw in dws], [db.zero_() for db in dbs]
    with device.current(x):
        _Backward(form, dy, x, gradients, wanted, biased).run()
    return gradients


class _Backward:
    """The backward pass: the maps between the steps again, then each chain from its end to its start."""

    def __init__(
        self,
        form: Form,
        dy: Tensor,
        x: Tensor,
        gradients: tuple[Tensor, list[Tensor], list[Tensor]],
        wanted: int,
        biased: Sequence[int],
    ) -> None:
        self.form, self.dy, self.x = form, dy, x
        self.dx, dws, dbs = gradients
        of_biases = iter(dbs)
        bits = iter(wanted >> i & 1 for i in range(1, 1 + len(dws) + len(dbs)))
        wants_weight = [bool(next(bits)) for _ in dws]
        wants_bias = [bool(has) and bool(next(bits)) for has in biased]
        #: Of every step: the gradients of its weight and its bias, None where they are not asked for.
        self.asked: list[tuple[Tensor | None, Tensor | None]] = []
        for i, dw in enumerate(dws):
            db = next(of_biases) if biased[i] else None
            self.asked.append((dw if wants_weight[i] else None, db if wants_bias[i] else None))
        self.wants_x = bool(wanted & 1)
        self.channels_last = is_channels_last(x)

    def run(self) -> None:
        form, first = self.form, int(self.form.stem is not None)
        of_stem = self.asked[0] if form.stem is not None else (None, None)
        wants_a = self.wants_x or _any(of_stem)
        a = self.x
        if form.stem is not None and any(dw is not None for dw, _ in self.asked[1:]):
            a = self._convolve(self.x, form.stem)
        da = self.dy if form.skip else None
        for i, branch in enumerate(form.branches):
            last = form.stem is None and i == len(form.branches) - 1
            da = self._branch(branch, self.asked[first : first + len(branch)], a, da, wants_a, self.dx if last else None)
            first += len(branch)
        if form.stem is not None and da is not None:
            self._parameters(self.x, da, form.stem, of_stem)
            if self.wants_x:
                self._convolve(da, form.stem, self.dx, turned=True)

    def _branch(
        self,
        branch: list[Step],
        asked: list[tuple[Tensor | None, Tensor | None]],
        a: Tensor,
        da: Tensor | None,
        wants_a: bool,
        out: Tensor | None,
    ) -> Tensor | None:
        """The gradients of a chain's parameters; da with the chain's part in it, in ``out`` if given, where ``wants_a``."""
        inputs = [a]
        deepest = max((i for i, (dw, _) in enumerate(asked) if dw is not None), default=0)
        for step in branch[:deepest]:
            inputs.append(self._convolve(inputs[-1], step))
        g = self.dy
        for i in reversed(range(len(branch))):
            self._parameters(inputs.pop() if i < len(inputs) else a, g, branch[i], asked[i])
            if not wants_a and not any(map(_any, asked[:i])):
                return None
            g = self._convolve(g, branch[i], None if i else out, None if i else da, turned=True)
        return g

    def _convolve(
        self, t: Tensor, step: Step, out: Tensor | None = None, addend: Tensor | None = None, *, turned: bool = False
    ) -> Tensor:
        return _convolve(t, step, _between(self.x, self.channels_last) if out is None else out, addend, turned=turned)

    def _parameters(self, t: Tensor, g: Tensor, step: Step, asked: tuple[Tensor | None, Tensor | None]) -> None:
        if _any(asked):
            _gradients(t, g, step, *asked, planar=not self.channels_last)


def _any(asked: tuple[Tensor | None, Tensor | None]) -> bool:
    return asked[0] is not None or asked[1] is not None


def _between(x: Tensor, channels_last: bool) -> Tensor:
    """A map between steps, in float32."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(x.shape, dtype=torch.float32, device=x.device, memory_format=layout)


def _convolve(src: Tensor, step: Step, dst: Tensor, addend: Tensor | None = None, *, turned: bool = False) -> Tensor:
    """dst = [addend +] conv(src); ``turned``: its input's gradient, by the kernel turned by half a turn, without the bias."""
    kh, kw = (int(k) for k in step.weight.shape[2:])
    planar = not is_channels_last(dst)
    bias, also = None if turned else step.bias, dst if addend is None else addend
    tensors = (src, step.weight, src if bias is None else bias.contiguous(), also, dst)
    stride = step.weight.stride()
    first = (kh - 1) * stride[2] + (kw - 1) * stride[3] if turned else 0
    pitches = [-s if turned else s for s in stride]
    meta = {"BIASED": bias is not None, "ADDED": addend is not None}
    n, c, h, w = dst.shape
    if planar and kw > 1 and step.dilation[1] == 1:
        before = cdiv(kw // 2, 4)
        phase = 4 * before - kw // 2
        strides = (first, stride[0], *pitches[2:], *src.stride(), *also.stride(), *dst.stride())
        groups, rest = divmod(kw - (4 - phase), 4)
        device.launch(
            rows.convolve_rows,
            (cdiv(n * h * cdiv(w, 4), ROW_LANES) * c,),
            (*tensors, n, h, w, c, kh, smaller(step.dilation[0], h), before, groups, *strides),
            M=ROW_LANES,
            PHASE=phase,
            REST=rest,
            **meta,
            num_warps=WARPS,
        )
        return dst
    by = axes(dst, 2 if planar or kh >= kw else 3, planar, _outputs(kh, kw))
    taps, lines = by.pair((1, 1, kh, kw))
    group, channel_blocks = min(taps, TAPS), cdiv(c, by.channels)
    sizes = (n, *by.pair(dst.shape), c, channel_blocks, taps // group, lines, *by.reach(dst, step))
    strides = (first, stride[0], *by.pair(pitches), *by.strides(src), *by.strides(also), *by.strides(dst))
    device.launch(
        kernels.convolve,
        (by.tiles(dst, step) * channel_blocks,),
        (*tensors, *sizes, *strides),
        T=group,
        REST=taps % group,
        **meta,
        **by.meta,
    )
    return dst


def _outputs(kh: int, kw: int) -> int:
    """Of a lane, at most. The addresses of several lines, and of weights that are no neighbours, take registers as well."""
    return OUTPUTS if min(kh, kw) == 1 else OUTPUTS // 2


def _gradients(x: Tensor, g: Tensor, step: Step, dw: Tensor | None, db: Tensor | None, *, planar: bool) -> None:
    """Those of a step's weight and bias, where asked for, from its input and its output's gradient."""
    kh, kw = (int(k) for k in step.weight.shape[2:])
    channels = x.shape[1]
    along = 2 if kh >= kw else 3
    # In a row of pixels, windows of several outputs would be loaded from places that lie apart.
    by = axes(x, along, planar, 1 if planar and along == 3 else _outputs(kh, kw))
    taps, lines = by.pair((1, 1, kh, kw))
    group = min(taps, TAPS)
    channel_blocks, jobs = cdiv(channels, by.channels), cdiv(taps, group) * lines
    programs = GRADIENT_PROGRAMS * device.multiprocessors(x.device)
    splits = smaller(larger(1, programs // (jobs * channel_blocks)), by.tiles(x, step))
    if dw is None:
        jobs = 1
    partial = x.new_empty((splits, kh * kw + 1, channels), dtype=torch.float32)
    sizes = (splits, x.shape[0], *by.pair(x.shape), channels, channel_blocks, jobs, taps, lines, *by.reach(x, step))
    strides = (*by.pair((1, 1, kw, 1)), *by.strides(x), *by.strides(g))
    device.launch(
        kernels.weight_gradient,
        (jobs * channel_blocks * splits,),
        (x, g, partial, *sizes, *strides),
        T=group,
        ONE_LINE=lines == 1,
        BIASED=db is not None,
        **by.meta,
    )
    out = (0, 0, 0) if dw is None else (dw.stride(0), dw.stride(2), dw.stride(3))
    device.launch(
        kernels.finish,
        (cdiv((kh * kw + 1) * channels, SUMS),),
        (partial, partial if dw is None else dw, partial if db is None else db, splits, kh * kw, channels, kw, *out),
        S=SUMMED_SPLITS,
        N=SUMS,
        WEIGHT=dw is not None,
        BIASED=db is not None,
        num_warps=4,
    )


def _read(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    lengths: Sequence[int],
    dilations: Sequence[int],
    biased: Sequence[int],
    stem: bool,
    skip: bool,
) -> Form:
    """Keep a direct call of the operators within bounds; users meet gcn_kernels/strips/problem.py first."""
    if x.dim() != 4 or x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise RuntimeError(f"x: expected [N, C, H, W] of float32, bfloat16 or float16, got {list(x.shape)} of {x.dtype}")
    n, c, h, w = x.shape
    count = len(weights)
    if not lengths or min(lengths) < 1 or sum(lengths) + stem != count or len(dilations) != 2 * count or len(biased) != count:
        raise RuntimeError(f"expected lengths, dilations and biased for {count} weights")
    if len(biases) != sum(map(bool, biased)):
        raise RuntimeError(f"biases: expected {sum(map(bool, biased))}, got {len(biases)}")
    of_biases = iter(biases)
    steps = []
    for i, weight in enumerate(weights):
        bias = next(of_biases) if biased[i] else None
        dilation = (dilations[2 * i], dilations[2 * i + 1])
        if weight.dim() != 4 or weight.shape[:2] != (c, 1) or not (weight.shape[2] % 2 and weight.shape[3] % 2):
            raise RuntimeError(f"weights: expected [{c}, 1, odd kh, odd kw], got {list(weight.shape)}")
        if bias is not None and bias.shape != (c,):
            raise RuntimeError(f"biases: expected [{c}], got {list(bias.shape)}")
        if min(dilation) < 1:
            raise RuntimeError(f"dilations: expected at least 1, got {dilation}")
        for name, t in (("weights", weight), ("biases", bias)):
            if t is not None and (t.dtype != x.dtype or t.device != x.device):
                raise RuntimeError(f"{name}: expected {x.dtype} on {x.device}, got {t.dtype} on {t.device}")
        steps.append(Step(weight, bias, dilation))
    # Lanes and places that a kernel may reach beyond the map, as numbers of 32 bits.
    taps = max(max(int(k) for k in weight.shape[2:]) for weight in weights)
    positions = 2 * n * (h + OUTPUTS) * (w + OUTPUTS) + taps * (h + w)
    if isinstance(positions, int) and positions >= MOST_POSITIONS:
        raise RuntimeError("x: expected fewer than 2^30 pixels, with their border and the reach of the kernels; split the batch")
    remaining = iter(steps)
    first = next(remaining) if stem else None
    return Form(first, [[next(remaining) for _ in range(length)] for length in lengths], skip)


def _backward_fake(
    dy: Tensor, x: Tensor, weights: list[Tensor], biases: list[Tensor], wanted: int, *form: Any
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    tensors = (x, *weights, *biases)
    dx, *rest = (torch.empty_like(t) if wanted >> i & 1 else t.new_empty(0) for i, t in enumerate(tensors))
    return dx, rest[: len(weights)], rest[len(weights) :]


triton_strips: Any = triton_op("gcn_kernels::triton_strips", forward, mutates_args=())
triton_strips_backward: Any = triton_op("gcn_kernels::triton_strips_backward", backward, mutates_args=())
# Shapes alone: without these, every question about them would launch.
triton_strips.register_fake(fake)
triton_strips_backward.register_fake(_backward_fake)
