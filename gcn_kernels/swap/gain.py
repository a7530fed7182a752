"""What a swap is expected to gain on a small map: as the plan predicts, or else forward timed within a budget."""

import copy
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gcn_kernels import reference
from gcn_kernels.core import backends
from gcn_kernels.gcn.functional import fused_gcn
from gcn_kernels.refine.functional import fused_refine
from gcn_kernels.swap.direct import Smallest
from gcn_kernels.swap.fused_class import Watched, fused_class
from gcn_kernels.swap.report import Gain, RefineForm, Sizes, StripsForm, UpsampleForm
from gcn_kernels.swap.scope import Scope
from gcn_kernels.upsample.functional import fused_upsample

#: Height and width of the map, batch 1: res-4 of a 512 x 512 image.
MAP = 32
#: Of a boundary refinement, which runs on larger maps; and the smallest that an operator which takes long is timed on.
REFINE_MAP, SMALLEST = 64, 8
#: Blocks with more multiply-adds than this are not timed, and timing one ends after SECONDS.
LARGEST = 500_000_000
SECONDS = 0.1
REPEATS = 50
#: Heights and widths of the maps that strips are timed on, those with up to so many elements.
STRIPS_MAPS, STRIPS_LARGEST = (16, 32, 64, 128), 2**19
#: On each as long as this, and so many times at least.
STRIPS_SECONDS, STRIPS_TURNS = 0.015, 7
#: The ways in which convolutions that stand alone are timed (:class:`gcn_kernels.swap.direct.Smallest`): layout, whether in
#: training, heights and widths of the maps, and where the operator is faster in a model, too: where PyTorch takes here so many
#: times as long and so many seconds more. In a model a call reads what other cores have in their caches, and other layers push
#: Python and the kernels out of all caches, PyTorch's less, which they call too. Between layers of 10 ms convolutions of
#: 7 x 7 to 28 x 28 maps took 0.15 ms longer than here (0.35 in a training step), the operator 0.25 (0.45).
ALONE_WAYS = (
    (torch.contiguous_format, False, (7, 14, 28, 56, 112), 1.5, 1e-4),
    (torch.contiguous_format, True, (7, 14, 28, 56), 1.2, 2e-4),
    (torch.channels_last, True, (7, 14, 28, 56), 1.2, 2e-4),
)
#: What was timed and takes more than this many times PyTorch's time is left as it is.
TIMED_SLOWER = 1.05


@cache
def expected_gain(sizes: Sizes, dtype: torch.dtype, device: torch.device, backend: str) -> Gain | None:
    """Time of four convolutions over the time fused; None where nothing can run or timing would take long.

    PyTorch's backward pass is never run: on a map smaller than the kernel some versions of it write out of bounds.
    """
    if device.type == "meta":
        return None
    k1, k2, k3, k4 = sizes.kernels
    (m_l, m_r), c, o = sizes.middle, sizes.channels, sizes.out
    shapes = ((m_l, c, k1, 1), (o, m_l, 1, k2), (m_r, c, 1, k3), (o, m_r, k4, 1))
    if device.type == "cpu" and backend in ("auto", "cpu") and (predicted := _predicted(shapes, dtype)) is not None:
        return predicted
    if MAP * MAP * sum(torch.Size(s).numel() for s in shapes) > LARGEST:
        return None
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        x, *weights = (torch.ones(s, dtype=dtype, device=device) for s in ((1, c, MAP, MAP), *shapes))
        try:
            turns = _turns(lambda name: fused_gcn(x, *weights, backend=name), device, ("torch", backend))
        except RuntimeError:
            return None
    return _measured(turns)


def _predicted(shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype) -> Gain | None:
    """From the plan's own times, where it knows PyTorch's."""
    weights = [torch.empty(s, dtype=dtype, device="meta") for s in shapes]
    try:
        plan = backends.cpu_plan(weights, (MAP, MAP), 1)
    except RuntimeError:
        return None
    gains = []
    for direction in ("forward", "backward"):
        times = plan[direction]
        chosen, plain = times.get(f"{times['algo']}_ms"), times.get("torch_ms")
        if not chosen or not plain:
            return None
        gains.append(plain / chosen)
    return Gain(*gains)


#: The work of a fused call on a small map, by the name of a backend.
Run = Callable[[str], object]
Form = TypeVar("Form", bound=Hashable)


@cache
def strips_gain(forms: tuple[StripsForm, ...], dtype: torch.dtype, device: torch.device, backend: str) -> Gain | None:
    """Time of the depthwise convolutions of these calls over the time converted, where that is least; None where nothing can run.

    Which is faster depends on the map and its layout, which only a run of the model would tell. So they are timed on several, as
    they run in a converted module, with all that is done there beside the operator.
    """
    if _is_not_timed(dtype, device, backend):
        return None
    gains = []
    for layout in (torch.contiguous_format, torch.channels_last):
        for side in _sides(max(form.channels for form in forms), STRIPS_MAPS):
            total: list[tuple[float, float]] = []
            for form in dict.fromkeys(forms):
                turns = _strips_turns(form, side, layout, dtype, device, backend)
                if turns is None:
                    return None
                total = _added(total, turns, forms.count(form))
            gains.append(_measured(total).forward)
    return Gain(min(gains), spread=(min(gains), max(gains)))


