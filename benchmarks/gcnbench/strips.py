"""Depthwise strips under the clock: forms and presets, their inputs, work, definition and graph; the operator as variants.

Counts are those of the direct algorithm: two operations per multiply-add of every convolution, zero padding included, twice
that again for a backward pass (gradient of the input, gradient of the weight). Bytes are the compulsory ones: every argument
read once and every result written once, nothing for the maps between the steps. In 16 bits the arithmetic on a CPU is that of
float32, and so is its rate.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import gcn_kernels
from gcn_kernels import backends, reference
from gcn_kernels.reference import Step
from gcn_kernels.strips.functional import KERNELS, UNASKED
from gcnbench import baselines, runtimes
from gcnbench.problems import AnyProblem, Inputs, Map
from gcnbench.subject import Subject
from gcnbench.variants import Operator, Variant, result_names, torch_call

#: kh, kw and the dilation of both axes.
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Form:
    """Strips without their number of channels.

    Attributes:
        branches: the kernel sizes of each branch's steps.
        stem: of the step before all branches.
        skip: whether the branches' input is added to their sum.
        bias: whether the steps have a bias.
        slices: each branch has an eighth of the channels of its own, read in place; what is left passes as it is (InceptionNeXt).
    """

    name: str
    branches: tuple[tuple[Size, ...], ...]
    stem: Size | None = None
    skip: bool = False
    bias: bool = True
    slices: bool = False

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Of all steps, the stem's first."""
        return (*([] if self.stem is None else [self.stem]), *(size for branch in self.branches for size in branch))

    def width(self, channels: int) -> int:
        """Channels of every step on a map of ``channels``."""
        return channels // 8 if self.slices else channels

    def apply(self, strips: Callable[..., Tensor], x: Tensor, *parameters: Tensor) -> Tensor:
        """The block, by a function with the arguments of ``fused_strips``: weights, then biases, in the order of ``sizes``."""
        steps = self._steps(*parameters)
        stem = None if self.stem is None else next(steps)
        branches = [[next(steps) for _ in branch] for branch in self.branches]
        if not self.slices:
            return strips(x, branches, stem=stem, skip=self.skip)
        part = self.width(x.shape[1])
        rest, *parts = torch.split(x, [x.shape[1] - part * len(branches), *(part for _ in branches)], 1)
        return torch.cat([rest, *(strips(t, [branch]) for t, branch in zip(parts, branches, strict=True))], 1)

    def _steps(self, *parameters: Tensor) -> Iterator[Step]:
        n = len(self.sizes)
        biases = parameters[n:] if self.bias else (None,) * n
        for weight, bias, (_, _, dilation) in zip(parameters[:n], biases, self.sizes, strict=True):
            yield weight, bias, dilation


def _pair(k: int) -> tuple[Size, Size]:
    return (1, k, 1), (k, 1, 1)


def _lska(name: str, inner: int, outer: int, dilation: int) -> Form:
    """Four steps without biases, the last two dilated."""
    dilated = tuple((kh, kw, dilation) for kh, kw, _ in _pair(outer))
    return Form(name, ((*_pair(inner), *dilated),), bias=False)


def _slak(k: int) -> Form:
    """The three kernels that are one in the end: k x 5, 5 x k, 5 x 5, the normalisations folded in."""
    return Form(f"slak{k}", (((k, 5, 1),), ((5, k, 1),), ((5, 5, 1),)))


MSCA = Form("msca", (_pair(7), _pair(11), _pair(21)), (5, 5, 1), skip=True)
STRIP_BLOCK = Form("stripblock", (((5, 5, 1), *_pair(19)),))
INCEPTION = Form("inception", (((3, 3, 1),), ((1, 11, 1),), ((11, 1, 1),)), slices=True)
#: Every form of one size; ``pairK``, ``rowK``, ``columnK``, ``squareK`` and ``slakK`` take any odd k beside.
FORMS = {form.name: form for form in (MSCA, STRIP_BLOCK, _lska("lska23", 5, 7, 3), _lska("lska53", 5, 17, 3), INCEPTION)}
_OF_ANY_K: dict[str, Callable[[int], Form]] = {
    "pair": lambda k: Form(f"pair{k}", (_pair(k),)),
    "row": lambda k: Form(f"row{k}", (((1, k, 1),),)),
    "column": lambda k: Form(f"column{k}", (((k, 1, 1),),)),
    "square": lambda k: Form(f"square{k}", (((k, k, 1),),)),
    "slak": _slak,
}


