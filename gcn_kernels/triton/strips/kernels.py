# mypy: disable-error-code="assignment, var-annotated"
"""Depthwise convolutions of any odd kernel, and the gradients of their weights and biases.

With ``along`` one axis of the map and ``across`` the other, kernels of K x L taps, and zeros outside the map,

    y[n, c, i, j]  =  addend[n, c, i, j] + bias[c] + sum_k,l  src[n, c, i + (k - K/2) da, j + (l - L/2) db] w[c, k, l]
    dw[c, k, l]    =  sum_n,i,j  x[n, c, i + (k - K/2) da, j + (l - L/2) db] g[n, c, i, j]
    db[c]          =  sum_n,i,j  g[n, c, i, j]

and the gradient of src is the first formula with the kernel turned by half a turn.

There is no reduction over channels, so no matrix product; and in Triton no thread can read what another has loaded. What can be
kept in registers is a *window*: R outputs that are ``da`` apart along an axis and T taps along it need R + T - 1 inputs for R T
multiply-adds. Windows, weights and sums are tuples of tensors and their loops are unrolled. Every product is that of a tap that
there is, so a value that is not finite reaches what it reaches in ``conv2d``. T taps are a *group*; kernels of more take several.

Who owns what: a program of ``convolve`` has M lanes and CB channels, and R outputs in each lane. In channels_last maps the
threads' neighbours are channels, which both axes of a map suit alike: ``along`` is the kernel's longer one. In NCHW they are
pixels of a row (CB = 1) and ``along`` is H; kernels of several columns are those of rows.py, but for dilated ones, of which here
every column is a line. ``weight_gradient`` keeps T sums in each lane over a range of the map and writes their totals in
float32, each group of taps in a program of its own; programs that read the same range follow each other, so that it comes from
L2 for all but the first. ``finish`` adds the ranges in a fixed order. Nothing is added atomically: the same call gives the same
bits.

Candidates, by their bytes for MSCA (a 5 x 5, pairs of 7, 11 and 21, a skip) on 16 x 512 x 64 x 64 in 16 bits, forward: a map
is 67 MB, or 134 MB in float32; x and y alone are 134 MB, 32 us at 4.2 TB/s:

* All in one launch with the maps between the steps in shared memory, as csrc/cuda/strips has it: 134 MB. Triton has no
  indices into shared memory. Products with banded matrices on the tensor cores would do it, for 16 bits in NCHW alone, and
  one value that is not finite would fill its whole line.
* A pair in one launch, the map between computed again for every R rows of outputs: (R + k - 1) / R times the products of its
  first step, 1.4 to 2.3 times at R = 16, to save 268 MB, 64 us. It does in channels_last and would be a second kind of kernel
  there; in NCHW the two axes of a pair ask for different lanes.
* **A launch for each convolution, sums fused in, maps between in float32 (chosen)**: 201 MB for the stem, 268 for each of
  the other six, 134 more for each of three addends and 67 less for y in 16 bits: 2.1 GB, 500 us.

Operations of that, by the machine code for sm_90, for each multiply-add: 1.7 instructions in windows of seven taps, 2.5 in
NCHW along W, 4 in the stem. With 132 multiprocessors that issue four a clock of 1.7 GHz: 110 us for the 39 taps along W in NCHW,
120 for the 25 of the stem, 80 for the others. Each launch takes the longer of its bytes and its operations, together about 600
us in either layout: **bound by the maps in float32**. The gradients of the weights take 2.5 instructions along H and in
channels_last, 4 in the stem, and 10 in NCHW along W, where x is read element by element: 450 us, more than the bytes. Nothing
here was measured.
"""

import triton
import triton.language as tl

from gcn_kernels.triton.bounds import is_below


@triton.jit
def _lanes(tile, along, across, d_along, M: tl.constexpr, R: tl.constexpr, ALONG_ROWS: tl.constexpr):
    """Image, first output along and place across of each of a tile's M lanes.

    The R outputs of a lane are ``d_along`` apart. Neighbouring lanes are neighbours in a row of the map: ``ALONG_ROWS`` says
    that rows run along, otherwise they run across.
    """
    place = tile * M + tl.arange(0, M)
    blocks = tl.cdiv(along, R * d_along) * d_along
    if ALONG_ROWS:
        block, line = place % blocks, place // blocks
        n, b = line // across, line % across
    else:
        b, line = place % across, place // across
        n, block = line // blocks, line % blocks
    return n, block // d_along * (R * d_along) + block % d_along, b


