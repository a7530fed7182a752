# mypy: disable-error-code="assignment, misc, var-annotated"
"""Depthwise convolutions along the rows of an NCHW map: what ``convolve`` does (see kernels.py), for kernels of several columns.

Neighbours in memory are along the kernel here. A lane has four outputs, a *quad* of a row, and reads the row in quads that
start at multiples of four: where the row's length allows, one load of 8 or 16 bytes. Four taps more need one quad more, and
that is 16 multiply-adds for a load. Quads are taken apart by ``tl.split``, which moves nothing: all four elements lie in one
thread.

The first tap of a kernel of k lies k / 2 columns before an output, which is no multiple of four: the first group begins at
``PHASE`` of its quad, the last one ends after ``REST`` taps.
"""

import triton
import triton.language as tl


@triton.jit
def _load_quad(source, inside, column, width, stride):
    """Four neighbours of a row in each lane, zero outside the map; as four tensors [M] of float32."""
    j = tl.arange(0, 4)[None, :]
    at = column[:, None] + j
    there = inside[:, None] & (at >= 0) & (at < width)
    quad = tl.load(source[:, None] + j.to(tl.int64) * stride, mask=there, other=0.0).to(tl.float32)
    even, odd = tl.split(tl.reshape(quad, (quad.shape[0], 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _add_taps(sums, quads, w, w_column, FROM: tl.constexpr, TO: tl.constexpr):
    """The sums of four outputs with the taps FROM ... TO - 1 of a group, whose first weight is at ``w``, from two quads."""
    added = ()
    weights = ()
    for e in tl.static_range(FROM, TO):
        weights += (tl.load(w + (e - FROM) * tl.cast(w_column, tl.int64)).to(tl.float32),)
    for i in tl.static_range(4):
        total = sums[i]
        for e in tl.static_range(FROM, TO):
            total += quads[i + e] * weights[e - FROM]
        added += (total,)
    return added


@triton.jit
def convolve_rows(
    src,
    w,
    bias,
    addend,
    dst,
    batch,
    height,
    width,
    channels,
    lines,
    d_row,
    quads_before,
    groups,
    w_first,
    w_c,
    w_row,
    w_column,
    src_n,
    src_c,
    src_h,
    src_w,
    addend_n,
    addend_c,
    addend_h,
    addend_w,
    dst_n,
    dst_c,
    dst_h,
    dst_w,
    M: tl.constexpr,
    PHASE: tl.constexpr,
    REST: tl.constexpr,
    BIASED: tl.constexpr,
    ADDED: tl.constexpr,
):
    """dst = [addend +] conv(src) [+ bias], for the grid (tiles of lanes * channels,).

    Args:
        w: kernels of ``lines`` rows, ``d_row`` apart in the map, and ``4 - PHASE + 4 * groups + REST`` columns; the first tap of
            channel c is at ``w_first + c * w_c``.
        quads_before: an output's quad, the one lies that its first tap reads.
    """
    tile, c = tl.program_id(0) // channels, (tl.program_id(0) % channels).to(tl.int64)
    place = tile * M + tl.arange(0, M)
    quads = tl.cdiv(width, 4)
    quad, line = place % quads, place // quads
    row, n = line % height, line // height
    exists = n < batch
    kernel = w + w_first + c * w_c
    column, first = quad * 4, (quad - quads_before) * 4
    image = src + c * src_c + n.to(tl.int64) * src_n + first.to(tl.int64) * src_w
    step = 4 * tl.cast(src_w, tl.int64)
    sums = ()
    for _ in tl.static_range(4):
        sums += (tl.zeros((M,), tl.float32),)
    for k in range(lines):
        at = row + (k - lines // 2) * d_row
        inside = exists & (at >= 0) & (at < height)
        source = image + at.to(tl.int64) * src_h
        weights = kernel + tl.cast(k, tl.int64) * w_row
        left = _load_quad(source, inside, first, width, src_w)
        right = _load_quad(source + step, inside, first + 4, width, src_w)
        sums = _add_taps(sums, left + right, weights, w_column, PHASE, 4)
        weights += (4 - PHASE) * tl.cast(w_column, tl.int64)
        for group in range(groups):
            left = right
            right = _load_quad(source + (group + 2) * step, inside, first + group * 4 + 8, width, src_w)
            sums = _add_taps(sums, left + right, weights + group * 4 * tl.cast(w_column, tl.int64), w_column, 0, 4)
        if REST > 0:
            last = _load_quad(source + (groups + 2) * step, inside, first + groups * 4 + 8, width, src_w)
            sums = _add_taps(sums, right + last, weights + groups * 4 * tl.cast(w_column, tl.int64), w_column, 0, REST)
    even, odd = tl.join(sums[0], sums[2]), tl.join(sums[1], sums[3])
    total = tl.reshape(tl.join(even, odd), (M, 4))
    if BIASED:
        total += tl.load(bias + c).to(tl.float32)
    at = column[:, None] + tl.arange(0, 4)[None, :]
    inside = exists[:, None] & (at < width)
    if ADDED:
        also = addend + c * addend_c + n.to(tl.int64) * addend_n + row.to(tl.int64) * addend_h
        total += tl.load(also[:, None] + at.to(tl.int64) * addend_w, mask=inside, other=0.0).to(tl.float32)
    target = dst + c * dst_c + n.to(tl.int64) * dst_n + row.to(tl.int64) * dst_h
    tl.store(target[:, None] + at.to(tl.int64) * dst_w, total.to(dst.dtype.element_ty), mask=inside)
