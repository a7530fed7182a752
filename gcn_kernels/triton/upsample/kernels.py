"""The doubling of a map by all channels together, and its gradients, as matrix products over *cells*.

A transposed convolution with a 4 x 4 kernel, stride 2 and padding 1 looks irregular pixel by pixel: each of the four parities of
an output has 4 of the 16 taps. Between the pixels it is regular. Cell (I, J), 0 <= I <= H, 0 <= J <= W, is the corner at which
the pixels (I - 1, J - 1), (I - 1, J), (I, J - 1) and (I, J) of x meet, and the four outputs in rows 2I - 1, 2I and columns
2J - 1, 2J depend on these four pixels and on no others. With t, s, a, b in {0, 1}

    y[o, 2I - 1 + a, 2J - 1 + b]  =  sum_c,t,s  x[c, I - t, J - s] w[c, o, 2t + a, 2s + b]
    dw[c, o, 2t + a, 2s + b]      =  sum_I,J    x[c, I - t, J - s] dy[o, 2I - 1 + a, 2J - 1 + b]
    dx[c, i, j]  =  sum_t,s  sum_a,b,o  dy[o, 2(i + t) - 1 + a, 2(j + s) - 1 + b] w[c, o, 2t + a, 2s + b]

so y is one product, [cells, 4 C] by [4 C, 4 O], without a zero among its taps; dw is the product of the same two matrices over
the cells; and dx takes the cells at the four corners of its pixel. Weights are packed once a call as [4 C, blocks of 4 OB]: row
(t, s, c), column (block of OB outputs, a, b, output), outputs padded with zeros.

Who owns what: a program of ``double`` computes R x Q cells and OB outputs, all four parities, and reads x once (four times from
L1, where the corners lie). In NCHW its results are turned in shared memory, so that rows of the map are written as they lie; the
lateral map is read, and rows and columns are left out, in the same places.
``input_gradient`` reads dy in the same rows. ``weight_gradient`` gives every program a range of cells and writes its sum in
float32; ``finish`` adds the ranges in a fixed order. Nothing is added atomically: the same call gives the same bits.

A kernel of 3 x 3 (padding 1, output_padding 1) is one of 4 x 4 without its last row and column, so corner (t, s) and output
(a, b) have a tap together only where 2t + a < 3 and 2s + b < 3. Elsewhere the packed weight is zero, and zero times nan is nan:
``double`` takes corner by corner and adds the outputs that have a tap, ``input_gradient`` reads those of dy alone, and ``finish``
writes their sums alone. A kernel of 2 x 2 has cells of one corner, the pixel itself, and all its outputs have a tap:

    y[o, 2I + a, 2J + b]  =  sum_c  x[c, I, J] w[c, o, a, b]

Cost at 21 to 21 channels, 16 x 256 x 256 to 512 x 512 in 16 bits: 220 MB for y and as much for dx, so 52 us at 4.2 TB/s each;
17 G multiply-adds with the padding of 21 to 32, about 45 us of an H100's matrix units at their peak. 21 channels are no whole
vector, so elements move one by one, each with its address and mask: ``double`` compiles to about 920 instructions a thread for 32
elements in and 32 out, 130 M instructions of a warp in all, 140 us if every cycle issues one. **Bound by instructions**, 150 to
250 us by estimate; nothing here was measured.
"""

import triton
import triton.language as tl

from gcn_kernels.triton.bounds import is_below
from gcn_kernels.triton.product import add_product


@triton.jit
def _tile(tile, rows, columns, R: tl.constexpr, Q: tl.constexpr):
    """Image, and row and column of the first of a tile's R x Q places, of a map of ``rows`` x ``columns`` places."""
    across, down = tl.cdiv(columns, Q), tl.cdiv(rows, R)
    return tile // across // down, tile // across % down * R, tile % across * Q


