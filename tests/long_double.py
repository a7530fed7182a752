"""The block and its gradients in numpy's ``longdouble``: who is right where two results in float64 differ.

The rule takes the definition in float64 as the truth. Of results in float64 the truth's own rounding then counts as theirs.
``longdouble`` has 64 bits of mantissa on x86; where it is float64, nothing is gained.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from cases import Block
from numpy.typing import NDArray

Array = NDArray[np.longdouble]


def _taps(length: int, k: int) -> Iterator[tuple[int, slice, slice]]:
    """Every tap that touches a line of this length, the positions where it does, and those that it reads there."""
    for tap in range(k):
        shift = tap - k // 2
        if abs(shift) < length:
            yield tap, slice(max(0, -shift), length - max(0, shift)), slice(max(0, shift), length - max(0, -shift))


def _conv(x: Array, w: Array, b: Array | None, axis: int) -> Array:
    """One convolution along an axis of the map, of weights [O, I, k]."""
    lines = np.moveaxis(x, 2 + axis, 3)
    y = np.zeros((lines.shape[0], w.shape[0], *lines.shape[2:]), np.longdouble)
    for tap, here, there in _taps(lines.shape[3], w.shape[2]):
        y[..., here] += np.einsum("oi,nial->noal", w[:, :, tap], lines[..., there])
    return np.moveaxis(y if b is None else y + b[:, None, None], 3, 2 + axis)


def _weight_grad(x: Array, dy: Array, k: int, axis: int) -> Array:
    lines, gradients = np.moveaxis(x, 2 + axis, 3), np.moveaxis(dy, 2 + axis, 3)
    found = np.zeros((dy.shape[1], x.shape[1], k), np.longdouble)
    for tap, here, there in _taps(lines.shape[3], k):
        found[:, :, tap] = np.einsum("noal,nial->oi", gradients[..., here], lines[..., there])
    return found


def evaluate(block: Block) -> dict[str, Array]:
    """``y`` and the gradient of every argument that is there."""
    given: dict[str, Any] = {name: t.detach().cpu().numpy().astype(np.longdouble) for name, t in block.named.items()}
    x, dy = given["x"], block.dy.detach().cpu().numpy().astype(np.longdouble)
    y, dx, found = np.zeros_like(dy), np.zeros_like(x), {}
    for side, axis in (("l", 0), ("r", 1)):
        first, second = f"w_{side}1", f"w_{side}2"
        w1, w2 = (given[name].reshape(*given[name].shape[:2], -1) for name in (first, second))
        u = _conv(x, w1, given.get(f"b_{side}1"), axis)
        du = _conv(dy, w2.swapaxes(0, 1)[:, :, ::-1], None, 1 - axis)
        y = y + _conv(u, w2, given.get(f"b_{side}2"), 1 - axis)
        dx = dx + _conv(du, w1.swapaxes(0, 1)[:, :, ::-1], None, axis)
        found[first], found[second] = _weight_grad(x, du, w1.shape[2], axis), _weight_grad(u, dy, w2.shape[2], 1 - axis)
        found[f"b_{side}1"], found[f"b_{side}2"] = du.sum((0, 2, 3)), dy.sum((0, 2, 3))
    return {"y": y, "x": dx, **{name: found[name].reshape(given[name].shape) for name in given if name != "x"}}