@triton.jit
def _load_window(source, inside, a, along, d_along, stride_along, N: tl.constexpr):
    """N values of each lane and channel, from ``a`` on and ``d_along`` apart, zero outside the map; as float32.

    Args:
        source: [M, CB], where the values at ``a`` are.
        inside: [M, CB], the lanes and channels that are there.
        a: [M]
    """
    window = ()
    step = tl.cast(d_along, tl.int64) * stride_along
    size = tl.cast(along, tl.uint32)
    for j in tl.static_range(N):
        there = inside & ((a + j * d_along).to(tl.uint32, bitcast=True) < size)[:, None]
        window += (tl.load(source + j * step, mask=there, other=0.0).to(tl.float32),)
    return window


@triton.jit
def _add_taps(sums, window, w, w_along, there, R: tl.constexpr, T: tl.constexpr):
    """The sums of R outputs with T more taps, whose weights of each channel, [1, CB], lie ``w_along`` apart."""
    weights = ()
    for t in tl.static_range(T):
        weights += (tl.load(w + t * tl.cast(w_along, tl.int64), mask=there, other=0.0).to(tl.float32),)
    added = ()
    for i in tl.static_range(R):
        total = sums[i]
        for t in tl.static_range(T):
            total += window[i + t] * weights[t]
        added += (total,)
    return added


