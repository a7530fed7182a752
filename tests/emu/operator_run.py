"""Runs the whole operator in an emulator module. Needs numpy only, so that a process of its own starts quickly."""

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import wild_layouts
from emulator import load
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Array = NDArray[np.generic]
GUARD_BYTES = 1 << 12
MAP_NORESERVE = 0x4000  # mmap has it from Python 3.11 on

WEIGHTS = ("w_l1", "w_l2", "w_r1", "w_r2")
BIASES = ("b_l1", "b_l2", "b_r1", "b_r2")
INPUTS = ("x", *WEIGHTS, *BIASES)

#: How the arithmetic's elements are held; 16-bit ones by their bits.
STORED = {"half": np.uint16, "bfloat16": np.uint16, "tf32": np.float32, "float": np.float32, "double": np.float64}


@dataclass(frozen=True)
class Problem:
    """The operator's arguments by name, and ``dy``; dense arrays of the arithmetic's elements, x and dy as [N, C, H, W]."""

    math: str
    arrays: Mapping[str, Array]
    layout: str = "nchw"
    gpu: Mapping[str, int] = field(default_factory=dict)
    wanted: tuple[str, ...] | None = None  # gradients; all unless given

    @property
    def sizes(self) -> list[int]:
        a = self.arrays
        outputs, mid_l, mid_r = (a[name].shape[0] for name in ("w_l2", "w_l1", "w_r1"))
        kernels = (a["w_l1"].shape[2], a["w_l2"].shape[3], a["w_r1"].shape[3], a["w_r2"].shape[2])
        return [*a["x"].shape, mid_l, mid_r, outputs, *kernels]

    @property
    def weights_layout(self) -> str:
        """Of the weights and their gradients: as in a module that was converted to channels_last, or was not."""
        return "channels_last" if self.layout == "channels_last" else "nchw"

    def present(self) -> tuple[str, ...]:
        return tuple(name for name in INPUTS if name in self.arrays)


