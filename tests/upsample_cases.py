"""Problems for the doubling of a map, and the rule that results have to keep."""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from cases import LAYOUTS
from torch import Tensor
from views import VIEWS

from gcn_kernels import reference

#: n, c, o, h, w: the paper's, odd sizes, one pixel, one line, several tiles, more channels than registers, no image.
CASES = {
    "paper": (1, 21, 21, 16, 16),
    "cityscapes": (2, 19, 19, 9, 33),
    "pixel": (2, 3, 2, 1, 1),
    "one-row": (1, 5, 30, 1, 300),
    "one-column": (1, 24, 1, 37, 1),
    "one-channel": (3, 1, 1, 5, 7),
    "wide": (1, 70, 40, 5, 6),
    "batch0": (0, 3, 4, 5, 6),
}
#: k, and whether each channel is doubled by itself.
FORMS = {f"{k}x{k}{'-depthwise' * by_itself}": (k, by_itself) for by_itself in (False, True) for k in (4, 3, 2)}


def draw(
    case: str, dtype: torch.dtype, layout: str = "nchw", device: str = "cpu", form: str = "4x4"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias, dy. Depthwise, there are as many outputs as channels."""
    n, c, o, h, w = CASES[case]
    k, depthwise = FORMS[form]
    o, reads = (c, 1) if depthwise else (o, c)
    shapes = (n, c, h, w), (c, o * reads // c, k, k), (o,), (n, o, 2 * h, 2 * w)
    x, weight, bias, dy = (torch.randn(s, dtype=torch.float64) for s in shapes)
    x, dy = (t.to(device, dtype).contiguous(memory_format=LAYOUTS[layout]) for t in (x, dy))
    return x, (weight / (2 * reads**0.5)).to(device, dtype), bias.to(device, dtype), dy


def groups_of(form: str, x: Tensor) -> int:
    return x.shape[1] if FORMS[form][1] else 1


class Drawn(NamedTuple):
    """A problem with everything drawn: what reads a view reads it behind other strides."""

    run: Callable[..., Tensor]
    definition: Callable[..., Tensor]
    tensors: tuple[Tensor, ...]
    name: str


def drawn(seed: int, fused: Callable[..., Tensor]) -> Drawn:
    """The problem of a number: form, sizes, crop, bias, lateral map, dtype, layout and strides."""
    r = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    form = r.choice(list(FORMS))
    k, depthwise = FORMS[form]
    n, h = r.choice((1, 1, 2, 3)), r.choice((1, 2, r.randint(1, 12)))
    w = r.choice((1, r.randint(1, 40), r.randint(1, 40), r.randint(250, 280) if h < 4 else 17))
    c, o = (r.choice((1, 2, 3, 19, 21, r.randint(1, 40))) for _ in range(2))
    o = c if depthwise else o
    groups = c if depthwise else 1
    size = (
        (2 * h, 2 * w) if r.random() < 0.4 else (r.randint(max(1, 2 * h - 2), 2 * h), r.randint(r.choice((1, 2 * w - 1)), 2 * w))
    )
    dtype = r.choice((torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16))
    view = r.choice([name for name in VIEWS if name != "expanded"])

    def normal(*shape: int, scale: float = 1) -> Tensor:
        t = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        return VIEWS[view](t.to(dtype))

    x = normal(n, c, h, w)
    weight = normal(c, o // groups, k, k, scale=0.5 / (c / groups) ** 0.5)
    bias, add = normal(o), normal(n, o, *size)
    biased, sums = r.random() < 0.6, r.random() < 0.5
    options: dict[str, Any] = {"groups": groups} if sums or size == (2 * h, 2 * w) else {"groups": groups, "size": size}

    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(x: Tensor, weight: Tensor, bias: Tensor, add: Tensor) -> Tensor:
            return function(x, weight, bias if biased else None, add=add if sums else None, **options)

        return call

    name = f"{seed}: {form} {n}x{c}->{o}x{h}x{w} to {size} {dtype} {view}, bias {biased}, add {sums}"
    return Drawn(of(fused), of(reference.upsample), (x, weight, bias, add, normal(n, o, *size)), name)


def tap_by_tap(x: Tensor, weight: Tensor, bias: Tensor, add: Tensor | None = None, *, groups: int = 1) -> Tensor:
    """The doubling with the products of the definition alone: PyTorch's kernels multiply with zeros outside of the map too."""
    (n, _, h, w), k = x.shape, weight.shape[2]
    pad, outputs = int(k > 2), weight.shape[1] * groups
    y = torch.zeros(n, outputs, 2 * h, 2 * w, dtype=x.dtype) + bias[:, None, None]

    def along(size: int, tap: int) -> tuple[slice, slice]:
        first, begin, end = tap - pad, int(tap < pad), size - int(tap - pad > 1)
        return slice(begin, end), slice(2 * begin + first, 2 * end + first, 2)

    for p in range(k):
        for q in range(k):
            (rows, to_rows), (columns, to_columns), taps = along(h, p), along(w, q), weight[:, :, p, q]
            part = x[:, :, rows, columns]
            products = part * taps[:, :, None] if groups > 1 else torch.einsum("nchw,co->nohw", part, taps)
            y[:, :, to_rows, to_columns] += products
    return y if add is None else add + y


NAMES = ("dx", "dw", "db", "dadd")


def evaluate(run: Callable[..., Tensor], *tensors: Tensor) -> dict[str, Tensor]:
    """y and the gradients of x, weight, bias and, where it is among the tensors, of a lateral map; the last is dy."""
    *inputs, dy = tensors
    leaves = [t.detach().requires_grad_() for t in inputs]
    y = run(*leaves)
    gradients = torch.autograd.grad(y, leaves, dy, allow_unused=True, materialize_grads=True)
    return {"y": y.detach(), **dict(zip(NAMES, gradients, strict=False))}


def check(
    results: dict[str, Tensor],
    *arguments: Tensor,
    pytorch: Callable[..., Tensor] | None = None,
    definition: Callable[..., Tensor] = reference.upsample,
) -> None:
    """At most twice PyTorch's own error at the same dtype, and four units in the last place of the sum of magnitudes."""
    doubled = [t.double() for t in arguments]
    expected = evaluate(definition, *doubled)
    own = evaluate(pytorch or definition, *(t.contiguous() for t in arguments))
    sizes = evaluate(definition, *(t.abs() for t in doubled))
    dtype = arguments[0].dtype
    for name, result in results.items():
        assert result.dtype == dtype and result.shape == expected[name].shape
        if result.numel() == 0:
            continue
        ulp = max(torch.finfo(dtype).eps, 4 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps)
        allowed = 2 * (own[name].double() - expected[name]).abs().max() + ulp * sizes[name].abs().max()
        error = (result.double() - expected[name]).abs().max()
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


def compare_finite(ours: dict[str, Tensor], definition: Callable[..., Tensor], *tensors: Tensor, nan: bool = True) -> None:
    """Results are finite, and nan, where those of a definition are."""
    exact = evaluate(definition, *(t.cpu().double() for t in tensors))
    for name in ours:
        assert torch.equal(ours[name].isfinite().cpu(), exact[name].isfinite()), name
        assert not nan or torch.equal(ours[name].isnan().cpu(), exact[name].isnan()), name