def _sides(channels: int, sides: Sequence[int]) -> list[int]:
    """Those of these heights and widths for which a map of so many channels is no larger than what is timed."""
    return [side for side in sides if channels * side * side <= STRIPS_LARGEST] or [sides[0]]


@cache
def _strips_turns(
    form: StripsForm, side: int, layout: torch.memory_format, dtype: torch.dtype, device: torch.device, backend: str
) -> list[tuple[float, float]] | None:
    """Seconds of the convolutions and of the same converted, in turns; None where it cannot run."""
    options: dict[str, Any] = {"dtype": dtype, "device": device}
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        whole = torch.ones((1, form.whole, side, side), **options).contiguous(memory_format=layout)
        x = whole[:, : form.channels]
        weights = [torch.ones((form.channels, 1, *k), **options).contiguous(memory_format=layout) for k in form.kernels]
        biases = [weights[0].new_ones(form.channels) if biased else None for biased in form.biased]
        steps = iter(zip(weights, biases, form.dilations, strict=True))
        stem = next(steps) if form.stem else None
        branches = [[next(steps) for _ in range(length)] for length in form.lengths]

        def plain() -> Tensor:
            return reference.strips(x, branches, stem=stem, skip=form.skip)

        def run(name: str) -> object:
            if name == "torch":
                return plain()
            with Scope(backend, ("strips",)) as scope:
                y = plain()
            return scope.release(y)

        return _turns_in_a_model(run, whole, backend)


@cache
def alone_gain(form: StripsForm, dtype: torch.dtype, device: torch.device, backend: str) -> tuple[Gain | None, Smallest] | None:
    """What to swap a depthwise convolution by itself gains where it runs, and from which maps on it is to run.

    The gain is None where it gains on no map; all of it is where nothing can run. Maps smaller than any that was timed are
    PyTorch's: the smaller a map, the more of both times is what every call takes.
    """
    if _is_not_timed(dtype, device, backend):
        return None
    gains: list[float] = []
    smallest: list[int | None] = []
    for layout, training, sides, times, more in ALONE_WAYS:
        least = None
        for side in _sides(form.channels, sides)[::-1]:
            turns = _alone_turns(form, side, layout, training, dtype, device, backend)
            if turns is None:
                return None
            if statistics.median(plain - times * fused for plain, fused in turns) < more:
                break
            gains.append(_measured(turns).forward)
            least = side**2
        smallest.append(least)
    return Gain(min(gains), spread=(min(gains), max(gains))) if gains else None, Smallest(*smallest)


def _alone_turns(
    form: StripsForm,
    side: int,
    layout: torch.memory_format,
    training: bool,
    dtype: torch.dtype,
    device: torch.device,
    backend: str,
) -> list[tuple[float, float]] | None:
    """Seconds of the convolution and of the same swapped, in turns; None where it cannot run."""
    (kernel,), (dilation,), (biased,) = form.kernels, form.dilations, form.biased
    padding = dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2)
    c = form.channels
    options: dict[str, Any] = {"dtype": dtype, "device": device}
    with torch.inference_mode(False), torch.set_grad_enabled(training), torch.autocast(device.type, enabled=False):
        conv = nn.Conv2d(c, c, kernel, 1, padding, dilation, c, biased, device="meta").to_empty(device=device).to(dtype)
        conv.to(memory_format=layout)  # type: ignore[call-overload]
        whole = torch.ones((1, form.whole, side, side), **options).contiguous(memory_format=layout)
        dy = torch.ones((1, c, side, side), **options).contiguous(memory_format=layout)
        swapped: Any = copy.copy(conv)
        swapped.__class__ = fused_class(nn.Conv2d, Watched((), backend, ("strips",), alone=True))
        convs: dict[str, nn.Module] = {"torch": conv, backend: swapped}
        for p in conv.parameters():
            p.data.fill_(1)

        def run(name: str) -> object:
            x = whole[:, :c].requires_grad_(training)
            y = convs[name](x)
            return torch.autograd.grad(y, (x, *conv.parameters()), dy) if training else y

        return _turns_in_a_model(run, whole, backend)