def filled(shape: tuple[int, ...], math: str, layout: str = "nchw") -> Array:
    """A result before anything is written: nan in every type."""
    dtype = np.dtype(STORED[math])
    return place(np.frombuffer(b"\xff" * (int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape), layout)


def place(a: Array, layout: str) -> Array:
    """The same [N, C, H, W] array in another layout of memory."""
    if layout == "nchw":
        return a.copy()
    if layout == "channels_last":
        return a.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    if layout == "far":  # the samples of a batch further apart than 32 bits can say; only what is touched takes memory
        n, size = a.shape[0], a[0].size
        apart = (1 << 31) + 64
        memory = mmap.mmap(-1, ((n - 1) * apart + size) * a.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
        strides = (apart * a.itemsize, *np.empty(a.shape[1:], a.dtype).strides)
        far = np.ndarray(a.shape, a.dtype, memory, strides=strides)
        far[...] = a
        return far
    if layout == "unaligned":  # as a slice of something larger is: every other row, from the second element on
        n, c, h, w = a.shape
        larger = np.zeros((n, c, 2 * h, w + 1), a.dtype)
        larger[:, :, ::2, 1:] = a
        return larger[:, :, ::2, 1:]
    if layout == "view":  # the same where kernels can read it as it is; what is between the elements is nan
        n, c, h, w = a.shape
        larger = np.frombuffer(b"\xff" * (n * (c + 1) * 2 * h * (w + 8) * a.itemsize), a.dtype).copy()
        view = larger.reshape(n, c + 1, 2 * h, w + 8)[:, :c, ::2, 8:]
        view[...] = a
        return view
    view = wild(a.shape, a.dtype, layout)
    view[...] = a
    return view


def wild(shape: tuple[int, ...], dtype: np.dtype[np.generic], layout: str) -> Array:
    """Memory behind a layout of wild_layouts.py, seen through it; all zero."""
    strides, size = wild_layouts.strides_of(layout, shape)
    memory = np.zeros(size + 7, dtype)
    start = -(memory.ctypes.data // memory.itemsize) % (16 // memory.itemsize)  # the first element is aligned
    return as_strided(memory[start:], shape, [step * memory.itemsize for step in strides])


def settled(a: Array, layout: str) -> Array:
    """A dense array of the values that are left of ``a`` where elements share memory."""
    return np.ascontiguousarray(place(a, layout)) if layout in wild_layouts.LAYOUTS else a


def guarded(a: Array, layout: str = "nchw") -> Array:
    """A copy with nan behind its last element: what is read past the end shows, even where it is multiplied by zero."""
    memory = np.frombuffer(b"\xff" * (a.nbytes + GUARD_BYTES), a.dtype).copy()
    if layout == "nchw":
        copy = memory[: a.size].reshape(a.shape)
    else:
        o, i, h, w = a.shape
        copy = memory[: a.size].reshape(o, h, w, i).transpose(0, 3, 1, 2)
    copy[...] = a
    return copy


def decoded(a: Array, math: str) -> Array:
    """The numbers that stored elements mean, in float64."""
    if math == "half":
        a = a.view(np.float16)
    elif math == "bfloat16":
        a = (a.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):
        return a.astype(np.float64)


@dataclass(frozen=True)
class Arguments:
    """What the module's functions take."""

    problem: Problem
    x: Array
    dy: Array
    y: Array
    u_l: Array
    u_r: Array
    gradients: dict[str, Array]

    @property
    def weights(self) -> list[Array]:
        return [guarded(self.problem.arrays[name], self.problem.weights_layout) for name in WEIGHTS]

    @property
    def forward(self) -> tuple[object, ...]:
        a, p = self.problem.arrays, self.problem
        weights, biases = self.weights, [guarded(a[name]) if name in a else None for name in BIASES]
        return p.sizes, p.math, self.x, weights, biases, self.y, self.u_l, self.u_r, dict(p.gpu)

    @property
    def backward(self) -> tuple[object, ...]:
        p = self.problem
        gradients = [self.gradients.get(name) for name in INPUTS]
        return p.sizes, p.math, self.dy, self.x, self.u_l, self.u_r, self.weights, gradients, dict(p.gpu)


def arguments(module: ModuleType, p: Problem) -> Arguments:
    n, _, h, w, mid_l, mid_r, outputs = p.sizes[:7]
    layout = "nchw" if p.layout in ("unaligned", "view") else p.layout  # results are dense wherever memory allows
    if p.layout in wild_layouts.LAYOUTS:
        layout = "lone" if p.layout == "lone" else "channels_last"
    wanted = p.present() if p.wanted is None else p.wanted
    layouts = {"x": layout, **dict.fromkeys(WEIGHTS, p.weights_layout)}
    return Arguments(
        problem=p,
        x=place(p.arrays["x"], p.layout),
        dy=place(p.arrays["dy"], p.layout),
        y=filled((n, outputs, h, w), p.math, layout),
        u_l=filled((n, h, w, module.padded(mid_l)), p.math),
        u_r=filled((n, h, w, module.padded(mid_r)), p.math),
        gradients={name: filled(p.arrays[name].shape, p.math, layouts.get(name, "nchw")) for name in INPUTS if name in wanted},
    )


def facts(module: ModuleType, p: Problem) -> set[str]:
    """What is special about the plans of a problem."""
    a = arguments(module, p)
    wanted = [name in a.gradients for name in INPUTS]
    forward = module.forward_facts(p.sizes, p.math, a.x, a.y, a.weights, dict(p.gpu))
    backward = module.backward_facts(p.sizes, p.math, a.dy, a.x, a.gradients.get("x"), wanted, dict(p.gpu))
    return {*forward, *backward}


def run(module: ModuleType, p: Problem) -> dict[str, Array]:
    """Forward and backward: y and the gradients, in float64."""
    a = arguments(module, p)
    module.forward(*a.forward)
    module.backward(*a.backward)
    for name, u, channels in (("u_l", a.u_l, p.sizes[4]), ("u_r", a.u_r, p.sizes[5])):
        if np.any(decoded(u[..., channels:], p.math)):
            raise AssertionError(f"{name}: the padding is not zero")
    return {name: decoded(t, p.math) for name, t in {"y": a.y, **a.gradients}.items()}


def launched(module: ModuleType) -> set[str]:
    """The kernels launched since the last call, without arguments."""
    return {name.split("<")[0].split("::")[-1] for name in module.take_launched()}


def forward_without_counters(library: str, p: Problem) -> tuple[set[str], Array, Array]:
    """What a forward pass launches, and y, where other calls have all counters of finished splits; and y with such counters."""
    module = load(library, "emu_operator")
    with_counters = arguments(module, p)
    module.forward(*with_counters.forward)
    module.take_launched()
    module.use_up_tickets()
    without = arguments(module, p)
    module.forward(*without.forward)
    return launched(module), without.y, with_counters.y


def failures(results: Mapping[str, Array], values: Mapping[str, Array], allowed: Mapping[str, float]) -> str:
    """Which results are further off than they may be; empty if none is."""
    wrong = []
    for name, found in results.items():
        # What is not finite has to be the same.
        with np.errstate(invalid="ignore"):
            off = np.where((found == values[name]) | (np.isnan(found) & np.isnan(values[name])), 0.0, abs(found - values[name]))
        error = off.max(initial=0.0)
        if not error <= allowed[name]:
            wrong.append(f"{name}: error {error:.3e}, allowed {allowed[name]:.3e}")
    return "; ".join(wrong)


def wrong_with(module: ModuleType, problem: Problem, values: Mapping[str, Array], allowed: Mapping[str, float]) -> str:
    """What is wrong with a problem's results, or what the emulator has caught its kernels at; empty if nothing."""
    try:
        return failures(run(module, problem), values, allowed)
    except (module.EmulatorBug, AssertionError, RuntimeError) as bug:
        return str(bug)


def check_all(library: str, problems: Sequence[tuple[Problem, Mapping[str, Array], Mapping[str, float]]]) -> str:
    """Run problems in a module's file; return what is wrong with the first that fails, or nothing."""
    module = load(library, "emu_operator")
    return next(filter(None, (wrong_with(module, *problem) for problem in problems)), "")
