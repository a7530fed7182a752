"""The operators ``gcn_kernels::triton_refine`` and ``::triton_refine_backward``."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op

from gcn_kernels.refine.spec import gpu_fake
from gcn_kernels.triton import device
from gcn_kernels.triton.config import arithmetic
from gcn_kernels.triton.plan import MOST_POSITIONS, cdiv, power_of_two, smaller
from gcn_kernels.triton.refine import kernels

PACKED_ROWS = 16
SUMMED_PROGRAMS, SUMMED_COLUMNS = 32, 32
#: Channels of an area are padded to a multiple of this: 16 bytes of a 16-bit type.
CHUNK = 8
#: Programs for each multiprocessor, forward and backward.
PROGRAMS, GRADIENT_PROGRAMS = 4, 2
#: Of a thread, on NVIDIA's GPUs.
MOST_REGISTERS = 255
#: All programs' sums for the gradients of the weights take at most so many bytes. 21 channels take 11 MB on 132 multiprocessors.
MOST_SUMS = 256 << 20


@dataclass(frozen=True)
class Tiles:
    """Block sizes, at most; smaller problems get smaller ones.

    Attributes:
        pixels: of a tile, the most and the least.
        places: rows of a convolution's product.
        columns: of every product.
        depth: of a step of a convolution's product.
        gradient_rows: of a product for the gradient of a weight.
        gradient_pixels: of a step of it.
        warps: of a program, forward and backward.
        stages: of the loops over taps and channels. One, where what they read comes from L1: the asynchronous copies of a
            pipelined loop pass L1 by, and L2 would have to give every value nine times.
    """

    pixels: tuple[int, int]
    places: int
    columns: int
    depth: int
    gradient_rows: int
    gradient_pixels: int
    warps: tuple[int, int]
    stages: int


#: By arithmetic (:func:`gcn_kernels.triton.config.arithmetic`). Not measured: they fit the registers and the shared memory of
#: every architecture that tests/test_triton_refine.py compiles them for.
TILES = {
    "16": Tiles((512, 64), 128, 64, 64, 64, 64, (4, 8), 1),
    "tf32": Tiles((256, 64), 128, 64, 32, 32, 32, (4, 8), 1),
    "ieee": Tiles((256, 64), 64, 32, 16, 32, 16, (8, 8), 1),
}


@dataclass(frozen=True)
class Plan:
    """What a problem's channels, dtype and architecture decide."""

    channels: int
    middle: int
    precision: str
    tiles: Tiles
    options: dict[str, int]  # of the compiler

    @property
    def pitches(self) -> tuple[int, int]:
        """Channels and middle channels of areas."""
        return cdiv(self.channels, CHUNK) * CHUNK, cdiv(self.middle, CHUNK) * CHUNK

    @property
    def columns(self) -> tuple[int, int]:
        """Channels and middle channels as columns of packed weights and of sums."""
        least = self.tiles.columns
        return max(power_of_two(self.channels), least), max(power_of_two(self.middle), least)


def plan(x: Tensor, w1: Tensor, allow_tf32: bool) -> Plan:
    """Fit the block sizes to a problem."""
    architecture = device.architecture_of(x.device)
    kind = arithmetic(x.dtype, allow_tf32, architecture)
    most, channels, middle = TILES[kind], int(w1.shape[1]), int(w1.shape[0])
    columns = min(max(16, power_of_two(max(channels, middle))), most.columns)
    fitted = replace(most, columns=columns)
    # In float32, left alone, ptxas spills a few registers to have one more program at a time.
    options = {"maxnreg": MOST_REGISTERS} if kind != "16" and architecture.startswith("sm_") else {}
    return Plan(channels, middle, "tf32" if kind == "tf32" else "ieee", fitted, options)


@dataclass(frozen=True)
class Tiling:
    """Rows and columns of a tile, tiles of all images, and programs that share them."""

    rows: int
    columns: int
    tiles: Any
    programs: Any


