"""Problems with nan and inf for the emulated operator, and their exact results: what four convolutions make of them where the
padding takes no part."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from cases import Block, Case
from operator_run import Array
from problems import EmulatedCase
from torch import Tensor

#: Several patches of pixels along either axis, the last of which reach over the map; taps that lead out of it on both sides.
SPECIAL = Case("special", n=2, c=24, h=20, w=18, mid_l=9, mid_r=5, out=6, k=(9, 5, 15, 7))
PATTERNS = ("one", "border", "all", "nan")


@dataclass(frozen=True)
class SpecialCase(EmulatedCase):
    """A case with values that are not finite in ``where``: "x" or "dy"."""

    where: str = "x"
    pattern: str = "border"

    def __str__(self) -> str:
        return f"{super().__str__()}-{self.pattern}-in-{self.where}"

    def block(self) -> Block:
        block = super().block()
        return replace(block, **{self.where: planted(getattr(block, self.where), self.pattern)})

    def expected(self) -> tuple[dict[str, Array], dict[str, float]]:
        """The errors allowed are those of the same problem with finite values."""
        _, allowed = super().expected()
        return {name: t.numpy() for name, t in exact(self.block()).items()}, allowed


def planted(t: Tensor, pattern: str) -> Tensor:
    """A copy of a map with one inf on its border; with borders of both infinities; with nothing else than inf; or with a nan."""
    t = t.clone()
    if pattern == "one":
        t[-1, 1, 0, t.shape[3] // 2] = torch.inf
    elif pattern == "border":
        t[:, 1, 0, 3:] = t[0, 2, :, -1] = torch.inf
        t[:, 3, -2:, :] = t[1, 2, :, 0] = -torch.inf
    elif pattern == "all":
        t.fill_(torch.inf)
    elif pattern == "nan":
        t[0, 1, t.shape[2] // 2, t.shape[3] // 3] = torch.nan
    else:
        raise ValueError(f"{pattern}: expected one of {', '.join(PATTERNS)}")
    return t


def exact(block: Block) -> dict[str, Tensor]:
    """y and all gradients in float64; gradients of weights as sums over the pixels whose partner is inside the map."""
    wide = block.map(lambda t: t.detach().to(torch.float64)).leaves()
    w_l1, w_l2, w_r1, w_r2 = wide.weights
    b_l1, b_l2, b_r1, b_r2 = wide.biases

    def conv(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return F.conv2d(x, w, b, padding=(w.shape[2] // 2, w.shape[3] // 2))

    u_l, u_r = conv(wide.x, w_l1, b_l1), conv(wide.x, w_r1, b_r1)
    y = conv(u_l, w_l2, b_l2) + conv(u_r, w_r2, b_r2)
    named = {name: t for name, t in wide.named.items() if not name.startswith("w_")}
    du_l, du_r, *others = torch.autograd.grad(y, [u_l, u_r, *named.values()], wide.dy)
    x, dy = wide.x.detach(), wide.dy
    return {
        "y": y.detach(),
        **dict(zip(named, others, strict=True)),
        "w_l1": _weight_gradient(du_l, x, w_l1),
        "w_l2": _weight_gradient(dy, u_l.detach(), w_l2),
        "w_r1": _weight_gradient(du_r, x, w_r1),
        "w_r2": _weight_gradient(dy, u_r.detach(), w_r2),
    }


def _weight_gradient(of_output: Tensor, of_input: Tensor, w: Tensor) -> Tensor:
    """Of a k x 1 or 1 x k convolution."""
    axis = 2 if w.shape[2] > 1 else 3
    length, kernel = of_input.shape[axis], w.shape[axis]
    gradient = torch.zeros(w.shape, dtype=of_input.dtype)
    for tap in range(kernel):
        shift = tap - kernel // 2
        first, count = max(0, -shift), length - abs(shift)
        if count > 0:
            pair = of_output.narrow(axis, first, count), of_input.narrow(axis, first + shift, count)
            gradient.select(axis, tap)[:, :, 0] = torch.einsum("nohw,nihw->oi", *pair)
    return gradient
