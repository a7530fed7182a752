"""One wide map to two narrow ones: the first stage (x -> u_l, u_r), and in the backward pass dy -> du_r, du_l.

    out_v[q, m] = b_v[m] + sum_t sum_c x[q + (t - r) along H, c] w_v[t, m, c]        r = k // 2
    out_h[q, m] = b_h[m] + sum_t sum_c x[q + (t - r) along W, c] w_h[t, m, c]

Why not one product per tap: the M columns of a tap are few (21 in the paper), so each loaded x tile would feed M columns only.
Here G neighbouring taps are G * M columns of *one* product (63 of 64 at M = 21, G = 3), moved against each other on the
*output* side. With t = a * G + b, a < k // G,

    T[s, (b, m)] = sum_a sum_c x[s + a * G - r, c] w[a * G + b, m, c]        out[q, m] = sum_b T[q + b, (b, m)]

so x is read k // G times instead of k times, and T lives in registers: its G shifted parts are added through one
``tl.gather``. T is never stored, and k does not limit G * M. Taps that are left over when G does not divide k are taken one
by one, in a product of their own: a zero column in T would turn an infinity outside the receptive field into nan.

Who owns what: a program computes P rows of T (positions s along the lines of one branch) for one branch, one range of
channels. A line of L pixels has L + G - 1 positions; lines follow each other without gaps, and INNER neighbouring lines are
interleaved, so that NCHW memory is read along W in both branches. Tiles overlap by the (G - 1) * INNER rows whose sums would
need the next tile, so no partial sum ever leaves a program. Branches alternate in the grid: both read the same part of x
while it is in L2, and the taps are the inner loop for the same reason.

Cost per pixel and branch, in the table's configuration (P = 128, N = 64) at k = 15, M = 21: 5 products of 64 columns where
15 * 21 = 315 are useful (98 %), times (L + 2) / L positions, times 128 / 126 for the overlap; bytes from L2 per step of BK
channels: (P + N) * BK elements for P * N * BK multiply-adds, that is 24 KB for 256 clocks of an H100's matrix units at
BK = 64 in 16 bits: 96 B per clock where L2 gives 40-60. **Bound by L2 bandwidth**, at about half of the matrix rate; the gather
moves 32 KB through shared memory per tile, about 10 % at C = 256. :mod:`gcn_kernels.triton.cost` has the numbers.
"""

import triton
import triton.language as tl

from gcn_kernels.triton.product import add_product


@triton.jit
def _load_map(base, shift, first, axis, exists, channel, channels, x_axis, x_c):
    """Rows of x at ``first + shift`` on their lines, zero outside the map: [P, BK]."""
    at = first + shift
    inside = exists & (at >= 0) & (at < axis)
    pointers = (base + tl.cast(shift, tl.int64) * x_axis)[:, None] + (channel.to(tl.int64) * x_c)[None, :]
    return tl.load(pointers, mask=inside[:, None] & (channel < channels)[None, :], other=0.0)


@triton.jit
def _load_weights(w, first_row, column, columns, channel, pitch_w):
    """Rows ``first_row + column`` of the packed weights as columns: [BK, len(column)]."""
    row = tl.cast(first_row, tl.int64) + column
    return tl.load(w + (row * pitch_w)[None, :] + channel[:, None], mask=(column < columns)[None, :], other=0.0)


@triton.jit
def _sum_shifted(
    t, mid, P: tl.constexpr, N: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, MP: tl.constexpr, INNER: tl.constexpr
):
    """out[q, m] = sum_b t[q + b * INNER, b * mid + m]: [P, N] -> [P, MP]; rows whose sum leaves the tile are not meant."""
    element = tl.arange(0, P * GP * MP)
    row, b, m = element // (GP * MP), element // MP % GP, element % MP
    source = row + b * INNER
    there = (source < P) & (b < G) & (m < mid)
    moved = tl.gather(tl.reshape(t, (P * N,)), tl.where(there, source * N + b * mid + m, 0), 0)
    return tl.sum(tl.reshape(tl.where(there, moved, 0.0), (P, GP, MP)), 1)


