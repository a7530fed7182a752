"""The small kernels around the products: packing weights, and adding partial sums in a fixed order.

The packed form of both convolutions of a stage is [taps * M, pitch]: row (t, m), the wide channels (C or O) contiguous and
padded with zeros to ``pitch``, a multiple of 64. Where a convolution's weight lies as [M, C, k, 1] or [O, M, 1, k], every
factor that the products read is a strided one, 2 bytes out of 32; packed once, it is read in full lines by every program.
Programs go along the taps first, where weights lie one after the other. 0.3 MB (res-2) to 2.6 MB (res-5) read and written:
bound by the launch. The backward pass packs with its taps in reverse, which is what turns each convolution into its transpose.
"""

import triton
import triton.language as tl


@triton.jit
def _pack(w, out, taps, mid, wide, pitch, w_tap, w_mid, w_wide, REVERSED: tl.constexpr, R: tl.constexpr, N: tl.constexpr):
    row = tl.program_id(0) * R + tl.arange(0, R)
    c = tl.program_id(1) * N + tl.arange(0, N)
    m, tap = row // taps, row % taps
    source = taps - 1 - tap if REVERSED else tap
    there = m < mid
    pointers = (w + source.to(tl.int64) * w_tap + m.to(tl.int64) * w_mid)[:, None] + (c.to(tl.int64) * w_wide)[None, :]
    value = tl.load(pointers, mask=there[:, None] & (c < wide)[None, :], other=0.0)
    target = tap.to(tl.int64) * mid + m
    tl.store(out + (target * pitch)[:, None] + c[None, :], value, mask=there[:, None] & (c < pitch)[None, :])


@triton.jit
def pack(
    w_v,
    w_h,
    out_v,
    out_h,
    wide,
    pitch,
    taps_v,
    taps_h,
    mid_v,
    mid_h,
    v_tap,
    v_mid,
    v_wide,
    h_tap,
    h_mid,
    h_wide,
    REVERSED: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
):
    """Pack the weights of both branches, for the grid (row tiles, column tiles, 2)."""
    if tl.program_id(2) == 0:
        _pack(w_v, out_v, taps_v, mid_v, wide, pitch, v_tap, v_mid, v_wide, REVERSED, R, N)
    else:
        _pack(w_h, out_h, taps_h, mid_h, wide, pitch, h_tap, h_mid, h_wide, REVERSED, R, N)


@triton.jit
def _sum(
    partial, bias, out, splits, rows, mid, columns, pitch, last, tap_stride, mid_stride, stride, R: tl.constexpr, N: tl.constexpr,
    BIASED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * R + tl.arange(0, R)
    c = tl.program_id(1) * N + tl.arange(0, N)
    there = (row < rows)[:, None] & (c < columns)[None, :]
    total = tl.zeros((R, N), tl.float32)
    for split in range(splits):
        place = tl.cast(split, tl.int64) * rows + row
        total += tl.load(partial + (place * pitch)[:, None] + c[None, :], mask=there, other=0.0)
    if BIASED:
        total += tl.load(bias + c, mask=c < columns, other=0.0).to(tl.float32)[None, :]
    target = (row // mid).to(tl.int64) * tap_stride + (row % mid).to(tl.int64) * mid_stride
    tl.store(
        out + target[:, None] + (c.to(tl.int64) * stride)[None, :],
        total.to(out.dtype.element_ty),
        mask=(row < rows)[:, None] & (c < last)[None, :],
    )


@triton.jit
def sum_splits(
    partial_v,
    partial_h,
    b_v,
    b_h,
    out_v,
    out_h,
    splits,
    rows_v,
    rows_h,
    mid_v,
    mid_h,
    columns_v,
    columns_h,
    pitch_v,
    pitch_h,
    last_v,
    last_h,
    v_tap,
    v_mid,
    v_stride,
    h_tap,
    h_mid,
    h_stride,
    R: tl.constexpr,
    N: tl.constexpr,
    BIASED_V: tl.constexpr,
    BIASED_H: tl.constexpr,
):
    """Add the splits 0, 1, 2 ... of both branches, for the grid (row tiles, column tiles, 2).

    Args:
        partial_v: [splits, rows_v, pitch_v] in float32, of which the first ``columns_v`` columns count.
        b_v: [columns_v], added to every row if ``BIASED_V``.
        out_v: row (t, m) = (row // mid_v, row % mid_v), column c goes to ``t * v_tap + m * v_mid + c * v_stride``; columns from
            ``columns_v`` to ``last_v`` become zero.
    """
    if tl.program_id(2) == 0:
        _sum(partial_v, b_v, out_v, splits, rows_v, mid_v, columns_v, pitch_v, last_v, v_tap, v_mid, v_stride, R, N, BIASED_V)
    else:
        _sum(partial_h, b_h, out_h, splits, rows_h, mid_h, columns_h, pitch_h, last_h, h_tap, h_mid, h_stride, R, N, BIASED_H)
