"""The one tolerance of the project.

A result may be off by twice what PyTorch's own four convolutions are off at the same dtype on the same data, plus a few
units in the last place. Errors are largest absolute differences from the definition in float64.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from cases import LAYOUTS, Block, Case, make
from torch import Tensor

FACTOR = 2.0
#: Units in the last place granted on top: of the type that the arithmetic is done in, and of the type that is stored.
ULPS_ARITHMETIC = 4
ULPS_STORED = 1


@dataclass(frozen=True)
class Expected:
    """Per result (``y`` and each gradient): the value in float64 and the error allowed."""

    values: dict[str, Tensor]
    allowed: dict[str, float]


def evaluate(run: Callable[..., Tensor], block: Block) -> dict[str, Tensor]:
    """``y`` and the gradient of every argument that is there."""
    leaves = block.leaves()
    with _without_onednn_bug(run, block):
        y = run(*leaves.arguments)
        gradients = torch.autograd.grad(y, tuple(leaves.named.values()), leaves.dy)
    return {"y": y.detach(), **dict(zip(leaves.named, gradients, strict=True))}


@contextmanager
def _without_onednn_bug(run: Callable[..., Tensor], block: Block) -> Iterator[None]:
    """Keep PyTorch's convolutions from writing past their memory.

    In torch 2.13.0 the float32 weight gradient of a k x 1 convolution crashes on CPUs with AVX-512 where 10 <= H <= k / 2:
    oneDNN corrupts the heap. Its depthwise convolutions in 16 bits do not always come back (1 x 51 over 40 columns). In both
    cases PyTorch's own convolutions without oneDNN take its place.
    """
    calls_conv2d = run == block.definition or getattr(run, "backend", None) == "torch"
    crashes = block.x.dtype == torch.float32 and max(w.shape[2] for w in block.weights) > block.x.shape[2]
    depthwise = all(w.shape[1] == 1 for w in block.weights)
    hangs = depthwise and block.x.dtype in (torch.bfloat16, torch.float16)
    if not (calls_conv2d and (crashes or hangs)):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about switches of another device
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def expect(block: Block, device: str = "cpu", own: Callable[..., Tensor] | None = None) -> Expected:
    """Measure the rule for ``block`` on ``device``, in float64 and with PyTorch's convolutions at the block's own dtype.

    ``own`` stands for PyTorch's convolutions where they cannot run here as they would on the device under test.
    """
    dtype = block.x.dtype
    plain = block.map(lambda t: t.detach().to(device).contiguous())
    values = evaluate(block.definition, plain.to(torch.float64))
    torchs_own = _torchs_own_errors(plain, values, own)
    largest = _magnitudes(plain, values)
    return Expected(values, {name: FACTOR * torchs_own[name] + _ulp(dtype) * largest[name] for name in values})


@cache
def expect_case(case: Case, dtype: torch.dtype) -> Expected:
    """The rule for a named case, measured once for all implementations and layouts."""
    return expect(make(case, dtype))


def check(actual: dict[str, Tensor], expected: Expected) -> None:
    """Assert that every result in ``actual`` is within the rule."""
    failures = []
    for name, t in actual.items():
        value = expected.values[name]
        assert t.shape == value.shape, f"{name}: expected shape {tuple(value.shape)}, got {tuple(t.shape)}"
        found = error(t, value)
        if not found <= expected.allowed[name]:
            failures.append(f"{name}: error {found:.3e}, allowed {expected.allowed[name]:.3e}")
    assert not failures, "; ".join(failures)


def error(actual: Tensor, exact: Tensor) -> float:
    """Largest absolute difference; nan if there is one."""
    difference = (actual.to("cpu", torch.float64) - exact.cpu()).abs()
    return difference.max().item() if difference.numel() else 0.0


def _torchs_own_errors(block: Block, values: dict[str, Tensor], own: Callable[..., Tensor] | None = None) -> dict[str, float]:
    """What PyTorch's convolutions are off, in the worse of their two layouts.

    Nothing here is wider than float64, and there PyTorch's error shows as a disagreement with itself: between the layouts,
    and on the mirrored problem, which adds up the same terms in another order. The error in float32, scaled down, is the
    least that is assumed.
    """
    runs = [evaluate(own or block.definition, block.in_layout(layout)) for layout in LAYOUTS]
    if block.x.dtype != torch.float64:
        return {name: max(error(run[name], exact) for run in runs) for name, exact in values.items()}
    mirrored = evaluate(block.definition, block.map(_mirror))
    runs.append({name: _mirror(t) for name, t in mirrored.items()})
    rounded = block.to(torch.float32)
    in_float32 = _torchs_own_errors(rounded, evaluate(block.definition, rounded.to(torch.float64)))
    scale = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    return {name: max(scale * in_float32[name], *(error(run[name], exact) for run in runs)) for name, exact in values.items()}


def _mirror(t: Tensor) -> Tensor:
    """Turn maps and kernels by half a turn; biases have no direction."""
    return t.flip(2, 3) if t.dim() == 4 else t


def _ulp(dtype: torch.dtype) -> float:
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    return ULPS_ARITHMETIC * torch.finfo(arithmetic).eps + ULPS_STORED * torch.finfo(dtype).eps


def _magnitudes(block: Block, values: dict[str, Tensor]) -> dict[str, float]:
    """The largest reference value of each result, or what it would be had its terms not cancelled by chance.

    A result of few elements may come out near zero although its terms are not. The root of the sum of the squared terms
    is the size it typically has, and is given by the same definition on squared arguments.
    """
    squares = evaluate(block.definition, block.to(torch.float32).map(torch.square))
    return {
        name: max(t.abs().max().item(), squares[name].max().sqrt().item()) if t.numel() else 0.0 for name, t in values.items()
    }
