# mypy: disable-error-code="assignment, var-annotated"
"""The doubling of each channel by itself, and its gradients: with p, q < K and a padding P of 1, or 0 where K is 2,

    y[c, 2i + p - P, 2j + q - P]  +=  x[c, i, j] w[c, p, q]
    dx[c, i, j]  =  sum_p,q    dy[c, 2i + p - P, 2j + q - P] w[c, p, q]
    dw[c, p, q]  =  sum_n,i,j  dy[n, c, 2i + p - P, 2j + q - P] x[n, c, i, j]

There is no sum over channels, so no matrix product. A program has CB channels and M lanes; neighbours in memory are pixels of a
row in NCHW, where CB is 1, and channels in channels_last. In ``double_depthwise`` a lane is a cell of kernels.py: it reads the
four pixels around a corner (of 2 x 2 the one pixel) and makes the four outputs between them; neighbours in a row are written
together. In the gradients it is a pixel of x and reads the K x K outputs it is part of, which several lanes read, from L1.
``weight_gradient_depthwise`` has a range of the pixels and writes its sums in float32, which the strips' ``finish`` adds in a
fixed order. Every product is that of a tap that there is, so a value of x or dy that is not finite reaches what it does in the
definition.

Cost for 16 x 21 x 256 x 256 by 4 x 4 in 16 bits: 220 MB, 52 us at 4.2 TB/s, forward, and as much for each gradient. Sixteen
multiply-adds a pixel are few beside it. Sixteen loads of every second number of dy are not: 22 M requests of 128 bytes to L1 for
each gradient, about 100 us with one a clock in each of 132 multiprocessors. Nothing here was measured.
"""

import triton
import triton.language as tl

from gcn_kernels.triton.bounds import is_below


@triton.jit
def _place(place, rows, columns):
    """Image, row and column."""
    return place // columns // rows, place // columns % rows, place % columns


@triton.jit
def _add_tap(total, value, kernel, there, w_h, w_w, P: tl.constexpr, Q: tl.constexpr, K: tl.constexpr):
    """``total`` and the product of ``value`` with the tap (P, Q) of each channel, if there is one."""
    if (P < K) & (Q < K):
        tap = P * tl.cast(w_h, tl.int64) + Q * tl.cast(w_w, tl.int64)
        total += value * tl.load(kernel + tap, mask=there, other=0.0).to(tl.float32)
    return total


@triton.jit
def _load(t, at, i, j, height, width, exists, t_h, t_w):
    """[CB, M] of the places (i, j), zero outside the map, in float32; and where they lie inside."""
    inside = exists & (is_below(i, height) & is_below(j, width))[None, :]
    place = i.to(tl.int64) * t_h + j.to(tl.int64) * t_w
    return tl.load(t + at + place[None, :], mask=inside, other=0.0).to(tl.float32), inside


