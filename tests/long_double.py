"""The block and its gradients in numpy's ``longdouble``: who is right where two results in float64 differ.

The rule takes the definition in float64 as the truth. Of results in float64 the truth's own rounding then counts as theirs.
``longdouble`` has 64 bits of mantissa on x86; where it is float64, nothing is gained.
"""

from typing import Any

import numpy as np
from cases import Block
from numpy.typing import NDArray

Array = NDArray[np.longdouble]


def _shifted(length: int, shift: int) -> tuple[slice, slice]:
    """The positions p that have p + shift on the line, and those."""
    first, last = max(0, -shift), max(min(length, length - shift), max(0, -shift))
    return slice(first, last), slice(first + shift, last + shift)


def _places(axis: int, shape: tuple[int, ...], shift: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    here, there = _shifted(shape[2 + axis], shift)
    everything = slice(None)
    return ((everything, everything, here), (everything, everything, there)) if axis == 0 else ((..., here), (..., there))  # type: ignore[return-value]


def _conv(x: Array, w: Array, b: Array | None, axis: int) -> Array:
    """One convolution along an axis of the map, of weights [O, I, k]."""
    y = np.zeros((x.shape[0], w.shape[0], *x.shape[2:]), np.longdouble)
    for tap in range(w.shape[2]):
        here, there = _places(axis, x.shape, tap - w.shape[2] // 2)
        y[here] += np.einsum("oi,nihw->nohw", w[:, :, tap], x[there])
    return y if b is None else y + b[:, None, None]


def _weight_grad(x: Array, dy: Array, k: int, axis: int) -> Array:
    grad = np.zeros((dy.shape[1], x.shape[1], k), np.longdouble)
    for tap in range(k):
        here, there = _places(axis, x.shape, tap - k // 2)
        grad[:, :, tap] = np.einsum("nohw,nihw->oi", dy[here], x[there])
    return grad


def evaluate(block: Block) -> dict[str, Array]:
    """``y`` and the gradient of every argument that is there."""
    given: dict[str, Any] = {name: t.detach().cpu().numpy().astype(np.longdouble) for name, t in block.named.items()}
    x, dy = given["x"], block.dy.detach().cpu().numpy().astype(np.longdouble)
    weights = {name: given[name].reshape(*given[name].shape[:2], -1) for name in ("w_l1", "w_l2", "w_r1", "w_r2")}
    found: dict[str, Array] = {"y": np.zeros_like(dy), "x": np.zeros_like(x)}
    for side, axis in (("l", 0), ("r", 1)):
        w1, w2 = weights[f"w_{side}1"], weights[f"w_{side}2"]
        u = _conv(x, w1, given.get(f"b_{side}1"), axis)
        du = _conv(dy, w2.transpose(1, 0, 2)[:, :, ::-1], None, 1 - axis)
        found["y"] = found["y"] + _conv(u, w2, given.get(f"b_{side}2"), 1 - axis)
        found["x"] = found["x"] + _conv(du, w1.transpose(1, 0, 2)[:, :, ::-1], None, axis)
        found[f"w_{side}1"], found[f"w_{side}2"] = (
            _weight_grad(x, du, w1.shape[2], axis),
            _weight_grad(u, dy, w2.shape[2], 1 - axis),
        )
        found[f"b_{side}1"], found[f"b_{side}2"] = du.sum((0, 2, 3)), dy.sum((0, 2, 3))
    return {name: found[name].reshape(t.shape) if name != "y" else found[name] for name, t in {"y": dy, **given}.items()}
