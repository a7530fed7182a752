"""Weight gradients of both branches of a stage, in the layout of the packed weights.

    dw[t, m, c] = sum_p narrow[p + direction * (t - r), m] wide[p, c]

along H for one branch and along W for the other. First stage: wide = x, narrow = du, direction = -1 (a tap brings x at p to
u at p - (t - r)). Second stage: wide = dy, narrow = u, direction = +1.

A matrix product whose depth is the pixels. The wide map is read where it lies, unshifted; its factor, [pixels, taps * M], is
read from the small narrow map shifted by the tap, eight channels at a time, as in :mod:`gcn_kernels.triton.join`.

Who owns what: a program computes ``ROWS`` pairs (t, m) of one branch and ``N`` wide channels over one of ``splits`` ranges of
pixels and writes them in float32; :mod:`gcn_kernels.triton.sums` adds the ranges in order. Nothing is added atomically, so the
same call gives the same bits.

Cost at k = 15, M = 21, 128 x 128 tiles in 16 bits: 3 tiles of rows per branch (315 of 384 useful, 82 %); per 64 pixels 32 KB
from L2 for 512 clocks of an H100's matrix units, 64 B per clock where L2 gives 40-60: **bound by L2 bandwidth**, near the matrix
rate. Programs of one range of pixels are neighbours in the grid, so the wide map comes from device memory once.

Where a tap leads outside the image its factor is zero, and zero times nan is nan: a nan or infinity in the wide map would
reach taps that never met it. Such a sum is itself nan, so a program that finds none has nothing to do. One that does goes over
its pixels twice more: for the sum without those values, and to find the taps that meet one.
"""

import triton
import triton.language as tl

from gcn_kernels.triton.product import add_product


@triton.jit
def _load_tiles(
    wide,
    narrow,
    place,
    batch,
    height,
    width,
    c,
    channels,
    vertical,
    shift,
    m,
    there,
    pitch,
    x_n,
    x_c,
    x_h,
    x_w,
):
    """Both factors for the pixels ``place``, and where the narrow one lies inside the map."""
    row_chunks = tl.cdiv(width, 8)
    chunk = place // 8
    across = chunk % row_chunks * 8 + place % 8
    line = chunk // row_chunks
    down = line % height
    n = line // height
    exists = (n < batch) & (across < width)
    row = wide + n.to(tl.int64) * x_n + down.to(tl.int64) * x_h + across.to(tl.int64) * x_w
    wide_tile = tl.load(row[:, None] + (c.to(tl.int64) * x_c)[None, :], mask=exists[:, None] & (c < channels)[None, :], other=0.0)
    to = tl.where(vertical, down, across)[:, None] + shift[None, :]
    inside = exists[:, None] & (to >= 0) & (to < tl.where(vertical, height, width)) & there[None, :]
    pixel = line.to(tl.int64) * width + across
    step = tl.where(vertical, width, 1) * pitch
    narrow_tile = tl.load(narrow + (pixel * pitch)[:, None] + (shift.to(tl.int64) * step + m)[None, :], mask=inside, other=0.0)
    return wide_tile, narrow_tile, inside


@triton.jit
def weight_gradient(
    wide,
    narrow_v,
    narrow_h,
    out_v,
    out_h,
    tiles_v,
    tiles_h,
    splits,
    batch,
    height,
    width,
    channels,
    mid_v,
    mid_h,
    taps_v,
    taps_h,
    chunks_v,
    chunks_h,
    direction,
    pitch_w,
    x_n,
    x_c,
    x_h,
    x_w,
    ROWS: tl.constexpr,
    N: tl.constexpr,
    PIXELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Both branches, for the grid ((tiles_v + tiles_h) * column tiles * splits,), ranges of pixels outermost.

    Args:
        wide: [N, channels, H, W] with strides ``x_n, x_c, x_h, x_w``.
        narrow_v: [N, H, W, 8 * chunks_v]; shifted along H. ``narrow_h``: along W.
        out_v: [splits, taps_v * mid_v, pitch_w] in float32; columns from ``channels`` on are not written.
    """
    tiles = tiles_v + tiles_h
    column_tiles = tl.cdiv(channels, N)
    tile = tl.program_id(0) % tiles
    c = tl.program_id(0) // tiles % column_tiles * N + tl.arange(0, N)
    split = tl.program_id(0) // tiles // column_tiles
    vertical = tile < tiles_v
    if vertical:
        narrow, out = narrow_v, out_v
    else:
        narrow, out = narrow_h, out_h
    # Not in the branches above: an argument that is 1 is a constant there, and could not meet one that is not.
    mid, taps, chunks = (
        tl.where(vertical, mid_v, mid_h),
        tl.where(vertical, taps_v, taps_h),
        tl.where(vertical, chunks_v, chunks_h),
    )
    tile -= tl.where(vertical, 0, tiles_v)

    # This program's rows.
    k = tile * ROWS + tl.arange(0, ROWS)
    tap = k // 8 // chunks
    m = k // 8 % chunks * 8 + k % 8
    pitch = chunks * 8
    shift = direction * (tap - taps // 2)
    # This split's pixels.
    places = batch * height * tl.cdiv(width, 8) * 8
    size = tl.cdiv(tl.cdiv(places, PIXELS), splits) * PIXELS
    begin = split * size
    end = tl.minimum(begin + size, places)

    total = tl.zeros((ROWS, N), tl.float32)
    for first in range(begin, end, PIXELS):
        wide_tile, narrow_tile, _ = _load_tiles(
            wide, narrow, first + tl.arange(0, PIXELS), batch, height, width, c, channels, vertical, shift, m, tap < taps, pitch,
            x_n, x_c, x_h, x_w,
        )  # fmt: skip
        total = add_product(tl.trans(narrow_tile), wide_tile, total, PRECISION)

    row = (tl.cast(split, tl.int64) * taps + tap) * mid + m
    target = out + (row * pitch_w)[:, None] + c[None, :]
    there = ((tap < taps) & (m < mid))[:, None] & (c < channels)[None, :]
    if tl.max(tl.where(total == total, 0, 1)) == 0:
        tl.store(target, total, mask=there)
    else:
        total = tl.zeros((ROWS, N), tl.float32)
        for first in tl.range(begin, end, PIXELS, num_stages=1):
            wide_tile, narrow_tile, _ = _load_tiles(
                wide, narrow, first + tl.arange(0, PIXELS), batch, height, width, c, channels, vertical, shift, m, tap < taps,
                pitch, x_n, x_c, x_h, x_w,
            )  # fmt: skip
            finite = tl.abs(wide_tile.to(tl.float32)) < float("inf")
            cleaned = tl.where(finite, wide_tile.to(tl.float32), 0.0).to(wide_tile.dtype)
            total = add_product(tl.trans(narrow_tile), cleaned, total, PRECISION)
        tl.store(target, total, mask=there)
        tl.debug_barrier()
        met = tl.zeros((ROWS, N), tl.float32)
        for first in tl.range(begin, end, PIXELS, num_stages=1):
            wide_tile, _, inside = _load_tiles(
                wide, narrow, first + tl.arange(0, PIXELS), batch, height, width, c, channels, vertical, shift, m, tap < taps,
                pitch, x_n, x_c, x_h, x_w,
            )  # fmt: skip
            special = tl.where(tl.abs(wide_tile.to(tl.float32)) < float("inf"), 0.0, 1.0).to(wide_tile.dtype)
            reached = tl.where(inside, 1.0, 0.0).to(wide_tile.dtype)
            met = add_product(tl.trans(reached), special, met, PRECISION)
        tl.store(target, float("nan"), mask=there & (met > 0))
