"""What a program of the refinement's kernels does with one tile: copy, convolve, add up.

A tile is R x Q pixels of y. Around it lie the rings that its convolutions look at, so the areas of a tile are

    margin 0   R x Q                 y, dx
    margin 1   (R + 2) x (Q + 2)     u = relu(conv1(x)) and its gradient
    margin 2   (R + 4) x (Q + 4)     x, dy

An area lies in the program's own part of a scratch, as [places, pitch]: one place after the other, row by row, each with its
channels and zeros up to a multiple of 8. Outside of the map an area is zero, whatever the kernels compute there. So a
convolution is a matrix product without masks of the map: row ``place``, column (tap, channel).
"""

import triton
import triton.language as tl

from gcn_kernels.triton.product import add_product


@triton.jit
def origin(tile, height, width, R: tl.constexpr, Q: tl.constexpr):
    """Image, and row and column of the first pixel of a tile."""
    across, down = tl.cdiv(width, Q), tl.cdiv(height, R)
    return tile // across // down, tile // across % down * R, tile % across * Q


@triton.jit
def places(start, i, j, height, width, MARGIN: tl.constexpr, R: tl.constexpr, Q: tl.constexpr, P: tl.constexpr):
    """P places of an area from ``start`` on.

    Returns:
        The places, whether they belong to the area, whether the pixels there lie inside of the map, their rows and columns in it.
    """
    place = start + tl.arange(0, P)
    row, column = i - MARGIN + place // (Q + 2 * MARGIN), j - MARGIN + place % (Q + 2 * MARGIN)
    there = place < (R + 2 * MARGIN) * (Q + 2 * MARGIN)
    inside = there & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return place, there, inside, row, column


@triton.jit
def nth(place, MARGIN: tl.constexpr, WIDER: tl.constexpr, Q: tl.constexpr):
    """Where places of the area of ``MARGIN`` lie in the area of ``WIDER``."""
    FROM: tl.constexpr = Q + 2 * MARGIN
    BY: tl.constexpr = WIDER - MARGIN
    return (place // FROM + BY) * (Q + 2 * WIDER) + place % FROM + BY


@triton.jit
def copy(
    source, area, n, i, j, height, width, channels, s_n, s_c, s_h, s_w,
    R: tl.constexpr, Q: tl.constexpr, PITCH: tl.constexpr, P: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """A map with any strides to its area, margin 2."""
    for start in range(0, (R + 4) * (Q + 4), P):
        place, there, inside, row, column = places(start, i, j, height, width, 2, R, Q, P)
        pixel = source + tl.cast(n, tl.int64) * s_n + (row.to(tl.int64) * s_h + column.to(tl.int64) * s_w)
        for first in range(0, PITCH, B):
            c = first + tl.arange(0, B)
            at = pixel[:, None] + (c.to(tl.int64) * s_c)[None, :]
            value = tl.load(at, mask=inside[:, None] & (c < channels)[None, :], other=0.0)
            tl.store(area + place[:, None] * PITCH + c[None, :], value, mask=there[:, None] & (c < PITCH)[None, :])


@triton.jit
def load_taps(
    area, place, mask, first, MARGIN: tl.constexpr, WIDER: tl.constexpr, Q: tl.constexpr, PITCH: tl.constexpr, B: tl.constexpr
):
    """What the nine taps of places see of an area, [places, B]: columns (tap, channel) from ``first`` on; zero where no mask is.

    ``place`` counts in the area of ``MARGIN``; what is read has the margin ``WIDER``.
    """
    k = first + tl.arange(0, B)
    tap, c = k // PITCH, k % PITCH
    shift = (tap // 3 - 1) * (Q + 2 * WIDER) + tap % 3 - 1
    source = area + (nth(place, MARGIN, WIDER, Q) * PITCH)[:, None] + (shift * PITCH + c)[None, :]
    return tl.load(source, mask=mask[:, None] & (k < 9 * PITCH)[None, :], other=0.0)


@triton.jit
def convolve(
    area, w, place, there, first,
    MARGIN: tl.constexpr, Q: tl.constexpr, PITCH: tl.constexpr, COLUMNS: tl.constexpr,
    P: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A 3 x 3 convolution at P places of the area of ``MARGIN``, N outputs from ``first`` on, of the area one ring wider.

    Args:
        w: packed weights, [9 * PITCH rounded up to K, COLUMNS].

    Returns:
        [P, N] in float32.
    """
    total = tl.zeros((P, N), tl.float32)
    across = first + tl.arange(0, N)
    for begin in range(0, 9 * PITCH, K):
        seen = load_taps(area, place, there, begin, MARGIN, MARGIN + 1, Q, PITCH, K)
        weights = tl.load(w + (begin + tl.arange(0, K))[:, None] * COLUMNS + across[None, :])
        total = add_product(seen, weights, total, PRECISION)
    return total


@triton.jit
def add_products(
    partial, area, factor, i, j, height, width, earlier,
    WIDER: tl.constexpr, FACTOR: tl.constexpr, R: tl.constexpr, Q: tl.constexpr, PITCH: tl.constexpr, OTHER: tl.constexpr,
    COLUMNS: tl.constexpr, S: tl.constexpr, K: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile's part of a weight gradient, ``partial[(tap, channel), output]``: products over its pixels.

    Pixels beyond the map take no part: their factor is zero, but what their taps see may be nan.

    Args:
        partial: [9 * PITCH, COLUMNS] in float32; written, or added to if ``earlier`` is 1 and not 0.
        area: what the taps see, with the margin ``WIDER``.
        factor: area of the gradient of what the convolution gives, with the margin ``FACTOR`` and the pitch ``OTHER``.
        S: pixels of a step.
    """
    for first in range(0, OTHER, N):
        o = first + tl.arange(0, N)
        for begin in range(0, 9 * PITCH, K):
            total = tl.zeros((K, N), tl.float32)
            for start in range(0, R * Q, S):
                place, _, inside, _, _ = places(start, i, j, height, width, 0, R, Q, S)
                left = load_taps(area, place, inside, begin, 0, WIDER, Q, PITCH, K)
                source = factor + (nth(place, 0, FACTOR, Q) * OTHER)[:, None] + o[None, :]
                right = tl.load(source, mask=(o < OTHER)[None, :], other=0.0)
                total = add_product(tl.trans(left), right, total, PRECISION)
            k = begin + tl.arange(0, K)
            target = partial + k[:, None] * COLUMNS + o[None, :]
            there = (k < 9 * PITCH)[:, None]
            before = tl.load(target, mask=(k < earlier * 9 * PITCH)[:, None], other=0.0)
            tl.store(target, before + total, mask=there)


@triton.jit
def add_pixels(
    partial, factor, earlier,
    FACTOR: tl.constexpr, R: tl.constexpr, Q: tl.constexpr, OTHER: tl.constexpr, S: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """A tile's part of a bias gradient, ``partial[output]``: the sums of the factor over its pixels; see ``add_products``."""
    for first in range(0, OTHER, N):
        o = first + tl.arange(0, N)
        total = tl.zeros((N,), tl.float32)
        for start in range(0, R * Q, S):
            source = factor + (nth(start + tl.arange(0, S), 0, FACTOR, Q) * OTHER)[:, None] + o[None, :]
            total += tl.sum(tl.load(source, mask=(o < OTHER)[None, :], other=0.0).to(tl.float32), 0)
        before = tl.load(partial + o, mask=o < earlier * OTHER, other=0.0)
        tl.store(partial + o, before + total, mask=o < OTHER)
