"""The operators ``gcn_kernels::triton_gcn`` and ``::triton_gcn_backward``: the same mathematics as ``gcn_kernels::gcn``.

The middle maps are saved for the backward pass as [N, H, W, 8 * ceil(M / 8)] in the type of x. The second stage multiplies
values of that type anyway, so a wider type would cost twice the bytes and gain nothing; and PyTorch's own convolutions round
them in the same place.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op

from gcn_kernels.triton import device
from gcn_kernels.triton import fork as fork_file
from gcn_kernels.triton import join as join_file
from gcn_kernels.triton import sums as sums_file
from gcn_kernels.triton import weight_gradient as weight_gradient_file
from gcn_kernels.triton.plan import (
    CHUNK,
    MOST_POSITIONS,
    PRICE_OF_CHANNEL_SPLIT,
    Branch,
    Constants,
    Fork,
    Stage,
    cdiv,
    constants,
    larger,
    pixel_splits,
    power_of_two,
    splits,
)

Pair = tuple[Tensor, Tensor]
#: Rows and columns that a program of the small kernels handles.
PACKED_TILE = (32, 64)
SUMMED_TILE = (32, 64)


def forward(
    x: Tensor,
    w_l1: Tensor,
    w_l2: Tensor,
    w_r1: Tensor,
    w_r2: Tensor,
    b_l1: Tensor | None,
    b_l2: Tensor | None,
    b_r1: Tensor | None,
    b_r2: Tensor | None,
    channels_last: bool,
    allow_tf32: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """-> y [N, O, H, W], u_l and u_r [N, H, W, padded M]."""
    _check(x, (w_l1, w_l2, w_r1, w_r2), (b_l1, b_l2, b_r1, b_r2))
    first, second = _stages(x, w_l1, w_l2, w_r1, w_r2, allow_tf32)
    y = _result(x, w_l2, channels_last)
    u_l, u_r = _middle_maps(x, first)
    if y.numel() == 0:
        return y, u_l, u_r
    with device.current(x):
        _fork(x, _pack(w_l1, w_r1, first, False), (b_l1, b_r1), (u_l, u_r), first)
        _join((u_r, u_l), _pack(w_r2, w_l2, second, False), (b_r2, b_l2), y, second)
    return y, u_l, u_r


def backward(
    dy: Tensor,
    x: Tensor,
    u_l: Tensor,
    u_r: Tensor,
    w_l1: Tensor,
    w_l2: Tensor,
    w_r1: Tensor,
    w_r2: Tensor,
    b_l1: Tensor | None,
    b_r1: Tensor | None,
    wanted: int,
    allow_tf32: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """-> the gradients of x, the four weights, the four biases; those that bit i of ``wanted`` does not ask for are empty."""
    _check(x, (w_l1, w_l2, w_r1, w_r2), (b_l1, None, b_r1, None))
    first, second = _stages(x, w_l1, w_l2, w_r1, w_r2, allow_tf32)
    asked = [bool(wanted >> i & 1) for i in range(9)]
    like = [x, w_l1, w_l2, w_r1, w_r2]
    grads = [torch.empty_like(t) if want else x.new_empty(0) for t, want in zip(like, asked[:5], strict=True)]
    d_x, d_l1, d_l2, d_r1, d_r2 = grads
    if dy.numel() == 0:
        biases = [x.new_zeros(w.shape[0]) if want else x.new_empty(0) for w, want in zip(like[1:], asked[5:], strict=True)]
        return d_x, d_l1.zero_(), d_l2.zero_(), d_r1.zero_(), d_r2.zero_(), biases[0], biases[1], biases[2], biases[3]

    du_l, du_r = _middle_maps(x, first)
    with device.current(x):
        if any(asked[i] for i in (0, 1, 3, 5, 7)):
            # Transposed, the left branch's second convolution still runs along W and the right one's along H.
            _fork(dy, _pack(w_r2, w_l2, second, True), (None, None), (du_r, du_l), second)
        if asked[0]:
            _join((du_l, du_r), _pack(w_l1, w_r1, first, True), (None, None), d_x, first)
        if asked[1] or asked[3]:
            _weight_gradient(x, (du_l, du_r), (d_l1, d_r1), (asked[1], asked[3]), -1, first)
        if asked[2] or asked[4]:
            _weight_gradient(dy, (u_r, u_l), (d_r2, d_l2), (asked[4], asked[2]), 1, second)
    d_b_l1, d_b_r1 = (
        _sum_pixels(du, (0, 1, 2), w.shape[0], x, want) for du, w, want in ((du_l, w_l1, asked[5]), (du_r, w_r1, asked[7]))
    )
    d_b_l2, d_b_r2 = (_sum_pixels(dy, (0, 2, 3), dy.shape[1], x, want) for want in (asked[6], asked[8]))
    return d_x, d_l1, d_l2, d_r1, d_r2, d_b_l1, d_b_l2, d_b_r1, d_b_r2


def _stages(x: Tensor, w_l1: Tensor, w_l2: Tensor, w_r1: Tensor, w_r2: Tensor, allow_tf32: bool) -> tuple[Constants, Constants]:
    architecture = device.architecture_of(x.device)
    mid_l, mid_r = int(w_l1.shape[0]), int(w_r1.shape[0])
    first = Stage(Branch(mid_l, int(w_l1.shape[2])), Branch(mid_r, int(w_r1.shape[3])), int(x.shape[1]), False)
    second = Stage(Branch(mid_r, int(w_r2.shape[2])), Branch(mid_l, int(w_l2.shape[3])), int(w_l2.shape[0]), True)
    return constants(first, architecture, x.dtype, allow_tf32), constants(second, architecture, x.dtype, allow_tf32)


def _check(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
    """Keep a direct call of the operators from reading out of bounds; users meet gcn_kernels/gcn/problem.py first."""
    w_l1, w_l2, w_r1, w_r2 = weights
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16) or any(w.dtype != x.dtype for w in weights):
        raise RuntimeError(f"triton_gcn: expected tensors of one dtype, float32, bfloat16 or float16, got {x.dtype}")
    chained = w_l2.shape[1] == w_l1.shape[0] and w_r2.shape[1] == w_r1.shape[0] and w_l2.shape[0] == w_r2.shape[0]
    lines = w_l1.shape[3] == w_l2.shape[2] == w_r1.shape[2] == w_r2.shape[3] == 1
    odd = all(w.shape[2] * w.shape[3] % 2 == 1 for w in weights)
    if x.dim() != 4 or not (chained and lines and odd and x.shape[1] == w_l1.shape[1] == w_r1.shape[1]):
        raise RuntimeError(f"triton_gcn: x {list(x.shape)} and weights {[list(w.shape) for w in weights]} do not form a block")
    for b, w in zip(biases, weights, strict=True):
        if b is not None and (b.shape != w.shape[:1] or b.dtype != x.dtype):
            raise RuntimeError(f"triton_gcn: expected a bias [{w.shape[0]}] of {x.dtype}, got {list(b.shape)} of {b.dtype}")
    if any(t is not None and t.device != x.device for t in (*weights, *biases)):
        raise RuntimeError(f"triton_gcn: expected all tensors on {x.device}")
    positions = x.shape[0] * (x.shape[2] + w_l1.shape[2] + CHUNK) * (x.shape[3] + w_r1.shape[3] + CHUNK)
    if isinstance(positions, int) and positions >= MOST_POSITIONS:
        raise RuntimeError(f"triton_gcn: expected fewer than 2^31 pixels with their borders, got {positions}; split the batch")


def _result(x: Tensor, w_l2: Tensor, channels_last: bool) -> Tensor:
    n, _, h, w = x.shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((n, w_l2.shape[0], h, w), dtype=x.dtype, device=x.device, memory_format=layout)


def _middle_maps(x: Tensor, first: Constants) -> Pair:
    n, _, h, w = x.shape
    v, horizontal = first.stage.v, first.stage.h
    return x.new_empty((n, h, w, v.pitch)), x.new_empty((n, h, w, horizontal.pitch))


def _pack(w_v: Tensor, w_h: Tensor, c: Constants, reverse: bool) -> Pair:
    """Both weights of a stage as [taps * mid, pitch]: see :mod:`gcn_kernels.triton.sums`."""
    stage = c.stage
    packed = w_v.new_empty((stage.v.rows, stage.pitch)), w_v.new_empty((stage.h.rows, stage.pitch))
    rows, columns = PACKED_TILE
    grid = (cdiv(max(stage.v.rows, stage.h.rows), rows), cdiv(stage.pitch, columns), 2)
    strides = (*_weight_strides(w_v, stage, stage.v), *_weight_strides(w_h, stage, stage.h))
    taps_and_mid = (stage.v.taps, stage.h.taps, stage.v.mid, stage.h.mid)
    arguments = (w_v, w_h, *packed, stage.wide, stage.pitch, *taps_and_mid, *strides)
    device.launch(sums_file.pack, grid, arguments, REVERSED=reverse, R=rows, N=columns, num_warps=4)
    return packed


def _weight_strides(w: Tensor, stage: Stage, branch: Branch) -> tuple[int, int, int]:
    """Strides along taps, middle and wide channels."""
    tap = w.stride(2) if w.shape[2] == branch.taps else w.stride(3)
    return (tap, w.stride(1), w.stride(0)) if stage.wide_first else (tap, w.stride(0), w.stride(1))


def _fork(x: Tensor, weights: Pair, biases: tuple[Tensor | None, Tensor | None], out: Pair, c: Constants) -> None:
    """out_v, out_h = both convolutions of ``x`` down to the middle channels; ``v`` first everywhere."""
    n, _, h, w = x.shape
    stage = c.stage
    plan = c.fork(x.stride(1) == 1)
    tiles_v = plan.tiles(n, h, w, plan.inner)
    tiles_h = plan.tiles(n, w, h, 1)
    tiles = larger(tiles_v, tiles_h)
    mid_tiles = cdiv(stage.widest_mid, plan.mid_columns)
    # A traced graph with symbolic sizes is for many of them, where the one launch more would be in vain.
    steps = cdiv(stage.wide, plan.tile.depth)
    programs = (tiles_v + tiles_h) * mid_tiles
    parts = splits(programs, steps, device.multiprocessors(x.device), PRICE_OF_CHANNEL_SPLIT) if isinstance(programs, int) else 1
    partial = parts > 1
    targets = out
    if partial:
        targets = tuple(t.new_empty((parts, *t.shape), dtype=torch.float32) for t in out)  # type: ignore[assignment]
    biased = [b is not None and not partial for b in biases]
    arguments = (
        *(x, *weights, *_or_else(biases, x), *targets, tiles_v, tiles_h, parts, n, h, w, stage.wide),
        *(stage.v.mid, stage.h.mid, stage.v.taps, stage.h.taps, stage.v.chunks, stage.h.chunks, stage.pitch, *x.stride()),
    )
    device.launch(
        fork_file.fork,
        (2 * tiles, mid_tiles, parts),
        arguments,
        **fork_meta(plan, c.precision),
        BIASED_V=biased[0],
        BIASED_H=biased[1],
        PARTIAL=partial,
    )
    if partial:
        pitches = stage.v.pitch, stage.h.pitch
        strides = (pitches[0], 0, 1, pitches[1], 0, 1)
        pixels = n * h * w
        _sum_splits(targets, biases, out, parts, (pixels, pixels), (1, 1), (stage.v.mid, stage.h.mid), pitches, pitches, strides)


def fork_meta(plan: Fork, precision: str) -> dict[str, Any]:
    """The compile-time arguments of the fork kernel."""
    return {
        "G": plan.group,
        "GP": power_of_two(plan.group),
        "LEFT_OVER": plan.left_over,
        "INNER": plan.inner,
        "P": plan.tile.rows,
        "N": plan.columns,
        "MP": plan.mid_columns,
        "BK": plan.tile.depth,
        "PRECISION": precision,
        "num_warps": plan.tile.warps,
        "num_stages": plan.tile.stages,
    }


def _join(maps: Pair, weights: Pair, biases: tuple[Tensor | None, Tensor | None], y: Tensor, c: Constants) -> None:
    """y = both convolutions of the middle maps up to the wide channels, summed."""
    n, columns, h, w = y.shape
    stage, tile = c.stage, c.join
    column_tiles = cdiv(stage.wide, tile.columns)
    places = n * h * cdiv(w, 8) * 8
    arguments = (
        *(*maps, *weights, *_or_else(biases, y), y, n, h, w, columns, column_tiles),
        *(stage.v.mid, stage.h.mid, stage.v.taps, stage.h.taps, stage.v.chunks, stage.h.chunks, stage.pitch, *y.stride()),
    )
    device.launch(
        join_file.join,
        (cdiv(places, tile.rows) * column_tiles,),
        arguments,
        P=tile.rows,
        N=tile.columns,
        BK=tile.depth,
        BIASED_V=biases[0] is not None,
        BIASED_H=biases[1] is not None,
        PRECISION=c.precision,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def _weight_gradient(wide: Tensor, narrow: Pair, out: Pair, wanted: tuple[bool, bool], direction: int, c: Constants) -> None:
    """Gradients of the weights of one stage, of the branches that are wanted."""
    n, channels, h, w = wide.shape
    stage, tile = c.stage, c.weight_gradient
    branches = [branch if want else None for branch, want in zip((stage.v, stage.h), wanted, strict=True)]
    tiles_v, tiles_h = (0 if b is None else cdiv(b.taps * b.pitch, tile.rows) for b in branches)
    column_tiles = cdiv(channels, tile.columns)
    # The same for one branch as for both: a gradient does not depend on what else is asked for.
    tiles = sum(cdiv(b.taps * b.pitch, tile.rows) for b in (stage.v, stage.h)) * column_tiles
    places = n * h * cdiv(w, 8) * 8
    parts = pixel_splits(stage, tile, tiles, places, wide.element_size(), device.multiprocessors(wide.device))
    rows = [0 if b is None else b.rows for b in branches]
    partial_v, partial_h = (wide.new_empty((parts, r, stage.pitch), dtype=torch.float32) for r in rows)
    arguments = (
        *(wide, *narrow, partial_v, partial_h, tiles_v, tiles_h, parts, n, h, w, channels),
        *(stage.v.mid, stage.h.mid, stage.v.taps, stage.h.taps, stage.v.chunks, stage.h.chunks),
        *(direction, stage.pitch, *wide.stride()),
    )
    device.launch(
        weight_gradient_file.weight_gradient,
        ((tiles_v + tiles_h) * column_tiles * parts,),
        arguments,
        ROWS=tile.rows,
        N=tile.columns,
        PIXELS=tile.depth,
        PRECISION=c.precision,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    strides: list[int] = []
    for t, branch, want in zip(out, (stage.v, stage.h), wanted, strict=True):
        strides += _weight_strides(t, stage, branch) if want else (0, 0, 0)
    columns, pitches = (channels, channels), (stage.pitch, stage.pitch)
    mids = stage.v.mid, stage.h.mid
    _sum_splits((partial_v, partial_h), (None, None), out, parts, (rows[0], rows[1]), mids, columns, pitches, columns, strides)


def _sum_splits(
    partial: Pair,
    biases: tuple[Tensor | None, Tensor | None],
    out: Pair,
    parts: int,
    rows: tuple[int, int],
    mids: tuple[int, int],
    columns: tuple[int, int],
    pitches: tuple[int, int],
    last: tuple[int, int],
    strides: Sequence[int],
) -> None:
    tile_rows, tile_columns = SUMMED_TILE
    grid = (cdiv(larger(*rows), tile_rows), cdiv(max(last), tile_columns), 2)
    arguments = (*partial, *_or_else(biases, out[0]), *out, parts, *rows, *mids, *columns, *pitches, *last, *strides)
    biased = [b is not None for b in biases]
    meta = {"R": tile_rows, "N": tile_columns, "BIASED_V": biased[0], "BIASED_H": biased[1], "num_warps": 4}
    device.launch(sums_file.sum_splits, grid, arguments, **meta)


def _sum_pixels(t: Tensor, dims: tuple[int, ...], channels: int, like: Tensor, wanted: bool) -> Tensor:
    """The gradient of a bias; PyTorch's sum adds in a fixed order."""
    if not wanted:
        return like.new_empty(0)
    return t.sum(dims, dtype=torch.float32)[:channels].to(like.dtype, copy=True)


