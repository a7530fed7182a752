"""Problems for the doubling of a map, and the rule that results have to keep."""

from collections.abc import Callable

import torch
from cases import LAYOUTS
from torch import Tensor

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


def draw(case: str, dtype: torch.dtype, layout: str = "nchw", device: str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, c, o, h, w = CASES[case]
    x, weight, bias, dy = (torch.randn(s, dtype=torch.float64) for s in ((n, c, h, w), (c, o, 4, 4), (o,), (n, o, 2 * h, 2 * w)))
    x, dy = (t.to(device, dtype).contiguous(memory_format=LAYOUTS[layout]) for t in (x, dy))
    return x, (weight / (2 * c**0.5)).to(device, dtype), bias.to(device, dtype), dy


def evaluate(run: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor) -> dict[str, Tensor]:
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = run(*leaves)
    return {"y": y.detach(), **dict(zip(("dx", "dw", "db"), torch.autograd.grad(y, leaves, dy), strict=True))}


def check(results: dict[str, Tensor], *arguments: Tensor, pytorch: Callable[..., Tensor] = reference.upsample) -> None:
    """At most twice PyTorch's own error at the same dtype, and four units in the last place of the sum of magnitudes."""
    doubled = [t.double() for t in arguments]
    expected = evaluate(reference.upsample, *doubled)
    own = evaluate(pytorch, *(t.contiguous() for t in arguments))
    sizes = evaluate(reference.upsample, *(t.abs() for t in doubled))
    dtype = arguments[0].dtype
    for name, result in results.items():
        assert result.dtype == dtype and result.shape == expected[name].shape
        if result.numel() == 0:
            continue
        ulp = max(torch.finfo(dtype).eps, 4 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps)
        allowed = 2 * (own[name].double() - expected[name]).abs().max() + ulp * sizes[name].abs().max()
        error = (result.double() - expected[name]).abs().max()
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"