@triton.jit
def convolve(
    src,
    w,
    bias,
    addend,
    dst,
    batch,
    along,
    across,
    channels,
    channel_blocks,
    groups,
    lines,
    d_along,
    d_across,
    w_first,
    w_c,
    w_along,
    w_across,
    src_n,
    src_c,
    src_along,
    src_across,
    addend_n,
    addend_c,
    addend_along,
    addend_across,
    dst_n,
    dst_c,
    dst_along,
    dst_across,
    M: tl.constexpr,
    CB: tl.constexpr,
    R: tl.constexpr,
    T: tl.constexpr,
    REST: tl.constexpr,
    ALONG_ROWS: tl.constexpr,
    BIASED: tl.constexpr,
    ADDED: tl.constexpr,
):
    """dst = [addend +] conv(src) [+ bias], for the grid (tiles of lanes * channel blocks,).

    Args:
        w: kernels of ``groups * T + REST`` taps along and ``lines`` across; the first tap of channel c at ``w_first + c * w_c``.
            Strides that are negative turn a kernel.
        bias: [C], not read unless ``BIASED``.
        addend: not read unless ``ADDED``.
    """
    tile, block = tl.program_id(0) // channel_blocks, tl.program_id(0) % channel_blocks
    n, a, b = _lanes(tile, along, across, d_along, M, R, ALONG_ROWS)
    c = block * CB + tl.arange(0, CB)
    there = (c < channels)[None, :]
    exists = (n < batch)[:, None] & there
    channel = c.to(tl.int64)[None, :]
    kernel = w + w_first + channel * w_c
    taps = groups * T + REST
    first = a - taps // 2 * d_along
    image = src + (n.to(tl.int64) * src_n + first.to(tl.int64) * src_along)[:, None] + channel * src_c
    sums = ()
    for _ in tl.static_range(R):
        sums += (tl.zeros((M, CB), tl.float32),)
    for line in range(lines):
        to = b + (line - lines // 2) * d_across
        inside = exists & is_below(to, across)[:, None]
        source = image + (to.to(tl.int64) * src_across)[:, None]
        weights = kernel + tl.cast(line, tl.int64) * w_across
        for group in range(groups):
            skipped = group * T
            moved = source + tl.cast(skipped, tl.int64) * d_along * src_along
            window = _load_window(moved, inside, first + skipped * d_along, along, d_along, src_along, R + T - 1)
            sums = _add_taps(sums, window, weights + tl.cast(skipped, tl.int64) * w_along, w_along, there, R, T)
        if REST > 0:
            skipped = groups * T
            moved = source + tl.cast(skipped, tl.int64) * d_along * src_along
            window = _load_window(moved, inside, first + skipped * d_along, along, d_along, src_along, R + REST - 1)
            sums = _add_taps(sums, window, weights + tl.cast(skipped, tl.int64) * w_along, w_along, there, R, REST)
    if BIASED:
        value = tl.load(bias + channel, mask=there, other=0.0).to(tl.float32)
        shifted = ()
        for i in tl.static_range(R):
            shifted += (sums[i] + value,)
        sums = shifted
    target = dst + (n.to(tl.int64) * dst_n + a.to(tl.int64) * dst_along + b.to(tl.int64) * dst_across)[:, None] + channel * dst_c
    also = addend + (n.to(tl.int64) * addend_n + a.to(tl.int64) * addend_along + b.to(tl.int64) * addend_across)[:, None]
    also += channel * addend_c
    for i in tl.static_range(R):
        inside = exists & (a + i * d_along < along)[:, None]
        total = sums[i]
        if ADDED:
            step = tl.cast(d_along, tl.int64) * addend_along
            total += tl.load(also + i * step, mask=inside, other=0.0).to(tl.float32)
        step = tl.cast(d_along, tl.int64) * dst_along
        tl.store(target + i * step, total.to(dst.dtype.element_ty), mask=inside)


@triton.jit
def _sum_products(
    x, g, begin, end, c, batch, along, across, channels, taps, lines, first_tap, line, d_along, d_across,
    x_n, x_c, x_along, x_across, g_n, g_c, g_along, g_across,
    M: tl.constexpr, CB: tl.constexpr, R: tl.constexpr, T: tl.constexpr, ALONG_ROWS: tl.constexpr, BIASED: tl.constexpr,
    CONTAIN: tl.constexpr,
):  # fmt: skip
    """T sums of products, and one of g if ``BIASED``, [M, CB] each, over the tiles from ``begin`` to ``end``.

    ``CONTAIN`` leaves products out of which one factor lies outside the map. Elsewhere they are zero, or nan.
    """
    sums = ()
    for _ in tl.static_range(T + 1):
        sums += (tl.zeros((M, CB), tl.float32),)
    channel = c.to(tl.int64)[None, :]
    for tile in range(begin, end):
        n, a, b = _lanes(tile, along, across, d_along, M, R, ALONG_ROWS)
        exists = (n < batch)[:, None] & (c < channels)[None, :]
        image = g + (n.to(tl.int64) * g_n + a.to(tl.int64) * g_along + b.to(tl.int64) * g_across)[:, None] + channel * g_c
        right = _load_window(image, exists, a, along, d_along, g_along, R)
        to = b + (line - lines // 2) * d_across
        first = a + (first_tap - taps // 2) * d_along
        inside = exists & is_below(to, across)[:, None]
        image = x + (n.to(tl.int64) * x_n + first.to(tl.int64) * x_along + to.to(tl.int64) * x_across)[:, None] + channel * x_c
        left = _load_window(image, inside, first, along, d_along, x_along, R + T - 1)
        added = ()
        for t in tl.static_range(T):
            total = sums[t]
            for i in tl.static_range(R):
                if CONTAIN:
                    at, place = a + i * d_along, first + (i + t) * d_along
                    met = inside & ((at < along) & (place >= 0) & (place < along))[:, None]
                    total += tl.where(met, left[i + t] * right[i], 0.0)
                else:
                    total += left[i + t] * right[i]
            added += (total,)
        total = sums[T]
        if BIASED:
            for i in tl.static_range(R):
                total += right[i]
        added += (total,)
        sums = added
    return sums


@triton.jit
def _store_sums(
    sums, partial, split, c, channels, taps, lines, first_tap, line, tap_along, tap_across,
    T: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """Add up the lanes and write the sums of a program; return how many of the taps' are nan."""
    wrong = 0
    row = partial + tl.cast(split, tl.int64) * (taps * lines + 1) * channels + c
    for t in tl.static_range(T):
        total = tl.sum(sums[t], 0)
        tap = (first_tap + t) * tap_along + line * tap_across
        tl.store(row + tap * channels, total, mask=c < tl.where(first_tap + t < taps, channels, 0))
        wrong += tl.sum(tl.where(total == total, 0, 1), 0)
    if BIASED:
        tl.store(row + taps * lines * channels, tl.sum(sums[T], 0), mask=c < tl.where(first_tap + line == 0, channels, 0))
    return wrong


@triton.jit
def weight_gradient(
    x,
    g,
    partial,
    splits,
    batch,
    along,
    across,
    channels,
    channel_blocks,
    jobs,
    taps,
    lines,
    d_along,
    d_across,
    tap_along,
    tap_across,
    x_n,
    x_c,
    x_along,
    x_across,
    g_n,
    g_c,
    g_along,
    g_across,
    M: tl.constexpr,
    CB: tl.constexpr,
    R: tl.constexpr,
    T: tl.constexpr,
    ONE_LINE: tl.constexpr,
    ALONG_ROWS: tl.constexpr,
    BIASED: tl.constexpr,
):
    """Sums over ranges of the map, for the grid (jobs * channel blocks * splits,): a job is a group of T taps.

    Where x or g lies outside the map it is zero, and zero times nan is nan: a value that is not finite would reach taps that
    never met it. Such a sum is itself nan, so a program that finds none has nothing to do; one that does adds up its range again.

    Args:
        partial: [splits, taps * lines + 1, C] in float32, the bias's sum last; tap (k, l) is row
            ``k * tap_along + l * tap_across``.
        lines: of the kernel across; ``ONE_LINE`` says that there is one.
        jobs: from 1, which is enough for the bias, to ``lines * cdiv(taps, T)``.
    """
    job, block = tl.program_id(0) % jobs, tl.program_id(0) // jobs % channel_blocks
    split = tl.program_id(0) // jobs // channel_blocks
    groups = tl.cdiv(taps, T)
    # A constant where it can be: then x is read where g is, across, and in vectors.
    line = 0 if ONE_LINE else job // groups
    first_tap = job % groups * T
    c = block * CB + tl.arange(0, CB)
    tiles = tl.cdiv(batch * across * (tl.cdiv(along, R * d_along) * d_along), M)
    size = tl.cdiv(tiles, splits)
    begin = split * size
    end = tl.minimum(begin + size, tiles)
    sums = _sum_products(
        x, g, begin, end, c, batch, along, across, channels, taps, lines, first_tap, line, d_along, d_across,
        x_n, x_c, x_along, x_across, g_n, g_c, g_along, g_across, M, CB, R, T, ALONG_ROWS, BIASED, False,
    )  # fmt: skip
    wrong = _store_sums(sums, partial, split, c, channels, taps, lines, first_tap, line, tap_along, tap_across, T, BIASED)
    if wrong > 0:
        # Tap by tap: this is rare, and must not cost the loop above its registers.
        for tap in range(first_tap, tl.minimum(first_tap + T, taps)):
            tl.debug_barrier()
            contained = _sum_products(
                x, g, begin, end, c, batch, along, across, channels, taps, lines, tap, line, d_along, d_across,
                x_n, x_c, x_along, x_across, g_n, g_c, g_along, g_across, M, CB, R, 1, ALONG_ROWS, False, True,
            )  # fmt: skip
            _store_sums(contained, partial, split, c, channels, taps, lines, tap, line, tap_along, tap_across, 1, False)


@triton.jit
def finish(
    partial, dw, db, splits, taps, channels, kw, w_c, w_h, w_w,
    S: tl.constexpr, N: tl.constexpr, WEIGHT: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """dw [C, 1, kh, kw] and db [C] from the sums of the splits, S at a time in a fixed order, for the grid (sums / N,).

    ``taps`` are kh * kw; what ``WEIGHT`` or ``BIASED`` does not ask for is not written.
    """
    place = tl.program_id(0) * N + tl.arange(0, N)
    tap, c = place // channels, place % channels
    there = (tap <= taps) if BIASED else (tap < taps)
    if not WEIGHT:
        there = tap == taps
    total = tl.zeros((S, N), tl.float32)
    for first in range(0, splits, S):
        split = first + tl.arange(0, S)
        row = split.to(tl.int64) * ((taps + 1) * channels)
        total += tl.load(partial + row[:, None] + place[None, :], mask=(split < splits)[:, None] & there[None, :], other=0.0)
    value = tl.sum(total, 0)
    if WEIGHT:
        target = dw + c.to(tl.int64) * w_c + (tap // kw).to(tl.int64) * w_h + (tap % kw).to(tl.int64) * w_w
        tl.store(target, value.to(dw.dtype.element_ty), mask=tap < taps)
    if BIASED:
        tl.store(db + c, value.to(db.dtype.element_ty), mask=tap == taps)
