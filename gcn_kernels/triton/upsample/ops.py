"""The operators ``gcn_kernels::triton_upsample`` and ``::triton_upsample_backward``."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op

from gcn_kernels.triton import device
from gcn_kernels.triton.config import arithmetic, family
from gcn_kernels.triton.plan import MOST_POSITIONS, cdiv, fit, power_of_two, smaller
from gcn_kernels.triton.upsample import kernels

PACKED_ROWS = 16
SUMMED_SPLITS, SUMMED_COLUMNS = 32, 32
#: Programs of the weight gradient for each multiprocessor.
GRADIENT_PROGRAMS = 1


#: Cells of a step of ``weight_gradient``.
SUMMED_PLACES = 32


@dataclass(frozen=True)
class Tiles:
    """Block sizes, at most; smaller problems get smaller ones.

    Attributes:
        places: cells or pixels of a program of ``double`` and ``input_gradient``.
        channels: of a step of ``double``, and of a program of ``weight_gradient``; each has four corners.
        outputs: of a program of ``double``; each has four parities.
        columns: channels of a program of ``input_gradient``.
        warps: of a program.
        stages: of the pipelined loops.
    """

    places: int
    channels: int
    outputs: int
    columns: int
    warps: int
    stages: int


#: By arithmetic (:func:`gcn_kernels.triton.config.arithmetic`). Not measured: they fit the registers and the shared memory of
#: every architecture that tests/test_triton_upsample.py compiles them for.
TILES = {"16": Tiles(64, 32, 32, 64, 8, 2), "tf32": Tiles(64, 16, 32, 32, 8, 2), "ieee": Tiles(64, 16, 16, 32, 8, 1)}


@dataclass(frozen=True)
class Plan:
    """What a problem's channels, dtype and architecture decide; see :class:`Tiles` for the block sizes."""

    channels: int
    outputs: int
    precision: str
    tiles: Tiles
    gradient_stages: int  # of the loop of ``input_gradient``

    @property
    def blocks(self) -> int:
        """Blocks of outputs."""
        return cdiv(self.outputs, self.tiles.outputs)

    @property
    def pitch(self) -> int:
        """Columns of the packed weights."""
        return self.blocks * 4 * self.tiles.outputs


def plan(x: Tensor, weight: Tensor, allow_tf32: bool) -> Plan:
    """Fit the block sizes to a problem."""
    architecture = device.architecture_of(x.device)
    kind = arithmetic(x.dtype, allow_tf32, architecture)
    channels, outputs = int(weight.shape[0]), int(weight.shape[1])
    most = TILES[kind]
    # A side of a matrix product is at least 16, here four corners or parities of at least four channels.
    fitted = Tiles(
        16 if (family(architecture), kind) == ("sm_80", "ieee") else most.places,
        min(max(4, power_of_two(channels)), most.channels),
        min(max(4, power_of_two(outputs)), most.outputs),
        fit(channels, most.columns),
        most.warps,
        most.stages,
    )
    # In these families, addresses of a second stage are more than the registers hold.
    gradient_stages = 1 if family(architecture) in ("sm_80", "sm_86") else most.stages
    return Plan(channels, outputs, "tf32" if kind == "tf32" else "ieee", fitted, gradient_stages)


def tiling(places: int, rows: Any, columns: Any) -> tuple[int, int]:
    """Rows R and columns Q of a tile of so many places: little beyond the map's edges, and long runs along its rows.

    Example:
        >>> tiling(64, 65, 65), tiling(64, 257, 257), tiling(64, 2, 301)
        ((8, 8), (1, 64), (2, 32))
    """
    if not (isinstance(rows, int) and isinstance(columns, int)):
        return 4, places // 4  # a traced graph is for many sizes
    shapes = [(1 << e, places >> e) for e in range(places.bit_length() - 2)]
    return min(shapes, key=lambda s: cdiv(rows, s[0]) * cdiv(columns, s[1]) * (1 + 1 / s[1]))


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, channels_last: bool, allow_tf32: bool) -> Tensor:
    """-> y [N, O, 2H, 2W]."""
    _check(x, weight, bias)
    y = _forward_fake(x, weight, bias, channels_last, allow_tf32)
    if y.numel() == 0:
        return y
    n, _, h, w = x.shape
    p = plan(x, weight, allow_tf32)
    rows, columns = tiling(p.tiles.places, h + 1, w + 1)
    tiles = n * cdiv(h + 1, rows) * cdiv(w + 1, columns)
    with device.current(x):
        packed = _pack(weight, p)
        sizes = (h, w, p.channels, p.outputs, p.blocks)
        device.launch(
            kernels.double,
            (tiles * p.blocks,),
            (x, packed, x if bias is None else bias.contiguous(), y, *sizes, *x.stride(), *y.stride()),
            R=rows,
            Q=columns,
            CB=p.tiles.channels,
            OB=p.tiles.outputs,
            BIASED=bias is not None,
            PRECISION=p.precision,
            num_warps=p.tiles.warps,
            num_stages=p.tiles.stages,
        )
    return y