def parse_form(text: str) -> Form:
    """The form of a name.

    Raises:
        ValueError: there is none.

    Example:
        >>> parse_form("pair11").sizes
        ((1, 11, 1), (11, 1, 1))
    """
    if text in FORMS:
        return FORMS[text]
    match = re.fullmatch(r"([a-z]+)(\d+)", text)
    if match is None or match[1] not in _OF_ANY_K or int(match[2]) % 2 == 0:
        known = ", ".join([*FORMS, *(f"{name}K" for name in _OF_ANY_K)])
        raise ValueError(f"expected one of {known} with an odd K, got {text!r}")
    return _OF_ANY_K[match[1]](int(match[2]))


#: A form, and C, H and W of its map.
Place = tuple[Form, int, int, int]


def _stages(form: Form | Callable[[int], Form], channels: tuple[int, ...], side: int) -> tuple[Place, ...]:
    """A form on the stages of a network, whose maps halve; ``side`` is that of the first."""
    return tuple((form(i) if callable(form) else form, c, side >> i, side >> i) for i, c in enumerate(channels))


_MLP = _OF_ANY_K["square"](3)
PRESETS: dict[str, tuple[Place, ...]] = {
    # SegNeXt at 512 x 512: the attention, and the 3 x 3 of the MLP, which is eight or four times as wide.
    "mscan-t": (*_stages(MSCA, (32, 64, 160, 256), 128), *_stages(_MLP, (256, 512, 640, 1024), 128)),
    "mscan-b": (*_stages(MSCA, (64, 128, 320, 512), 128), *_stages(_MLP, (512, 1024, 1280, 2048), 128)),
    # Strip R-CNN at 1024 x 1024, and a map of its head.
    "stripnet-s": (*_stages(STRIP_BLOCK, (64, 128, 320, 512), 256), (STRIP_BLOCK, 256, 7, 7)),
    "lska": tuple(p for name in ("lska23", "lska53") for p in _stages(FORMS[name], (64, 128, 320, 512), 128)),
    # InceptionNeXt-T at 512 x 512.
    "inceptionnext": _stages(INCEPTION, (96, 192, 384, 768), 128),
    # SLaK-T at 224 x 224.
    "slak": _stages(lambda i: _slak((51, 49, 47, 13)[i]), (96, 192, 384, 768), 56),
}


@dataclass(frozen=True)
class StripsProblem(AnyProblem):
    """Strips on one map.

    Attributes:
        on_gpu: where it is computed.
    """

    form: Form
    on_gpu: bool = False

    @classmethod
    def of(cls, place: Place, batch: int, dtype: torch.dtype, device: torch.device) -> "StripsProblem":
        """The problem of a preset's place."""
        form, channels, height, width = place
        longest = max(max(kh, kw) for kh, kw, _ in form.sizes)
        return cls(Map(form.name, channels, height, width, channels, channels), batch, longest, dtype, form, device.type != "cpu")

    @property
    def arithmetic(self) -> torch.dtype:
        return torch.float32 if self.dtype.itemsize == 2 and not self.on_gpu else self.dtype

    def heading(self) -> str:
        steps = " ".join(f"{kh}x{kw}" + (f"/{d}" if d > 1 else "") for kh, kw, d in self.form.sizes)
        work = f"{self.flops('fwd') / 1e9:.3g} GFLOP and {self.bytes('fwd') / 1e6:.3g} MB forward"
        return f"# {self.map.label}, batch {self.batch}, {self.dtype_name}\n# {steps}; {work}"

    def flops(self, mode: str) -> int:
        m = self.map
        taps = sum(kh * kw for kh, kw, _ in self.form.sizes)
        forward = 2 * self.batch * m.height * m.width * self.form.width(m.channels) * taps
        return {"fwd": 1, "bwd": 2, "fwdbwd": 3}[mode] * forward

    def bytes(self, mode: str) -> int:
        m = self.map
        x = self.batch * m.channels * m.height * m.width
        parameters = self.form.width(m.channels) * sum(kh * kw + self.form.bias for kh, kw, _ in self.form.sizes)
        forward, backward = 2 * x + parameters, 3 * x + 2 * parameters
        elements = {"fwd": forward, "bwd": backward, "fwdbwd": forward + backward}[mode]
        return elements * self.dtype.itemsize


@dataclass(frozen=True)
class StripsInputs(Inputs):
    """x, the weights, the biases."""

    form: Form

    def definition(self) -> Operator:
        """The block as plain convolutions, a function of ``tensors``."""
        return partial(self.form.apply, reference.strips)