@triton.jit
def _branch(
    x,
    w,
    bias,
    out,
    tile,
    first_mid,
    split,
    splits,
    batch,
    axis,
    across,
    channels,
    mid,
    taps,
    chunks,
    pitch_w,
    x_n,
    x_c,
    x_axis,
    x_across,
    out_axis,
    out_across,
    G: tl.constexpr,
    GP: tl.constexpr,
    LEFT_OVER: tl.constexpr,
    INNER: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    MP: tl.constexpr,
    BK: tl.constexpr,
    BIASED: tl.constexpr,
    PARTIAL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of one branch; lines run along ``axis`` and lie beside each other along ``across``."""
    OVERLAP: tl.constexpr = (G - 1) * INNER
    positions = axis + G - 1
    line_groups = tl.cdiv(across, INNER)
    row = tl.arange(0, P)
    place = tile * (P - OVERLAP) + row
    s = place // INNER % positions
    group = place // INNER // positions
    line = group % line_groups * INNER + place % INNER
    n = group // line_groups
    exists = (n < batch) & (line < across)
    first = s - taps // 2
    base = x + n.to(tl.int64) * x_n + line.to(tl.int64) * x_across + first.to(tl.int64) * x_axis

    # This split's channels.
    c = tl.arange(0, BK)
    blocks = tl.cdiv(tl.cdiv(channels, BK), splits)
    begin = split * blocks * BK
    blocks = tl.maximum(tl.minimum(tl.cdiv(channels - begin, BK), blocks), 0)

    # With G == 1 every tap is one that is left over. A pipelined loop computes addresses ahead, also when it has no step:
    # hence no division by zero.
    grouped = taps // G if G > 1 else 0
    left = taps - grouped * G
    m = first_mid + tl.arange(0, MP)
    total = tl.zeros((P, MP), tl.float32)
    if LEFT_OVER:
        each = tl.maximum(left, 1)
        for step in range(blocks * left):
            tap = grouped * G + step % each
            channel = begin + step // each * BK + c
            x_tile = _load_map(base, tap, first, axis, exists, channel, channels, x_axis, x_c)
            w_tile = _load_weights(w, tap * mid, m, mid, channel, pitch_w)
            total = add_product(x_tile, w_tile, total, PRECISION)
    if G > 1:
        t = tl.zeros((P, N), tl.float32)
        each = tl.maximum(grouped, 1)
        for step in range(blocks * grouped):
            tap = step % each * G
            channel = begin + step // each * BK + c
            x_tile = _load_map(base, tap, first, axis, exists, channel, channels, x_axis, x_c)
            w_tile = _load_weights(w, tap * mid, tl.arange(0, N), G * mid, channel, pitch_w)
            t = add_product(x_tile, w_tile, t, PRECISION)
        total += _sum_shifted(t, mid, P, N, G, GP, MP, INNER)

    if BIASED:
        total += tl.load(bias + m, mask=m < mid, other=0.0).to(tl.float32)[None, :]
    # Channels that only fill up the pitch are exactly zero, whatever x holds.
    total = tl.where((m < mid)[None, :], total, 0.0)
    pixel = n.to(tl.int64) * axis * across + s * out_axis + line * out_across
    if PARTIAL:
        pixel += tl.cast(split, tl.int64) * batch * axis * across
    complete = exists & (s < axis) & (row < P - OVERLAP)
    pitch = chunks * 8
    tl.store(
        out + (pixel * pitch)[:, None] + m[None, :],
        total.to(out.dtype.element_ty),
        mask=complete[:, None] & (m < pitch)[None, :],
    )


@triton.jit
def fork(
    x,
    w_v,
    w_h,
    b_v,
    b_h,
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
    pitch_w,
    x_n,
    x_c,
    x_h,
    x_w,
    G: tl.constexpr,
    GP: tl.constexpr,
    LEFT_OVER: tl.constexpr,
    INNER: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    MP: tl.constexpr,
    BK: tl.constexpr,
    BIASED_V: tl.constexpr,
    BIASED_H: tl.constexpr,
    PARTIAL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Both branches, for the grid (2 * tiles, blocks of MP middle channels, splits of the channels).

    Args:
        x: [N, C, H, W] with strides ``x_n, x_c, x_h, x_w``.
        w_v: packed weights of the branch along H, [taps * mid, pitch_w], C padded with zeros to pitch_w; ``w_h`` along W.
        b_v: [mid], not read unless ``BIASED_V``.
        out_v: [N, H, W, 8 * chunks] in the type of x, or, if ``PARTIAL``, [splits, N, H, W, 8 * chunks] in float32, without bias.
        GP: the power of two from G on.
        LEFT_OVER: whether G leaves taps over in either branch.
        INNER: neighbouring lines along H that are interleaved: 1 where channels are contiguous.
    """
    tile = tl.program_id(0) // 2
    first_mid = tl.program_id(1) * MP
    split = tl.program_id(2)
    if tl.program_id(0) % 2 == 0:
        if tile < tiles_v:
            _branch(
                x, w_v, b_v, out_v, tile, first_mid, split, splits, batch, height, width, channels, mid_v, taps_v, chunks_v,
                pitch_w, x_n, x_c, x_h, x_w, width, 1,
                G, GP, LEFT_OVER, INNER, P, N, MP, BK, BIASED_V, PARTIAL, PRECISION,
            )  # fmt: skip
    else:
        if tile < tiles_h:
            _branch(
                x, w_h, b_h, out_h, tile, first_mid, split, splits, batch, width, height, channels, mid_h, taps_h, chunks_h,
                pitch_w, x_n, x_c, x_w, x_h, 1, width,
                G, GP, LEFT_OVER, 1, P, N, MP, BK, BIASED_H, PARTIAL, PRECISION,
            )  # fmt: skip