def backward(dy: Tensor, x: Tensor, weight: Tensor, wanted: int, allow_tf32: bool) -> tuple[Tensor, Tensor, Tensor]:
    """-> the gradients of x, the weight and the bias; those that bit i of ``wanted`` does not ask for are empty."""
    _check(x, weight, None)
    expected = [x.shape[0], weight.shape[1], 2 * x.shape[2], 2 * x.shape[3]]
    if list(dy.shape) != expected or dy.dtype != x.dtype or dy.device != x.device:
        raise RuntimeError(
            f"dy: expected {expected} of {x.dtype} on {x.device}, got {list(dy.shape)} of {dy.dtype} on {dy.device}"
        )
    dx, dw, db = _backward_fake(dy, x, weight, wanted, allow_tf32)
    if dy.numel() == 0:
        return dx, dw.zero_(), db.zero_()
    p = plan(x, weight, allow_tf32)
    with device.current(x):
        if wanted & 1:
            _input_gradient(dy, weight, dx, p)
        if wanted & 2:
            _weight_gradient(dy, x, dw, p)
        if wanted & 4:
            # PyTorch's sum adds in a fixed order.
            db = dy.sum((0, 2, 3), dtype=torch.float32).to(dy.dtype, copy=True)
    return dx, dw, db


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Keep a direct call of the operators from reading out of bounds; users meet gcn_kernels/upsample/functional.py first."""
    if x.dim() != 4 or x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise RuntimeError(f"x: expected [N, C, H, W] of float32, bfloat16 or float16, got {list(x.shape)} of {x.dtype}")
    if weight.dim() != 4 or weight.shape[0] != x.shape[1] or weight.shape[1] < 1 or weight.shape[2:] != (4, 4):
        raise RuntimeError(f"weight: expected [{x.shape[1]}, O, 4, 4], got {list(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[1:2]:
        raise RuntimeError(f"bias: expected [{weight.shape[1]}], got {list(bias.shape)}")
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and (t.dtype != x.dtype or t.device != x.device):
            raise RuntimeError(f"{name}: expected {x.dtype} on {x.device}, got {t.dtype} on {t.device}")
    positions = 4 * x.shape[0] * (x.shape[2] + 1) * (x.shape[3] + 1)
    if isinstance(positions, int) and positions >= MOST_POSITIONS:
        raise RuntimeError(f"x: expected fewer than 2^31 pixels in the result, with its border, got {positions}; split the batch")


def _pack(weight: Tensor, p: Plan) -> Tensor:
    packed = weight.new_empty((4 * p.channels, p.pitch))
    grid = (cdiv(4 * p.channels, PACKED_ROWS), p.blocks)
    arguments = (weight, packed, p.channels, p.outputs, p.pitch, *weight.stride())
    device.launch(kernels.pack, grid, arguments, R=PACKED_ROWS, OB=p.tiles.outputs, num_warps=4)
    return packed


def _input_gradient(dy: Tensor, weight: Tensor, dx: Tensor, p: Plan) -> None:
    n, _, h, w = dx.shape
    rows, columns = tiling(p.tiles.places, h, w)
    tiles, channel_tiles = n * cdiv(h, rows) * cdiv(w, columns), cdiv(p.channels, p.tiles.columns)
    sizes = (h, w, p.channels, p.outputs, p.blocks, channel_tiles)
    device.launch(
        kernels.input_gradient,
        (tiles * channel_tiles,),
        (dy, _pack(weight, p), dx, *sizes, *dy.stride(), *dx.stride()),
        R=rows,
        Q=columns,
        N=p.tiles.columns,
        OB=p.tiles.outputs,
        PRECISION=p.precision,
        num_warps=p.tiles.warps,
        num_stages=p.gradient_stages,
    )


def _weight_gradient(dy: Tensor, x: Tensor, dw: Tensor, p: Plan) -> None:
    n, _, h, w = x.shape
    results = cdiv(p.channels, p.tiles.channels) * p.blocks
    rows, columns = tiling(SUMMED_PLACES, h + 1, w + 1)
    steps = n * cdiv(h + 1, rows) * cdiv(w + 1, columns)
    splits = smaller(max(1, GRADIENT_PROGRAMS * device.multiprocessors(x.device) // results), steps)
    partial = x.new_empty((splits, 4 * p.channels, p.pitch), dtype=torch.float32)
    device.launch(
        kernels.weight_gradient,
        (results * splits,),
        (x, dy, partial, splits, n, h, w, p.channels, p.outputs, p.blocks, *x.stride(), *dy.stride()),
        R=rows,
        Q=columns,
        CB=p.tiles.channels,
        OB=p.tiles.outputs,
        PRECISION=p.precision,
        num_warps=p.tiles.warps,
        num_stages=p.tiles.stages,
    )
    summed = min(SUMMED_COLUMNS, 4 * p.tiles.outputs)
    arguments = (partial, dw, splits, p.channels, p.outputs, p.pitch, *dw.stride())
    meta = {"S": SUMMED_SPLITS, "N": summed, "OB": p.tiles.outputs, "num_warps": 4}
    device.launch(kernels.finish, (4 * p.channels, p.pitch // summed), arguments, **meta)


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None, channels_last: bool, allow_tf32: bool) -> Tensor:
    n, _, h, w = x.shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((n, weight.shape[1], 2 * h, 2 * w), dtype=x.dtype, device=x.device, memory_format=layout)


def _backward_fake(dy: Tensor, x: Tensor, weight: Tensor, wanted: int, allow_tf32: bool) -> tuple[Tensor, Tensor, Tensor]:
    dx, dw = (torch.empty_like(t) if wanted >> i & 1 else t.new_empty(0) for i, t in enumerate((x, weight)))
    return dx, dw, dy.new_empty(weight.shape[1] if wanted & 4 else 0)


triton_upsample: Any = triton_op("gcn_kernels::triton_upsample", forward, mutates_args=())
triton_upsample_backward: Any = triton_op("gcn_kernels::triton_upsample_backward", backward, mutates_args=())
# Shapes alone: without these, every question about them would launch.
triton_upsample.register_fake(_forward_fake)
triton_upsample_backward.register_fake(_backward_fake)