def make_inputs(problem: StripsProblem, device: torch.device, seed: int) -> StripsInputs:
    """Random NCHW inputs, the same on every machine: values of order one, weights that keep them so, non-zero biases."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(device, problem.dtype)

    m, form = problem.map, problem.form
    width, steps = form.width(m.channels), range(len(form.sizes))
    x, dy = (normal(problem.batch, m.channels, m.height, m.width) for _ in range(2))
    weights = [normal(width, 1, kh, kw, scale=1 / math.sqrt(kh * kw)) for kh, kw, _ in form.sizes]
    biases = [normal(width) for _ in steps] if form.bias else []
    names = ("x", *(f"w_{i}" for i in steps), *(f"b_{i}" for i in steps if form.bias))
    return StripsInputs((x, *weights, *biases), dy, form, arguments=names)


def float64_results(inputs: StripsInputs, needs_gradients: bool) -> dict[str, Tensor]:
    """Results of the definition in float64, by name."""
    mode = "fwdbwd" if needs_gradients else "fwd"
    exact = StripsInputs(tuple(t.double() for t in inputs.tensors), inputs.dy.double(), inputs.form, arguments=inputs.arguments)
    results = torch_call(inputs.definition(), exact, mode)()
    return {name: t.detach() for name, t in zip(result_names(mode, inputs.arguments), results, strict=True)}


def unsafe(inputs: StripsInputs, needs_gradients: bool) -> bool:
    """Whether PyTorch's convolutions might corrupt the heap (see :mod:`gcnbench.onednn`): kernels twice as tall as the map.

    On maps of half a kernel and more, where a dense convolution is not trusted either, depthwise ones have been right.
    """
    x = inputs.tensors[0]
    tallest = max(kh for kh, _, _ in inputs.form.sizes)
    return needs_gradients and x.device.type == "cpu" and x.dtype == torch.float32 and tallest + 1 >= 2 * x.shape[2]


def nodes(inputs: StripsInputs) -> list[runtimes.Node]:
    """The graph of the block for an inference runtime."""
    form, channels = inputs.form, inputs.tensors[0].shape[1]
    width = form.width(channels)
    found: list[runtimes.Node] = []
    numbers = iter(range(len(form.sizes)))

    def chain(source: str, sizes: tuple[Size, ...]) -> str:
        for (kh, kw, d), i in zip(sizes, numbers, strict=False):
            bias = f"b_{i}" if form.bias else None
            found.append(runtimes.conv_node(source, f"w_{i}", bias, f"t_{i}", (width, 1, kh, kw), (d, d), width))
            source = f"t_{i}"
        return source

    if form.slices:
        sizes = [channels - width * len(form.branches), *(width for _ in form.branches)]
        parts = [f"x_{i}" for i in range(len(sizes))]
        found += [("Constant", [], ["sizes"], {"value_ints": sizes}), ("Split", ["x", "sizes"], parts, {"axis": 1})]
        ends = [chain(part, branch) for part, branch in zip(parts[1:], form.branches, strict=True)]
        return [*found, ("Concat", [parts[0], *ends], ["y"], {"axis": 1})]
    a = "x" if form.stem is None else chain("x", (form.stem,))
    ends = [chain(a, branch) for branch in form.branches]
    return [*found, ("Sum", [*([a] if form.skip else []), *ends], ["y"], {})]


def fused(backend: str, layout: str, device: torch.device) -> Variant:
    """The fused operator.

    Raises:
        RuntimeError: a backend that cannot run on ``device``, with the reason.
    """
    chosen = backends.choose(backend, "auto", torch.empty(0, device=device), KERNELS, UNASKED)

    def prepare(inputs: Any, mode: str) -> Callable[[], tuple[Tensor, ...]]:
        return torch_call(partial(inputs.form.apply, partial(gcn_kernels.fused_strips, backend=backend)), inputs, mode)

    return Variant(f"fused {chosen} {layout}", True, layout, prepare)


#: Every baseline by the name that ``--baselines`` knows.
BASELINES = {
    **baselines.plain(StripsInputs.definition),
    "onnxruntime": baselines.runtime("onnxruntime", partial(runtimes.onnxruntime_call, nodes=nodes)),
    "openvino": baselines.runtime("openvino", partial(runtimes.openvino_call, nodes=nodes)),
}
SUBJECT = Subject(
    inputs=make_inputs,
    plain=lambda inputs, mode: torch_call(inputs.definition(), inputs, mode),
    expected=float64_results,
    unsafe=unsafe,
    memory=True,
    by_k=False,
)
