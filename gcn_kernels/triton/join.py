"""Two narrow maps to one wide one: the second stage (u_l, u_r -> y), and in the backward pass du_l, du_r -> dx.

    y[q, o] = sum_t sum_m a_v[q + (t - r) along H, m] w_v[t, m, o]  +  the same of a_h along W  +  b_v[o] + b_h[o]

One matrix product per branch, both into the same accumulators: its left factor, [pixels, taps * M], is never formed but read
from the small maps where it lies. Their M channels are padded to ``pitch = 8 * chunks`` (24 at M = 21), so a row of 64 columns
is eight loads of eight neighbouring channels, each of its own tap; 8 divides 16 bytes, which is what one asynchronous copy
moves. The depth is 2 * 15 * 24 = 720 at k = 15, M = 21 where 630 are useful (88 %), in steps of BK rounded up to 768.

Who owns what: a program computes P pixels and N channels of the result. Rows of the map are cut into chunks of eight pixels, so
that NCHW results are written in runs. y and dx are written once and nothing of their size is read.

Cost per tile of 128 x 128 at k = 15, M = 21 in 16 bits: 128 * 128 * 768 multiply-adds (6.1 k clocks of an H100's matrix
units) for 2 * 128 * 768 * 2 = 393 KB from L2 (64 B per clock, where it gives 40-60). dx: **bound by L2 bandwidth**, near the
matrix rate. y at O = 21 has N = 32: 196 KB of maps and 49 KB of weights per 128 pixels, **bound by L2 bandwidth** too, but a
fifth of the whole at C = 256 and less beyond.
"""

import triton
import triton.language as tl

from gcn_kernels.triton.product import add_product


@triton.jit
def _add_branch(
    accumulator,
    a,
    w,
    pixel,
    at,
    exists,
    axis,
    stride,
    mid,
    taps,
    chunks,
    column,
    columns,
    pitch_w,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add one branch, whose taps move by ``stride`` pixels along an axis on which the rows are at ``at``."""
    pitch = chunks * 8
    base = a + pixel * pitch
    for depth in range(0, taps * pitch, BK):
        k = depth + tl.arange(0, BK)
        chunk = k // 8
        tap = chunk // chunks
        m = chunk % chunks * 8 + k % 8
        shift = tap - taps // 2
        to = at[:, None] + shift[None, :]
        inside = exists[:, None] & (to >= 0) & (to < axis) & (tap < taps)[None, :]
        a_tile = tl.load(base[:, None] + (shift.to(tl.int64) * (stride * pitch) + m)[None, :], mask=inside, other=0.0)
        there = (m < mid) & (tap < taps)
        row = tap.to(tl.int64) * mid + m
        w_tile = tl.load(
            w + (row * pitch_w)[:, None] + column[None, :], mask=there[:, None] & (column < columns)[None, :], other=0.0
        )
        accumulator = add_product(a_tile, w_tile, accumulator, PRECISION)
    return accumulator


@triton.jit
def join(
    a_v,
    a_h,
    w_v,
    w_h,
    b_v,
    b_h,
    y,
    batch,
    height,
    width,
    columns,
    column_tiles,
    mid_v,
    mid_h,
    taps_v,
    taps_h,
    chunks_v,
    chunks_h,
    pitch_w,
    y_n,
    y_c,
    y_h,
    y_w,
    P: tl.constexpr,
    N: tl.constexpr,
    BK: tl.constexpr,
    BIASED_V: tl.constexpr,
    BIASED_H: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of the result, for the grid (pixel tiles * column tiles,).

    Args:
        a_v: [N, H, W, 8 * chunks_v], channels from mid_v on zero; convolved along H. ``a_h``: along W.
        w_v: packed weights, [taps * mid, pitch_w], columns of the result padded to pitch_w.
        b_v: [columns], not read unless ``BIASED_V``.
        y: [N, columns, H, W] with strides ``y_n, y_c, y_h, y_w``.
    """
    column = tl.program_id(0) % column_tiles * N + tl.arange(0, N)
    place = tl.program_id(0) // column_tiles * P + tl.arange(0, P)
    row_chunks = tl.cdiv(width, 8)
    chunk = place // 8
    across = chunk % row_chunks * 8 + place % 8
    line = chunk // row_chunks
    down = line % height
    n = line // height
    exists = (n < batch) & (across < width)
    pixel = line.to(tl.int64) * width + across

    total = tl.zeros((P, N), tl.float32)
    total = _add_branch(
        total, a_v, w_v, pixel, down, exists, height, width, mid_v, taps_v, chunks_v, column, columns, pitch_w, BK, PRECISION
    )
    total = _add_branch(
        total, a_h, w_h, pixel, across, exists, width, 1, mid_h, taps_h, chunks_h, column, columns, pitch_w, BK, PRECISION
    )
    if BIASED_V:
        total += tl.load(b_v + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    if BIASED_H:
        total += tl.load(b_h + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    row = y + n.to(tl.int64) * y_n + down.to(tl.int64) * y_h + across.to(tl.int64) * y_w
    tl.store(
        row[:, None] + (column.to(tl.int64) * y_c)[None, :],
        total.to(y.dtype.element_ty),
        mask=exists[:, None] & (column < columns)[None, :],
    )