@triton.jit
def _load_corners(
    x, n, i, j, corner, first, channels, height, width, x_n, x_c, x_h, x_w,
    R: tl.constexpr, Q: tl.constexpr, CB: tl.constexpr, S: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """S corners from number ``corner`` on, (t, s) = (corner // T, corner % T), of the cells from (i, j) on, channels from
    ``first`` on, zero outside the map; and where they lie inside.

    Returns:
        [R * Q, (corner, CB)]
    """
    T: tl.constexpr = 1 if K == 2 else 2
    m, k = tl.arange(0, R * Q), tl.arange(0, S * CB)
    row, column, c = i + m // Q, j + m % Q, first + k % CB
    t, s = (corner + k // CB) // T, (corner + k // CB) % T
    rows_inside = is_below(row[:, None] - t[None, :], height)
    inside = rows_inside & is_below(column[:, None] - s[None, :], width) & (c < channels)[None, :]
    cell = row.to(tl.int64) * x_h + column.to(tl.int64) * x_w
    pixel = c.to(tl.int64) * x_c - t.to(tl.int64) * x_h - s.to(tl.int64) * x_w
    image = x + tl.cast(n, tl.int64) * x_n
    return tl.load(image + cell[:, None] + pixel[None, :], mask=inside, other=0.0), inside


@triton.jit
def _outputs(
    y, n, i, j, first, outputs, y_height, y_width, y_n, y_c, y_h, y_w,
    R: tl.constexpr, Q: tl.constexpr, OB: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Where the four outputs of the cells from (i, j) on lie in y, outputs from ``first`` on; and whether inside.

    Returns:
        [(a, OB), (cell, b)]: from place to place along a row of y.
    """
    PADDING: tl.constexpr = 0 if K == 2 else 1
    place, k = tl.arange(0, 2 * R * Q), tl.arange(0, 2 * OB)
    row, column = 2 * i - PADDING + place // (2 * Q) * 2, 2 * j - PADDING + place % (2 * Q)
    a, o = k // OB, first + k % OB
    inside = (o < outputs)[:, None] & is_below(column, y_width)[None, :] & is_below(a[:, None] + row[None, :], y_height)
    along = row.to(tl.int64) * y_h + column.to(tl.int64) * y_w
    across = a.to(tl.int64) * y_h + o.to(tl.int64) * y_c
    return y + tl.cast(n, tl.int64) * y_n + across[:, None] + along[None, :], inside


@triton.jit
def _by_cells(t, M: tl.constexpr, OB: tl.constexpr):
    """[(a, OB), (cell, b)] -> [cell, (a, b, OB)]."""
    return tl.reshape(tl.permute(tl.reshape(t, (2, OB, M, 2)), (2, 0, 3, 1)), (M, 4 * OB))


@triton.jit
def _by_rows(t, M: tl.constexpr, OB: tl.constexpr):
    """[cell, (a, b, OB)] -> [(a, OB), (cell, b)]."""
    return tl.reshape(tl.permute(tl.reshape(t, (M, 2, 2, OB)), (1, 3, 0, 2)), (2 * OB, 2 * M))


@triton.jit
def _has_tap(corner, a, b, K: tl.constexpr):
    """Whether a corner of a cell and one of its outputs (a, b) have a tap together."""
    T: tl.constexpr = 1 if K == 2 else 2
    return (corner // T * 2 + a < K) & (corner % T * 2 + b < K)


@triton.jit
def pack(w, out, channels, outputs, pitch, w_c, w_o, w_h, w_w, R: tl.constexpr, OB: tl.constexpr, K: tl.constexpr):
    """Weights [C, O, K, K] as [corners * C, pitch], for the grid (row tiles, blocks of OB outputs)."""
    T: tl.constexpr = 1 if K == 2 else 2
    row, k = tl.program_id(0) * R + tl.arange(0, R), tl.arange(0, 4 * OB)
    corner, c = row // channels, row % channels
    a, b, o = k // (2 * OB), k // OB % 2, tl.program_id(1) * OB + k % OB
    down, right = (corner // T * 2).to(tl.int64), (corner % T * 2).to(tl.int64)
    source = (down * w_h + right * w_w + c.to(tl.int64) * w_c)[:, None]
    source += (a.to(tl.int64) * w_h + b.to(tl.int64) * w_w + o.to(tl.int64) * w_o)[None, :]
    there = (corner < T * T)[:, None]
    taken = there & (o < outputs)[None, :] & _has_tap(corner[:, None], a[None, :], b[None, :], K)
    value = tl.load(w + source, mask=taken, other=0.0)
    tl.store(out + row[:, None] * pitch + (tl.program_id(1) * 4 * OB + k)[None, :], value, mask=there)


@triton.jit
def _products(
    x, w, total, n, i, j, corner, block, channels, blocks, height, width, x_n, x_c, x_h, x_w,
    R: tl.constexpr, Q: tl.constexpr, CB: tl.constexpr, OB: tl.constexpr, S: tl.constexpr, K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """``total`` [cell, (a, b, OB)] and the products of S corners from number ``corner`` on with their weights."""
    k, across = tl.arange(0, S * CB), block * (4 * OB) + tl.arange(0, 4 * OB)
    for first in range(0, channels, CB):
        corners, _ = _load_corners(
            x, n, i, j, corner, first, channels, height, width, x_n, x_c, x_h, x_w, R, Q, CB, S, K
        )  # fmt: skip
        c = first + k % CB
        rows = ((corner + k // CB) * channels + c) * (blocks * 4 * OB)
        weights = tl.load(w + rows[:, None] + across[None, :], mask=(c < channels)[:, None], other=0.0)
        total = add_product(corners, weights, total, PRECISION)
    return total


@triton.jit
def double(
    x,
    w,
    bias,
    add,
    y,
    rows,
    columns,
    height,
    width,
    y_height,
    y_width,
    channels,
    outputs,
    blocks,
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
    R: tl.constexpr,
    Q: tl.constexpr,
    CB: tl.constexpr,
    OB: tl.constexpr,
    K: tl.constexpr,
    BIASED: tl.constexpr,
    ADDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """y, for the grid (tiles of the ``rows`` x ``columns`` cells of each image * blocks of outputs,).

    Args:
        x: [N, C, H, W] with strides ``x_n, x_c, x_h, x_w``.
        w: packed weights, [corners * C, blocks * 4 * OB].
        bias: [O], not read unless ``BIASED``.
        add: [N, O, y_height, y_width] with strides ``add_n, add_c, add_h, add_w``, not read unless ``ADDED``.
        y: the first rows and columns of the result, [N, O, y_height, y_width] with strides ``y_n, y_c, y_h, y_w``.
    """
    tile, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    n, i, j = _tile(tile, rows, columns, R, Q)
    total = tl.zeros((R * Q, 4 * OB), tl.float32)
    k = tl.arange(0, 4 * OB)
    if K == 3:
        for corner in range(4):
            part = _products(
                x, w, tl.zeros_like(total), n, i, j, corner, block, channels, blocks, height, width, x_n, x_c, x_h, x_w,
                R, Q, CB, OB, 1, K, PRECISION,
            )  # fmt: skip
            total += tl.where(_has_tap(corner, k // (2 * OB), k // OB % 2, K)[None, :], part, 0.0)
    else:
        CORNERS: tl.constexpr = 1 if K == 2 else 4
        total = _products(
            x, w, total, n, i, j, 0, block, channels, blocks, height, width, x_n, x_c, x_h, x_w,
            R, Q, CB, OB, CORNERS, K, PRECISION,
        )  # fmt: skip
    if BIASED:
        o = block * OB + k % OB
        total += tl.load(bias + o, mask=o < outputs, other=0.0).to(tl.float32)[None, :]
    value = _by_rows(total.to(y.dtype.element_ty), R * Q, OB)
    if ADDED:
        also, inside = _outputs(add, n, i, j, block * OB, outputs, y_height, y_width, add_n, add_c, add_h, add_w, R, Q, OB, K)
        value = tl.load(also, mask=inside, other=0.0).to(tl.float32) + value.to(tl.float32)
    to, inside = _outputs(y, n, i, j, block * OB, outputs, y_height, y_width, y_n, y_c, y_h, y_w, R, Q, OB, K)
    tl.store(to, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def input_gradient(
    dy,
    w,
    dx,
    height,
    width,
    y_height,
    y_width,
    channels,
    outputs,
    blocks,
    channel_tiles,
    y_n,
    y_c,
    y_h,
    y_w,
    x_n,
    x_c,
    x_h,
    x_w,
    R: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    OB: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dx, for the grid (tiles of pixels * channel tiles,): R x Q pixels and N channels a program."""
    tile, c = tl.program_id(0) // channel_tiles, tl.program_id(0) % channel_tiles * N + tl.arange(0, N)
    n, i, j = _tile(tile, height, width, R, Q)
    T: tl.constexpr = 1 if K == 2 else 2
    total = tl.zeros((R * Q, N), tl.float32)
    for step in range(T * T * blocks):
        block, corner = step // (T * T), step % (T * T)
        down, right = corner // T, corner % T
        source, inside = _outputs(
            dy, n, i + down, j + right, block * OB, outputs, y_height, y_width, y_n, y_c, y_h, y_w, R, Q, OB, K
        )  # fmt: skip
        if K == 3:
            a, b = tl.arange(0, 2 * OB) // OB, tl.arange(0, 2 * R * Q) % 2
            inside = inside & _has_tap(corner, a[:, None], b[None, :], K)
        cells = _by_cells(tl.load(source, mask=inside, other=0.0), R * Q, OB)
        rows = (corner * channels + c) * (blocks * 4 * OB)
        k = block * (4 * OB) + tl.arange(0, 4 * OB)
        weights = tl.load(w + k[:, None] + rows[None, :], mask=(c < channels)[None, :], other=0.0)
        total = add_product(cells, weights, total, PRECISION)
    m = tl.arange(0, R * Q)
    row, column = i + m // Q, j + m % Q
    pixel = row.to(tl.int64) * x_h + column.to(tl.int64) * x_w
    tl.store(
        dx + tl.cast(n, tl.int64) * x_n + pixel[:, None] + (c.to(tl.int64) * x_c)[None, :],
        total.to(dx.dtype.element_ty),
        mask=((row < height) & (column < width))[:, None] & (c < channels)[None, :],
    )


@triton.jit
def _load_factors(
    x, dy, tile, first, first_output, rows, columns, height, width, y_height, y_width, channels, outputs,
    x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w,
    R: tl.constexpr, Q: tl.constexpr, CB: tl.constexpr, OB: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The corners of a tile's cells, [cell, (corner, CB)], and their outputs, [(a, OB), (cell, b)]; and where they lie inside."""
    CORNERS: tl.constexpr = 1 if K == 2 else 4
    n, i, j = _tile(tile, rows, columns, R, Q)
    left, left_inside = _load_corners(
        x, n, i, j, 0, first, channels, height, width, x_n, x_c, x_h, x_w, R, Q, CB, CORNERS, K
    )  # fmt: skip
    source, right_inside = _outputs(dy, n, i, j, first_output, outputs, y_height, y_width, y_n, y_c, y_h, y_w, R, Q, OB, K)
    return left, left_inside, tl.load(source, mask=right_inside, other=0.0), right_inside


@triton.jit
def _target(partial, split, first, channels, block, blocks, CB: tl.constexpr, OB: tl.constexpr, CORNERS: tl.constexpr):
    """Where the sums of a program lie, [(corner, CB), (a, b, OB)], and which there are."""
    k = tl.arange(0, CORNERS * CB)
    c = first + k % CB
    row = (tl.cast(split, tl.int64) * CORNERS + k // CB) * channels + c
    column = block * (4 * OB) + tl.arange(0, 4 * OB)
    return partial + (row * (blocks * 4 * OB))[:, None] + column[None, :], (c < channels)[:, None]


@triton.jit
def _is_finite(t):
    return tl.abs(t.to(tl.float32)) < float("inf")


@triton.jit
def _contain(
    x, dy, partial, begin, end, split, first, block, blocks, rows, columns, height, width, y_height, y_width, channels, outputs,
    x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w,
    R: tl.constexpr, Q: tl.constexpr, CB: tl.constexpr, OB: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The sums over the finite values of the tiles from ``begin`` to ``end``, and nan where a product meets another value."""
    CORNERS: tl.constexpr = 1 if K == 2 else 4
    target, there = _target(partial, split, first, channels, block, blocks, CB, OB, CORNERS)
    total = tl.zeros((CORNERS * CB, 4 * OB), tl.float32)
    for tile in tl.range(begin, end, num_stages=1):
        left, _, right, _ = _load_factors(
            x, dy, tile, first, block * OB, rows, columns, height, width, y_height, y_width, channels, outputs,
            x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w, R, Q, CB, OB, K,
        )  # fmt: skip
        left = tl.where(_is_finite(left), left, tl.zeros_like(left))
        right = tl.where(_is_finite(right), right, tl.zeros_like(right))
        total = add_product(tl.trans(left), _by_cells(right, R * Q, OB), total, PRECISION)
    tl.store(target, total, mask=there)
    tl.debug_barrier()
    met = tl.zeros((CORNERS * CB, 4 * OB), tl.float32)
    for tile in tl.range(begin, end, num_stages=1):
        left, left_inside, right, right_inside = _load_factors(
            x, dy, tile, first, block * OB, rows, columns, height, width, y_height, y_width, channels, outputs,
            x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w, R, Q, CB, OB, K,
        )  # fmt: skip
        # A value that is not finite counts where the other factor is one of the map.
        left_there, right_there = left_inside.to(left.dtype), right_inside.to(right.dtype)
        left = tl.where(_is_finite(left), tl.zeros_like(left), left_there)
        right = tl.where(_is_finite(right), tl.zeros_like(right), right_there)
        met = add_product(tl.trans(left), _by_cells(right_there, R * Q, OB), met, PRECISION)
        met = add_product(tl.trans(left_there), _by_cells(right, R * Q, OB), met, PRECISION)
    tl.store(target, float("nan"), mask=there & (met > 0))


@triton.jit
def weight_gradient(
    x,
    dy,
    partial,
    splits,
    batch,
    rows,
    columns,
    height,
    width,
    y_height,
    y_width,
    channels,
    outputs,
    blocks,
    x_n,
    x_c,
    x_h,
    x_w,
    y_n,
    y_c,
    y_h,
    y_w,
    R: tl.constexpr,
    Q: tl.constexpr,
    CB: tl.constexpr,
    OB: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sums over ranges of cells, for the grid (channel tiles * blocks of outputs * splits,).

    Where a corner or an output lies outside its map its factor is zero, and zero times nan is nan: a nan or infinity would reach
    taps that never met it. Such a sum is itself nan, so a program that finds none has nothing to do. One that does goes over its
    cells twice more, for the sums without those values and to find the taps that meet one.

    Args:
        partial: [splits, corners * C, blocks * 4 * OB] in float32, in the layout of the packed weights.
    """
    CORNERS: tl.constexpr = 1 if K == 2 else 4
    channel_tiles = tl.cdiv(channels, CB)
    first = tl.program_id(0) % channel_tiles * CB
    block = tl.program_id(0) // channel_tiles % blocks
    split = tl.program_id(0) // channel_tiles // blocks
    tiles = batch * tl.cdiv(rows, R) * tl.cdiv(columns, Q)
    size = tl.cdiv(tiles, splits)
    begin = split * size
    end = tl.minimum(begin + size, tiles)
    total = tl.zeros((CORNERS * CB, 4 * OB), tl.float32)
    for tile in range(begin, end):
        left, _, right, _ = _load_factors(
            x, dy, tile, first, block * OB, rows, columns, height, width, y_height, y_width, channels, outputs,
            x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w, R, Q, CB, OB, K,
        )  # fmt: skip
        total = add_product(tl.trans(left), _by_cells(right, R * Q, OB), total, PRECISION)
    target, there = _target(partial, split, first, channels, block, blocks, CB, OB, CORNERS)
    tl.store(target, total, mask=there)
    if tl.max(tl.where(total == total, 0, 1)) > 0:
        # Few channels at a time: this is rare, and must not cost the loop above its registers.
        LEAST: tl.constexpr = 8 if K > 2 else 16
        FEW: tl.constexpr = CB if CB < LEAST else LEAST
        for some in range(first, tl.minimum(first + CB, channels), FEW):
            tl.debug_barrier()
            _contain(
                x, dy, partial, begin, end, split, some, block, blocks, rows, columns, height, width, y_height, y_width,
                channels, outputs, x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w, R, Q, FEW, OB, K, PRECISION,
            )  # fmt: skip


@triton.jit
def finish(
    partial, dw, splits, channels, outputs, pitch, w_c, w_o, w_h, w_w,
    S: tl.constexpr, N: tl.constexpr, OB: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """dw [C, O, K, K] from the sums of the splits, for the grid (corners * C, pitch / N), S splits at a time in a fixed order."""
    T: tl.constexpr = 1 if K == 2 else 2
    row, k = tl.program_id(0), tl.program_id(1) * N + tl.arange(0, N)
    total = tl.zeros((S, N), tl.float32)
    for first in range(0, splits, S):
        split = first + tl.arange(0, S)
        place = (split.to(tl.int64) * (T * T * channels) + row) * pitch
        total += tl.load(partial + place[:, None] + k[None, :], mask=(split < splits)[:, None], other=0.0)
    corner, c = row // channels, row % channels
    a, b, o = k // (2 * OB) % 2, k // OB % 2, k // (4 * OB) * OB + k % OB
    tap = (corner // T * 2 + a) * w_h + (corner % T * 2 + b) * w_w
    target = dw + tl.cast(c, tl.int64) * w_c + tap + o.to(tl.int64) * w_o
    tl.store(target, tl.sum(total, 0).to(dw.dtype.element_ty), mask=(o < outputs) & _has_tap(corner, a, b, K))