def _turns_in_a_model(run: Run, whole: Tensor, backend: str) -> list[tuple[float, float]] | None:
    """:func:`_turns` as calls come in a model, or None where it cannot run.

    There other maps are read and written in between, after which Python's data are not in the nearest cache; the map that is
    read was written just before, each thread's part in the cache of its core; and large maps were freed before, so that the
    allocator keeps what is freed.
    """
    other = torch.empty(2**22, device=whole.device)
    del other
    other = torch.empty(2**20, device=whole.device)
    try:
        return _turns(
            run,
            whole.device,
            ("torch", backend),
            STRIPS_SECONDS,
            STRIPS_TURNS,
            between=lambda: (other.fill_(1), whole.fill_(1)),
        )
    except RuntimeError:
        return None


@cache
def refine_gain(forms: tuple[RefineForm, ...], dtype: torch.dtype, device: torch.device, backend: str) -> Gain | None:
    """Time of two convolutions, a ReLU and a sum over the time fused, of all these refinements; None where nothing can run."""

    def prepare(form: RefineForm) -> Run:
        c, m = form.channels, form.middle
        side = _side(18 * c * m, REFINE_MAP, 4 * LARGEST)
        x, w1, w2 = (torch.ones(s, dtype=dtype, device=device) for s in ((1, c, side, side), (m, c, 3, 3), (c, m, 3, 3)))
        b1, b2 = (w.new_ones(w.shape[0]) if biased else None for w, biased in zip((w1, w2), form.biased, strict=True))
        return lambda name: fused_refine(x, w1, w2, b1, b2, backend=name)

    return _timed(forms, prepare, dtype, device, backend)


@cache
def upsample_gain(form: UpsampleForm, dtype: torch.dtype, device: torch.device, backend: str) -> Gain | None:
    """Time of PyTorch's transposed convolution over the time fused; None where nothing can run."""

    def prepare(form: UpsampleForm) -> Run:
        c, o, k = form.channels, form.out, form.kernel
        shape = (c, o // form.groups, k, k)
        side = _side(torch.Size(shape).numel(), MAP, LARGEST)
        x, weight = (torch.ones(s, dtype=dtype, device=device) for s in ((1, c, side, side), shape))
        bias = weight.new_ones(o) if form.biased else None
        return lambda name: fused_upsample(x, weight, bias, groups=form.groups, backend=name)

    return _timed((form,), prepare, dtype, device, backend)


def _timed(
    forms: Sequence[Form], prepare: Callable[[Form], Run], dtype: torch.dtype, device: torch.device, backend: str
) -> Gain | None:
    """The gain of all these calls together, each form timed once."""
    if _is_not_timed(dtype, device, backend):
        return None
    total: list[tuple[float, float]] = []
    for form in dict.fromkeys(forms):
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            run = prepare(form)
            try:
                turns = _turns(run, device, ("torch", backend))
            except RuntimeError:
                return None
        total = _added(total, turns, forms.count(form))
    return _measured(total)


def _is_not_timed(dtype: torch.dtype, device: torch.device, backend: str) -> bool:
    """Nothing is timed in 16 bits, where PyTorch's convolutions can take seconds."""
    return device.type == "meta" or dtype.itemsize < 4 or backend == "torch"


def _side(multiplications: int, side: int, most: int) -> int:
    """Height and width, ``side`` or less, of a map for which so many multiply-adds for a pixel are no more than ``most``."""
    while side > SMALLEST and side * side * multiplications > most:
        side //= 2
    return side


def _added(total: list[tuple[float, float]], turns: list[tuple[float, float]], weight: int) -> list[tuple[float, float]]:
    """The turns of several calls together: as many as every call had time for."""
    sums = zip(total or [(0.0, 0.0)] * len(turns), turns, strict=False)
    return [(plain + weight * p, fused + weight * f) for (plain, fused), (p, f) in sums]


def _measured(turns: list[tuple[float, float]]) -> Gain:
    """Median of the ratios of plain to fused over the turns, and their spread."""
    ratios = [plain / fused for plain, fused in turns]
    if len(ratios) < 2:
        return Gain(ratios[0])
    fifths = statistics.quantiles(ratios, n=5, method="inclusive")
    return Gain(statistics.median(ratios), spread=(fifths[0], fifths[3]))


def _turns(
    run: Run,
    device: torch.device,
    names: tuple[str, str],
    most: float = SECONDS,
    least: int = 0,
    between: Callable[[], object] | None = None,
) -> list[tuple[float, float]]:
    """Forward seconds of both backends, in turns, so that load on the machine meets both alike.

    Args:
        run: what is timed, by the name of a backend.
        device: where it runs.
        names: of both backends.
        most: seconds after which there is no other turn,
        least: if there were this many, beside one that prepares.
        between: what is done before each run.
    """
    turns = []
    started = time.perf_counter()
    for _ in range(REPEATS + 1):
        seconds = []
        for name in names:
            if between is not None:
                between()
            start = time.perf_counter()
            run(name)
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            seconds.append(time.perf_counter() - start)
        turns.append((seconds[0], seconds[1]))
        if len(turns) > least and time.perf_counter() - started > most:
            break
    # The first turn prepares; it counts only where there is no time for another.
    return turns[1:] or turns
