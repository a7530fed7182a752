"""The problems that every test of boundary refinement takes, and the rule for its results."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from cases import LAYOUTS
from torch import Tensor

from gcn_kernels import reference

#: n, c, m, h, w: the paper's, other channels between, odd sizes, one pixel, one line, several units, no image.
CASES = {
    "paper": (1, 21, 21, 16, 16),
    "cityscapes": (2, 19, 19, 37, 33),
    "pixel": (2, 3, 2, 1, 1),
    "two-rows": (1, 4, 5, 2, 50),
    "one-row": (1, 5, 30, 1, 300),
    "one-column": (1, 24, 1, 70, 1),
    "one-channel": (3, 1, 1, 5, 7),
    "wide": (1, 70, 40, 5, 70),
    "several-units": (1, 3, 20, 70, 40),
    "several-strips": (1, 90, 70, 3, 200),
    "batch0": (0, 3, 4, 5, 6),
}
NAMES = ("dx", "dw1", "dw2", "db1", "db2")
Arguments = list[Tensor]


def draw_sizes(sizes: tuple[int, ...], dtype: torch.dtype, layout: str = "nchw") -> tuple[Arguments, Tensor]:
    """x, w1, w2, b1, b2 and dy. Nothing comes so near to the kink of the ReLU that rounding decides on which side it is."""
    n, c, m, h, w = sizes
    shapes = (n, c, h, w), (m, c, 3, 3), (c, m, 3, 3), (m,), (c,), (n, c, h, w)
    for _ in range(100):
        x, w1, w2, b1, b2, dy = (torch.randn(s, dtype=torch.float64) for s in shapes)
        given = [t.to(dtype) for t in (x, w1 / (3 * c**0.5), w2 / (3 * m**0.5), b1, b2)]
        x, w1, _, b1, _ = (t.double() for t in given)
        before = F.conv2d(x, w1, b1, padding=1)
        size = F.conv2d(x.abs(), w1.abs(), b1.abs(), padding=1)
        if dtype == torch.float64 or (before.abs() >= 1e-6 * size).all():
            break
    else:
        raise AssertionError("expected to find a problem away from the kink")
    given[0] = given[0].contiguous(memory_format=LAYOUTS[layout])
    return given, dy.to(dtype).contiguous(memory_format=LAYOUTS[layout])


def draw(case: str, dtype: torch.dtype, layout: str = "nchw") -> tuple[Arguments, Tensor]:
    return draw_sizes(CASES[case], dtype, layout)


def evaluate(run: Callable[..., Tensor], given: Arguments, dy: Tensor) -> dict[str, Tensor]:
    leaves = [t.detach().requires_grad_() for t in given]
    y = run(*leaves)
    return {"y": y.detach(), **dict(zip(NAMES, torch.autograd.grad(y, leaves, dy), strict=True))}


def magnitudes(given: Arguments, dy: Tensor) -> dict[str, Tensor]:
    """Sums of the magnitudes of what is added up in each result."""
    x, w1, w2, b1, b2 = (t.double().abs() for t in given)
    return evaluate(reference.refine, [x, w1, w2, b1, b2], dy.double().abs())


def check(results: dict[str, Tensor], given: Arguments, dy: Tensor, own: Callable[..., Tensor] = reference.refine) -> None:
    """At most twice PyTorch's own error at the same dtype, and four units in the last place of the sum of magnitudes.

    ``own`` stands for PyTorch's convolutions where they cannot run here as they would on the device under test.
    """
    expected = evaluate(reference.refine, [t.double() for t in given], dy.double())
    theirs = evaluate(own, [t.contiguous() for t in given], dy.contiguous())
    sizes = magnitudes(given, dy)
    dtype = dy.dtype
    for name, result in results.items():
        assert result.dtype == dtype and result.shape == expected[name].shape
        if result.numel() == 0:
            continue
        ulp = max(torch.finfo(dtype).eps, 4 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps)
        allowed = 2 * (theirs[name].double() - expected[name]).abs().max() + ulp * sizes[name].abs().max()
        error = (result.double() - expected[name]).abs().max()
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


HUGE = 1e60


def with_special_value(given: Arguments, dy: Tensor, where: str, value: float, column: int) -> None:
    """Put a value that is not finite into x or dy, in the middle row."""
    t = given[0] if where == "x" else dy
    t[0, 0, t.shape[2] // 2, column] = value


def check_reach(results: dict[str, Tensor], given: Arguments, dy: Tensor) -> None:
    """Values that are not finite reach what they reach in PyTorch.

    The padding may take part in a weight gradient (0 * nan) or be left out; conv2d's own algorithms differ there. So the gradient
    of a tap must be marked where a value inside the image brings the mark, and only where conv2d could mark it.
    """
    wide, wide_dy = [t.double() for t in given], dy.double()
    expected = evaluate(reference.refine, wide, wide_dy)
    huge = [torch.nan_to_num(t, nan=HUGE, posinf=HUGE, neginf=-HUGE) for t in (*wide, wide_dy)]
    reached = evaluate(reference.refine, huge[:5], huge[5])
    for name, t in results.items():
        if name.startswith("dw"):
            assert not (t.isfinite() & (reached[name].abs() > HUGE**0.5)).any(), f"{name}: a special value was lost"
            assert not (~t.isfinite() & expected[name].isfinite()).any(), f"{name}: a special value came from nowhere"
        else:
            assert torch.equal(t.isfinite(), expected[name].isfinite()), f"{name}: other values are not finite"
    assert not all(t.isfinite().all() for t in results.values())
