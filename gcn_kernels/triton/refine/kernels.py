"""y = x + conv2(u), u = relu(conv1(x)), and its gradients: one launch each way, with everything between inside of a program.

    g  = conv2 transposed, of dy           dw2[c, m, tap] = sum_p  u[m, p + tap] dy[c, p]
    dz = g where not u <= 0, else 0        dw1[m, c, tap] = sum_p  x[c, p + tap] dz[m, p]
    dx = dy + conv1 transposed, of dz      db1[m] = sum_p dz[m, p]

**The design.** A program takes one tile of R x Q pixels after the other. It copies x (and dy) with a border of two pixels to a
scratch of its own in global memory, computes u (and dz) with a border of one pixel into the same scratch, and from these the
tile's results (tile.py: areas and what is done with them). The scratch of all programs together (34 MB forward in 16 bits on 132
multiprocessors) stays in L2, and most of a program's part (64 KB) in its multiprocessor's L1: nothing between the two
convolutions goes to device memory. A barrier of the program stands between what is written and what reads it.

Gradients of weights are added up tile by tile in a program's own sums in float32; ``finish`` adds those of the programs in a
fixed order. Nothing is added atomically: the same call gives the same bits on the same GPU.

**What else there is, and why not** (16 x 21 x 512 x 512 in 16 bits; 176 MB a map; an H200 reads or writes 4.2 TB/s).

* Two launches, u a whole map in device memory: x read twice, u written and read with 24 channels, y written: 930 MB, 222 us,
  against 352 MB, 84 us. Backward, with u and dz as maps: 1.7 GB against 0.53 GB. And it reads x nine times, element by element:
  21 channels are no whole vector. The scratch has 24, so that all that the taps see comes in vectors of 16 bytes.
* u computed again for each tap that looks at it: nine times the first convolution, 0.3 T multiply-adds more.
* A march down the map with rows of the results held in registers, three taps for every value read: a third of the reads, but
  only a quarter fewer bytes through L1 and shared memory (1.5 KB a pixel and convolution), as tensor cores still take every
  factor from there; and nothing for more than 32 channels, whose sums do not fit.
* Asynchronous copies of what the taps see: they pass L1 by, 4 GB out of L2, 0.7 ms.

**Cost of the design at these sizes, 512 pixels a tile.** Bytes of device memory: 352 MB forward, 528 MB backward, 84 and 126 us.
The borders make it 1.41 times the copies and 1.25 times the first convolution. Multiply-adds, with K = 216 as 256 and N = 21 as
32: 34 G a convolution, 77 G forward, 190 G backward; 0.16 and 0.4 ms of an H100's tensor cores at their peak. Bytes a pixel and
convolution through L1 and shared memory: 432 out of L1, 512 into shared memory and 512 out of it, and half a kilobyte for the
weights: 19 GB forward and 48 GB backward, at 128 bytes a clock and multiprocessor **0.6 and 1.6 ms: bound by L1 and shared
memory**. The programs' sums add 0.9 GB through L2 backward. Nothing here was measured.
"""

import triton
import triton.language as tl

from gcn_kernels.triton.refine.tile import add_pixels, add_products, convolve, copy, nth, origin, places