def tiling(pixels: tuple[int, int], images: Any, rows: Any, columns: Any, programs: int, most: int | None = None) -> Tiling:
    """Tiles with small borders and little beyond the map's edges; smaller ones where there are too few for all programs.

    Args:
        pixels: of a tile, the most and the least; powers of two.
        images: N.
        rows: H.
        columns: W.
        programs: that the GPU runs at once.
        most: programs that there may be.

    Example:
        >>> tiling((512, 64), 16, 512, 512, 528)
        Tiling(rows=16, columns=32, tiles=8192, programs=528)
        >>> tiling((512, 64), 1, 128, 128, 132)
        Tiling(rows=8, columns=16, tiles=128, programs=128)
    """
    chosen = (16, pixels[0] // 16)  # a traced graph is for many sizes
    if all(isinstance(size, int) for size in (images, rows, columns)):
        size, least = pixels
        while True:
            shapes = [(1 << e, size >> e) for e in range(size.bit_length())]
            chosen = min(shapes, key=lambda s: (cdiv(rows, s[0]) * cdiv(columns, s[1]) * (s[0] + 4) * (s[1] + 4), s[0]))
            # A tile of half the size has twice the programs at work, and three quarters of its area more for its border.
            if size <= least or 2 * images * cdiv(rows, chosen[0]) * cdiv(columns, chosen[1]) > programs:
                break
            size //= 2
    tiles = images * cdiv(rows, chosen[0]) * cdiv(columns, chosen[1])
    return Tiling(*chosen, tiles, smaller(tiles, programs if most is None else min(programs, most)))


def forward(
    x: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None, channels_last: bool, allow_tf32: bool
) -> Tensor:
    """-> y [N, C, H, W]."""
    _check(x, w1, w2, b1, b2)
    y = gpu_fake(x, w1, w2, b1, b2, channels_last, allow_tf32)
    if y.numel() == 0:
        return y
    n, _, h, w = x.shape
    p = plan(x, w1, allow_tf32)
    t = tiling(p.tiles.pixels, n, h, w, PROGRAMS * device.multiprocessors(x.device))
    scratch = _scratch(x, p, t, 1)
    with device.current(x):
        packed1, packed2 = _pack(w1, p), _pack(w2, p)
        biases = [x if b is None else b.contiguous() for b in (b1, b2)]
        device.launch(
            kernels.refine,
            (t.programs,),
            (x, packed1, packed2, *biases, y, scratch, h, w, p.channels, p.middle, t.tiles, *x.stride(), *y.stride()),
            **_meta(p, t),
            num_warps=p.tiles.warps[0],
            BIASED1=b1 is not None,
            BIASED2=b2 is not None,
        )
    return y


Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def backward(dy: Tensor, x: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, wanted: int, allow_tf32: bool) -> Gradients:
    """-> the gradients of x, w1, w2, b1 and b2; those that bit i of ``wanted`` does not ask for are empty."""
    _check(x, w1, w2, b1, None)
    if dy.shape != x.shape or dy.dtype != x.dtype or dy.device != x.device:
        raise RuntimeError(
            f"dy: expected {list(x.shape)} of {x.dtype} on {x.device}, got {list(dy.shape)} of {dy.dtype} on {dy.device}"
        )
    dx, dw1, dw2, db1, db2 = _backward_fake(dy, x, w1, w2, b1, wanted, allow_tf32)
    if dy.numel() == 0:
        return dx, dw1.zero_(), dw2.zero_(), db1.zero_(), db2.zero_()
    with device.current(x):
        if wanted & 0b01111:
            db1 = _launch_gradients(dy, x, w1, w2, b1, (dx, dw1, dw2, db1), wanted, plan(x, w1, allow_tf32))
        if wanted & 0b10000:
            # PyTorch's sum adds in a fixed order.
            db2 = dy.sum((0, 2, 3), dtype=torch.float32).to(dy.dtype, copy=True)
    return dx, dw1, dw2, db1, db2


def _check(x: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None) -> None:
    """Keep a direct call of the operators from reading out of bounds; users meet gcn_kernels/refine/functional.py first."""
    if x.dim() != 4 or x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise RuntimeError(f"x: expected [N, C, H, W] of float32, bfloat16 or float16, got {list(x.shape)} of {x.dtype}")
    channels = x.shape[1]
    if w1.dim() != 4 or w1.shape[0] < 1 or channels < 1 or list(w1.shape[1:]) != [channels, 3, 3]:
        raise RuntimeError(f"w1: expected [M, {channels}, 3, 3] with C and M of at least 1, got {list(w1.shape)}")
    if list(w2.shape) != [channels, w1.shape[0], 3, 3]:
        raise RuntimeError(f"w2: expected [{channels}, {w1.shape[0]}, 3, 3], got {list(w2.shape)}")
    for name, bias, length in (("b1", b1, w1.shape[0]), ("b2", b2, channels)):
        if bias is not None and list(bias.shape) != [length]:
            raise RuntimeError(f"{name}: expected [{length}], got {list(bias.shape)}")
    for name, t in (("w1", w1), ("w2", w2), ("b1", b1), ("b2", b2)):
        if t is not None and (t.dtype != x.dtype or t.device != x.device):
            raise RuntimeError(f"{name}: expected {x.dtype} on {x.device}, got {t.dtype} on {t.device}")
    positions = x.shape[0] * (x.shape[2] + 4) * (x.shape[3] + 4)
    if isinstance(positions, int) and positions >= MOST_POSITIONS:
        raise RuntimeError(f"x: expected fewer than 2^31 pixels, with a border, got {positions}; split the batch")


def _pack(weight: Tensor, p: Plan, *, transposed: bool = False) -> Tensor:
    """A weight [outputs, inputs, 3, 3] as the kernels take it; or that of the transposed convolution."""
    outputs, inputs = int(weight.shape[0]), int(weight.shape[1])
    w_o, w_i, w_h, w_w = weight.stride()
    if transposed:
        outputs, inputs, w_o, w_i = inputs, outputs, w_i, w_o
    pitch, columns = cdiv(inputs, CHUNK) * CHUNK, max(power_of_two(outputs), p.tiles.columns)
    rows = cdiv(9 * pitch, p.tiles.depth) * p.tiles.depth
    packed = weight.new_empty((rows, columns))
    arguments = (weight, packed, inputs, outputs, w_i, w_o, w_h, w_w)
    meta = {"PITCH": pitch, "COLUMNS": columns, "FLIPPED": transposed, "R": PACKED_ROWS, "num_warps": 4}
    device.launch(kernels.pack, (rows // PACKED_ROWS,), arguments, **meta)
    return packed


def _scratch(x: Tensor, p: Plan, t: Tiling, copies: int) -> Tensor:
    """For each program so many areas of either margin."""
    c, m = p.pitches
    places = ((t.rows + 4) * (t.columns + 4) * c, (t.rows + 2) * (t.columns + 2) * m)
    return x.new_empty((t.programs, copies * sum(places)))


def _meta(p: Plan, t: Tiling) -> dict[str, Any]:
    """What both kernels take as constants."""
    return {
        **{"R": t.rows, "Q": t.columns, "CP": p.pitches[0], "MP": p.pitches[1]},
        **{"C_COLUMNS": p.columns[0], "M_COLUMNS": p.columns[1], "PRECISION": p.precision},
        **{"P": min(p.tiles.places, t.rows * t.columns), "N": p.tiles.columns, "K": p.tiles.depth},
        "num_stages": p.tiles.stages,
        **p.options,
    }


def _launch_gradients(
    dy: Tensor,
    x: Tensor,
    w1: Tensor,
    w2: Tensor,
    b1: Tensor | None,
    results: tuple[Tensor, Tensor, Tensor, Tensor],
    wanted: int,
    p: Plan,
) -> Tensor:
    """Fill dx, dw1 and dw2 of ``results`` where they are wanted. -> db1."""
    dx, dw1, dw2, db1 = results
    of_x, of_w1, of_w2, of_b1 = (bool(wanted >> i & 1) for i in range(4))
    n, _, h, w = x.shape
    (c, m), (c_columns, m_columns) = p.pitches, p.columns
    sums = 4 * (of_w1 * 9 * c * m_columns + of_w2 * 9 * m * c_columns)
    most = max(1, MOST_SUMS // sums) if sums else None
    t = tiling(p.tiles.pixels, n, h, w, GRADIENT_PROGRAMS * device.multiprocessors(x.device), most)
    scratch = _scratch(x, p, t, 2)

    def partial(asked: bool, *size: int) -> Tensor:
        return x.new_empty((t.programs, *size), dtype=torch.float32) if asked else x

    partials = partial(of_w1, 9 * c, m_columns), partial(of_w2, 9 * m, c_columns), partial(of_b1, m)
    target = dx if of_x else x
    packed = _pack(w1, p)
    through = of_x or of_w1 or of_b1
    flipped2 = _pack(w2, p, transposed=True) if through else packed
    flipped1 = _pack(w1, p, transposed=True) if of_x else packed
    tensors = (dy, x, packed, flipped2, flipped1, x if b1 is None else b1.contiguous(), target, *partials, scratch)
    device.launch(
        kernels.gradients,
        (t.programs,),
        (*tensors, h, w, p.channels, p.middle, t.tiles, *dy.stride(), *x.stride(), *target.stride()),
        **_meta(p, t),
        ROWS=p.tiles.gradient_rows,
        S=min(p.tiles.gradient_pixels, t.rows * t.columns),
        num_warps=p.tiles.warps[1],
        BIASED1=b1 is not None,
        **{"DX": of_x, "DW1": of_w1, "DW2": of_w2, "DB1": of_b1},
    )
    for asked, sums_of, dw in ((of_w1, partials[0], dw1), (of_w2, partials[1], dw2)):
        if asked:
            _finish(sums_of, dw, t.programs)
    return partials[2].sum(0)[: p.middle].to(dy.dtype) if of_b1 else db1


def _finish(partial: Tensor, dw: Tensor, programs: Any) -> None:
    outputs, inputs = int(dw.shape[0]), int(dw.shape[1])
    pitch, columns = cdiv(inputs, CHUNK) * CHUNK, int(partial.shape[2])
    w_o, w_i, w_h, w_w = dw.stride()
    summed = min(SUMMED_COLUMNS, columns)
    arguments = (partial, dw, programs, inputs, outputs, w_i, w_o, w_h, w_w)
    meta = {"PITCH": pitch, "COLUMNS": columns, "S": SUMMED_PROGRAMS, "N": summed, "num_warps": 4}
    device.launch(kernels.finish, (9 * inputs, columns // summed), arguments, **meta)


def _backward_fake(dy: Tensor, x: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, wanted: int, allow_tf32: bool) -> Gradients:
    dx, dw1, dw2 = (torch.empty_like(t) if wanted >> i & 1 else t.new_empty(0) for i, t in enumerate((x, w1, w2)))
    db1, db2 = (dy.new_empty(w.shape[0] if wanted >> i & 1 else 0) for i, w in ((3, w1), (4, w2)))
    return dx, dw1, dw2, db1, db2


triton_refine: Any = triton_op("gcn_kernels::triton_refine", forward, mutates_args=())
triton_refine_backward: Any = triton_op("gcn_kernels::triton_refine_backward", backward, mutates_args=())
# Shapes alone: without these, every question about them would launch.
triton_refine.register_fake(gpu_fake)
triton_refine_backward.register_fake(_backward_fake)