@triton.jit
def double_depthwise(
    x,
    w,
    bias,
    add,
    y,
    batch,
    rows,
    columns,
    height,
    width,
    y_height,
    y_width,
    channels,
    channel_blocks,
    w_c,
    w_h,
    w_w,
    x_n,
    x_c,
    x_h,
    x_w,
    add_n,
    add_c,
    add_h,
    add_w,
    y_n,
    y_c,
    y_h,
    y_w,
    M: tl.constexpr,
    CB: tl.constexpr,
    K: tl.constexpr,
    BIASED: tl.constexpr,
    ADDED: tl.constexpr,
):
    """y, for the grid (tiles of M of all images' ``rows`` x ``columns`` cells * channel blocks,); arguments as of ``double``."""
    T: tl.constexpr = 1 if K == 2 else 2
    tile, c = tl.program_id(0) // channel_blocks, tl.program_id(0) % channel_blocks * CB + tl.arange(0, CB)
    n, i, j = _place(tile * M + tl.arange(0, M), rows, columns)
    there, channel = (c < channels)[:, None], c.to(tl.int64)[:, None]
    kernel = w + channel * w_c
    at = channel * x_c + (n.to(tl.int64) * x_n)[None, :]
    corners = ()
    for corner in tl.static_range(T * T):
        exists = there & (n < batch)[None, :]
        value, _ = _load(x, at, i - corner // T, j - corner % T, height, width, exists, x_h, x_w)
        corners += (value,)
    # The outputs of each lane in a row are two neighbours.
    lane = tl.arange(0, 2 * M)
    n, i, j = _place(tile * M + lane // 2, rows, columns)
    column = 2 * j + lane % 2 - (T - 1)
    for a in tl.static_range(2):
        left = tl.zeros((CB, M), tl.float32)
        right = tl.zeros((CB, M), tl.float32)
        for corner in tl.static_range(T * T):
            left = _add_tap(left, corners[corner], kernel, there, w_h, w_w, corner // T * 2 + a, corner % T * 2, K)
            right = _add_tap(right, corners[corner], kernel, there, w_h, w_w, corner // T * 2 + a, corner % T * 2 + 1, K)
        value = tl.interleave(left, right)
        if BIASED:
            value += tl.load(bias + channel, mask=there, other=0.0).to(tl.float32)
        row = 2 * i + a - (T - 1)
        exists = there & (n < batch)[None, :]
        value = value.to(y.dtype.element_ty)
        if ADDED:
            also, _ = _load(
                add, channel * add_c + (n.to(tl.int64) * add_n)[None, :], row, column, y_height, y_width, exists, add_h, add_w
            )  # fmt: skip
            value = (also + value.to(tl.float32)).to(y.dtype.element_ty)
        place = n.to(tl.int64) * y_n + row.to(tl.int64) * y_h + column.to(tl.int64) * y_w
        inside = exists & (is_below(row, y_height) & is_below(column, y_width))[None, :]
        tl.store(y + channel * y_c + place[None, :], value, mask=inside)


@triton.jit
def input_gradient_depthwise(
    dy,
    w,
    dx,
    batch,
    height,
    width,
    y_height,
    y_width,
    channels,
    channel_blocks,
    w_c,
    w_h,
    w_w,
    y_n,
    y_c,
    y_h,
    y_w,
    x_n,
    x_c,
    x_h,
    x_w,
    M: tl.constexpr,
    CB: tl.constexpr,
    K: tl.constexpr,
):
    """dx, for the grid (tiles of M pixels * channel blocks,)."""
    PADDING: tl.constexpr = 0 if K == 2 else 1
    tile, c = tl.program_id(0) // channel_blocks, tl.program_id(0) % channel_blocks * CB + tl.arange(0, CB)
    n, i, j = _place(tile * M + tl.arange(0, M), height, width)
    there, channel = (c < channels)[:, None], c.to(tl.int64)[:, None]
    exists = there & (n < batch)[None, :]
    at = channel * y_c + (n.to(tl.int64) * y_n)[None, :]
    total = tl.zeros((CB, M), tl.float32)
    for p in tl.static_range(K):
        for q in tl.static_range(K):
            value, _ = _load(dy, at, 2 * i + p - PADDING, 2 * j + q - PADDING, y_height, y_width, exists, y_h, y_w)
            total = _add_tap(total, value, w + channel * w_c, there, w_h, w_w, p, q, K)
    place = n.to(tl.int64) * x_n + i.to(tl.int64) * x_h + j.to(tl.int64) * x_w
    tl.store(dx + channel * x_c + place[None, :], total.to(dx.dtype.element_ty), mask=exists)


@triton.jit
def weight_gradient_depthwise(
    x,
    dy,
    partial,
    splits,
    batch,
    height,
    width,
    y_height,
    y_width,
    channels,
    channel_blocks,
    x_n,
    x_c,
    x_h,
    x_w,
    y_n,
    y_c,
    y_h,
    y_w,
    M: tl.constexpr,
    CB: tl.constexpr,
    K: tl.constexpr,
):
    """Sums over ranges of the pixels, for the grid (channel blocks * splits,).

    Args:
        partial: [splits, K * K + 1, C] in float32: the taps' sums, and that of dy.
    """
    PADDING: tl.constexpr = 0 if K == 2 else 1
    split, c = tl.program_id(0) // channel_blocks, tl.program_id(0) % channel_blocks * CB + tl.arange(0, CB)
    there, channel = (c < channels)[:, None], c.to(tl.int64)[:, None]
    tiles = tl.cdiv(batch * height * width, M)
    size = tl.cdiv(tiles, splits)
    begin = split * size
    end = tl.minimum(begin + size, tiles)
    sums = ()
    for _ in tl.static_range(K * K + 1):
        sums += (tl.zeros((CB, M), tl.float32),)
    for tile in range(begin, end):
        n, i, j = _place(tile * M + tl.arange(0, M), height, width)
        exists = there & (n < batch)[None, :]
        left, _inside = _load(x, channel * x_c + (n.to(tl.int64) * x_n)[None, :], i, j, height, width, exists, x_h, x_w)
        at = channel * y_c + (n.to(tl.int64) * y_n)[None, :]
        of_bias = sums[K * K]
        added = ()
        for p in tl.static_range(K):
            for q in tl.static_range(K):
                right, met = _load(dy, at, 2 * i + p - PADDING, 2 * j + q - PADDING, y_height, y_width, exists, y_h, y_w)
                # Zero outside of dy, which times nan is nan.
                added += (sums[p * K + q] + tl.where(met, left * right, 0.0),)
                if (p >= PADDING) & (p < PADDING + 2) & (q >= PADDING) & (q < PADDING + 2):
                    of_bias += right  # each output once
        sums = added + (of_bias,)  # noqa: RUF005
    row = partial + tl.cast(split, tl.int64) * (K * K + 1) * channels + c
    for tap in tl.static_range(K * K + 1):
        tl.store(row + tap * channels, tl.sum(sums[tap], 1), mask=c < channels)