@triton.jit
def pack(
    w, out, inputs, outputs, w_i, w_o, w_h, w_w,
    PITCH: tl.constexpr, COLUMNS: tl.constexpr, FLIPPED: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """A weight as the matrix that ``convolve`` takes, [(tap, input), output], R rows a program; the rest is zero.

    ``FLIPPED``: taps in reverse order, which with inputs and outputs exchanged makes a convolution its transpose.
    """
    row, o = tl.program_id(0) * R + tl.arange(0, R), tl.arange(0, COLUMNS)
    tap, i = row // PITCH, row % PITCH
    at = 8 - tap if FLIPPED else tap
    source = w + (at // 3 * w_h + at % 3 * w_w + i.to(tl.int64) * w_i)[:, None] + (o.to(tl.int64) * w_o)[None, :]
    value = tl.load(source, mask=((tap < 9) & (i < inputs))[:, None] & (o < outputs)[None, :], other=0.0)
    tl.store(out + row[:, None] * COLUMNS + o[None, :], value)


@triton.jit
def _middle(
    x_area, u_area, w1, b1, i, j, height, width, middle,
    R: tl.constexpr, Q: tl.constexpr, CP: tl.constexpr, MP: tl.constexpr, M_COLUMNS: tl.constexpr,
    P: tl.constexpr, N: tl.constexpr, K: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """u = relu(conv1(x) + b1), margin 1. The second convolution pads u with zeros: outside of the map it is none of conv1's."""
    for start in range(0, (R + 2) * (Q + 2), P):
        place, there, inside, _, _ = places(start, i, j, height, width, 1, R, Q, P)
        for first in range(0, MP, N):
            m = first + tl.arange(0, N)
            total = convolve(x_area, w1, place, there, first, 1, Q, CP, M_COLUMNS, P, N, K, PRECISION)
            if BIASED:
                total += tl.load(b1 + m, mask=m < middle, other=0.0).to(tl.float32)[None, :]
            u = tl.where(total <= 0, 0.0, total)  # nan stays
            u = tl.where(inside[:, None] & (m < middle)[None, :], u, 0.0)
            to = u_area + place[:, None] * MP + m[None, :]
            tl.store(to, u.to(u_area.dtype.element_ty), mask=there[:, None] & (m < MP)[None, :])


@triton.jit
def _masked_gradient(
    y_area, u_area, z_area, w2, i, j, height, width,
    R: tl.constexpr, Q: tl.constexpr, CP: tl.constexpr, MP: tl.constexpr, M_COLUMNS: tl.constexpr,
    P: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dz, margin 1, from dy and u."""
    for start in range(0, (R + 2) * (Q + 2), P):
        place, there, _, _, _ = places(start, i, j, height, width, 1, R, Q, P)
        for first in range(0, MP, N):
            m = first + tl.arange(0, N)
            g = convolve(y_area, w2, place, there, first, 1, Q, CP, M_COLUMNS, P, N, K, PRECISION)
            at, mask = place[:, None] * MP + m[None, :], there[:, None] & (m < MP)[None, :]
            u = tl.load(u_area + at, mask=mask, other=0.0).to(tl.float32)
            # Where u is nan, the gradient goes through, as PyTorch's does; beyond the map and the channels u is zero.
            dz = tl.where(u <= 0, 0.0, g)
            tl.store(z_area + at, dz.to(z_area.dtype.element_ty), mask=mask)


@triton.jit
def _result(
    area, middle_area, w, bias, y, n, i, j, height, width, channels, y_n, y_c, y_h, y_w,
    R: tl.constexpr, Q: tl.constexpr, CP: tl.constexpr, MP: tl.constexpr, C_COLUMNS: tl.constexpr,
    P: tl.constexpr, N: tl.constexpr, K: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The tile's pixels of y (or dx): what ``area`` (x, dy) has there, plus the convolution of ``middle_area`` (u, dz)."""
    for start in range(0, R * Q, P):
        place, there, inside, row, column = places(start, i, j, height, width, 0, R, Q, P)
        pixel = y + tl.cast(n, tl.int64) * y_n + (row.to(tl.int64) * y_h + column.to(tl.int64) * y_w)
        for first in range(0, CP, N):
            c = first + tl.arange(0, N)
            total = convolve(middle_area, w, place, there, first, 0, Q, MP, C_COLUMNS, P, N, K, PRECISION)
            if BIASED:
                total += tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
            own = area + (nth(place, 0, 2, Q) * CP)[:, None] + c[None, :]
            total += tl.load(own, mask=(c < CP)[None, :], other=0.0).to(tl.float32)
            target = pixel[:, None] + (c.to(tl.int64) * y_c)[None, :]
            tl.store(target, total.to(y.dtype.element_ty), mask=inside[:, None] & (c < channels)[None, :])


@triton.jit
def refine(
    x, w1, w2, b1, b2, y, scratch, height, width, channels, middle, tiles,
    x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w,
    R: tl.constexpr, Q: tl.constexpr, CP: tl.constexpr, MP: tl.constexpr, C_COLUMNS: tl.constexpr, M_COLUMNS: tl.constexpr,
    P: tl.constexpr, N: tl.constexpr, K: tl.constexpr, BIASED1: tl.constexpr, BIASED2: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y; a program takes every so many tiles.

    Args:
        x: [N, C, H, W] with strides ``x_n, x_c, x_h, x_w``.
        w1: packed, [9 * CP rounded up to K, M_COLUMNS].
        w2: packed, [9 * MP rounded up to K, C_COLUMNS].
        b1: [M], not read unless ``BIASED1``.
        b2: [C], not read unless ``BIASED2``.
        y: [N, C, H, W] with strides ``y_n, y_c, y_h, y_w``.
        scratch: for each program an area of x and one of u.
        tiles: of all images.
        R, Q: rows and columns of a tile.
        CP, MP: channels and middle channels, rounded up to a multiple of 8.
        P, N, K: of one product: places, columns and depth.
    """
    X: tl.constexpr = (R + 4) * (Q + 4) * CP
    U: tl.constexpr = (R + 2) * (Q + 2) * MP
    x_area = scratch + tl.program_id(0).to(tl.int64) * (X + U)
    u_area = x_area + X
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=1):
        n, i, j = origin(tile, height, width, R, Q)
        tl.debug_barrier()  # the tile before has been read
        copy(x, x_area, n, i, j, height, width, channels, x_n, x_c, x_h, x_w, R, Q, CP, P, N)
        tl.debug_barrier()  # x has been written
        _middle(x_area, u_area, w1, b1, i, j, height, width, middle, R, Q, CP, MP, M_COLUMNS, P, N, K, BIASED1, PRECISION)
        tl.debug_barrier()  # u has been written
        _result(
            x_area, u_area, w2, b2, y, n, i, j, height, width, channels, y_n, y_c, y_h, y_w,
            R, Q, CP, MP, C_COLUMNS, P, N, K, BIASED2, PRECISION,
        )  # fmt: skip


@triton.jit
def gradients(
    dy, x, w1, w2_flipped, w1_flipped, b1, dx, partial1, partial2, partial_b, scratch, height, width, channels, middle, tiles,
    y_n, y_c, y_h, y_w, x_n, x_c, x_h, x_w, d_n, d_c, d_h, d_w,
    R: tl.constexpr, Q: tl.constexpr, CP: tl.constexpr, MP: tl.constexpr, C_COLUMNS: tl.constexpr, M_COLUMNS: tl.constexpr,
    P: tl.constexpr, N: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, S: tl.constexpr,
    BIASED1: tl.constexpr, DX: tl.constexpr, DW1: tl.constexpr, DW2: tl.constexpr, DB1: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dx, and every program's sums for the gradients of w1, w2 and b1, those that are asked for.

    Args:
        w1: packed, as for ``refine``.
        w2_flipped: packed, from channels to middle channels, [9 * CP rounded up to K, M_COLUMNS].
        w1_flipped: packed, from middle channels to channels, [9 * MP rounded up to K, C_COLUMNS].
        partial1: [programs, 9 * CP, M_COLUMNS] in float32.
        partial2: [programs, 9 * MP, C_COLUMNS] in float32.
        partial_b: [programs, MP] in float32.
        scratch: for each program areas of x, dy, u and dz.
        ROWS, S: of a product of ``add_products``: rows of the result, and pixels of a step.
    """
    X: tl.constexpr = (R + 4) * (Q + 4) * CP
    U: tl.constexpr = (R + 2) * (Q + 2) * MP
    program = tl.program_id(0).to(tl.int64)
    x_area = scratch + program * (2 * X + 2 * U)
    y_area = x_area + X
    u_area = y_area + X
    z_area = u_area + U
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=1):
        n, i, j = origin(tile, height, width, R, Q)
        earlier = tl.where(tile < tl.num_programs(0), 0, 1)  # tiles of this program
        tl.debug_barrier()  # the tile before has been read
        copy(x, x_area, n, i, j, height, width, channels, x_n, x_c, x_h, x_w, R, Q, CP, P, N)
        copy(dy, y_area, n, i, j, height, width, channels, y_n, y_c, y_h, y_w, R, Q, CP, P, N)
        tl.debug_barrier()  # x and dy have been written
        _middle(x_area, u_area, w1, b1, i, j, height, width, middle, R, Q, CP, MP, M_COLUMNS, P, N, K, BIASED1, PRECISION)
        tl.debug_barrier()  # u has been written
        if DW2:
            add_products(
                partial2 + program * (9 * MP * C_COLUMNS), u_area, y_area, i, j, height, width, earlier,
                1, 2, R, Q, MP, CP, C_COLUMNS, S, ROWS, N, PRECISION,
            )  # fmt: skip
        if DX or DW1 or DB1:
            _masked_gradient(y_area, u_area, z_area, w2_flipped, i, j, height, width, R, Q, CP, MP, M_COLUMNS, P, N, K, PRECISION)
            tl.debug_barrier()  # dz has been written
        if DX:
            _result(
                y_area, z_area, w1_flipped, b1, dx, n, i, j, height, width, channels, d_n, d_c, d_h, d_w,
                R, Q, CP, MP, C_COLUMNS, P, N, K, False, PRECISION,
            )  # fmt: skip
        if DW1:
            add_products(
                partial1 + program * (9 * CP * M_COLUMNS), x_area, z_area, i, j, height, width, earlier,
                2, 1, R, Q, CP, MP, M_COLUMNS, S, ROWS, N, PRECISION,
            )  # fmt: skip
        if DB1:
            add_pixels(partial_b + program * MP, z_area, earlier, 1, R, Q, MP, S, N)


@triton.jit
def finish(
    partial, dw, programs, inputs, outputs, w_i, w_o, w_h, w_w,
    PITCH: tl.constexpr, COLUMNS: tl.constexpr, S: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """dw from the sums of the programs, for the grid (9 * inputs, COLUMNS / N), S programs at a time in a fixed order."""
    tap, i = tl.program_id(0) // inputs, tl.program_id(0) % inputs
    row, o = tap * PITCH + i, tl.program_id(1) * N + tl.arange(0, N)
    total = tl.zeros((S, N), tl.float32)
    for first in range(0, programs, S):
        program = first + tl.arange(0, S)
        source = partial + (program.to(tl.int64) * (9 * PITCH * COLUMNS) + row * COLUMNS)[:, None] + o[None, :]
        mask = (program < programs)[:, None] & (o < outputs)[None, :]
        total += tl.load(source, mask=mask, other=0.0)
    target = dw + tl.cast(i, tl.int64) * w_i + tap // 3 * w_h + tap % 3 * w_w + o.to(tl.int64) * w_o
    tl.store(target, tl.sum(total, 0).to(dw.dtype.element_ty), mask=o < outputs)