def _or_else(biases: tuple[Tensor | None, Tensor | None], other: Tensor) -> Pair:
    """Something to point to where there is no bias; the kernels do not read it."""
    b_v, b_h = (other if b is None else b.contiguous() for b in biases)
    return b_v, b_h


def _forward_fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, w_l1, w_l2, w_r1, w_r2, *_, channels_last, allow_tf32 = arguments
    first, _ = _stages(x, w_l1, w_l2, w_r1, w_r2, allow_tf32)
    return (_result(x, w_l2, channels_last), *_middle_maps(x, first))


def _backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    _, x, _, _, w_l1, w_l2, w_r1, w_r2, _, _, wanted, _ = arguments
    like = [torch.empty_like(t) for t in (x, w_l1, w_l2, w_r1, w_r2)]
    like += [w.new_empty(w.shape[0]) for w in (w_l1, w_l2, w_r1, w_r2)]
    return tuple(t if wanted >> i & 1 else x.new_empty(0) for i, t in enumerate(like))


triton_gcn = triton_op("gcn_kernels::triton_gcn", forward, mutates_args=())
triton_gcn_backward = triton_op("gcn_kernels::triton_gcn_backward", backward, mutates_args=())
# Shapes alone: without these, every question about them would plan and launch.
triton_gcn.register_fake(_forward_fake)  # type: ignore[attr-defined]
triton_gcn_backward.register_fake(_backward_fake)  # type: ignore[attr-defined]
