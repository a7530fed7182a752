"""The operators ``gcn_kernels::triton_doubling`` and ``::triton_doubling_backward``.

Graphs saved by earlier versions call ``triton_upsample`` and ``triton_upsample_backward``, which are these for 4 x 4 alone.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op

from gcn_kernels.core.checks import is_channels_last
from gcn_kernels.triton import device
from gcn_kernels.triton.config import arithmetic, family
from gcn_kernels.triton.plan import MOST_POSITIONS, cdiv, fit, larger, power_of_two, smaller
from gcn_kernels.triton.strips.kernels import finish as add_splits
from gcn_kernels.triton.upsample import depthwise, kernels
from gcn_kernels.upsample.spec import SIZES, fake

PACKED_ROWS = 16
SUMMED_SPLITS, SUMMED_COLUMNS = 32, 32
#: Sums of a program that adds the splits of each channel by itself.
SUMS = 64
#: Programs of the weight gradient for each multiprocessor; with each channel by itself, where nothing but loads takes time.
GRADIENT_PROGRAMS, DEPTHWISE_GRADIENT_PROGRAMS = 1, 8
#: Each channel by itself: lanes times channels of a program, fewer in the gradients, which read up to 16 outputs in each lane;
#: and channels, at most, where neighbours in memory are channels; elsewhere it has one.
DEPTHWISE_ELEMENTS, DEPTHWISE_GRADIENT_ELEMENTS, DEPTHWISE_CHANNELS = 512, 256, 32

#: Cells of a step of ``weight_gradient``.
SUMMED_PLACES = 32


@dataclass(frozen=True)
class Tiles:
    """Block sizes, at most; smaller problems get smaller ones.

    Attributes:
        places: cells or pixels of a program of ``double`` and ``input_gradient``.
        channels: of a step of ``double``, and of a program of ``weight_gradient``; each has its corners.
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
#: Places, and those of a step of ``weight_gradient``, where more of them spill registers: by family, kernel and arithmetic.
FEWER_PLACES = {
    ("sm_80", 4, "ieee"): 16,
    ("sm_80", 2, "16"): 32,
    ("sm_86", 4, "16"): 32,
    ("sm_86", 3, "16"): 32,
    ("sm_100", 3, "tf32"): 32,
}
FEWER_SUMMED_PLACES = {("sm_80", 2, "tf32"): 16, ("sm_100", 2, "16"): 16}


@dataclass(frozen=True)
class Plan:
    """What a problem's weight, dtype and architecture decide; see :class:`Tiles` for the block sizes."""

    kernel: int
    channels: int
    outputs: int
    precision: str
    tiles: Tiles
    summed_places: int  # cells of a step of ``weight_gradient``
    gradient_stages: int  # of the loop of ``input_gradient``

    @property
    def rows(self) -> int:
        """Of the packed weights: the corners of a cell, times the channels."""
        return (1 if self.kernel == 2 else 4) * self.channels

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
    channels, outputs, kernel = (int(size) for size in weight.shape[:3])
    most, where = TILES[kind], (family(architecture), kernel, kind)
    # A side of a matrix product is at least 16: four parities of at least four channels, or the corners that are taken at a time.
    corners = 4 if kernel == 4 else 1
    fitted = Tiles(
        FEWER_PLACES.get(where, most.places),
        max(16 // corners, min(power_of_two(channels), most.channels)),
        min(max(4, power_of_two(outputs)), most.outputs),
        fit(channels, most.columns),
        most.warps,
        most.stages,
    )
    # In these families, addresses of a second stage are more than the registers hold.
    gradient_stages = 1 if family(architecture) in ("sm_80", "sm_86") else most.stages
    summed_places = FEWER_SUMMED_PLACES.get(where, SUMMED_PLACES)
    precision = "tf32" if kind == "tf32" else "ieee"
    p = Plan(kernel, channels, outputs, precision, fitted, summed_places, gradient_stages)
    if p.rows * p.pitch >= MOST_POSITIONS:  # places in packed weights are 32-bit numbers
        raise RuntimeError(f"weight: expected fewer than 2^31 elements with its padding, got {p.rows * p.pitch}")
    return p


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


def cells(kernel: int, rows: Any, columns: Any) -> tuple[Any, Any]:
    """Rows and columns of the cells whose outputs are the first rows and columns of a result.

    Example:
        >>> cells(4, 8, 7), cells(2, 8, 7)
        ((5, 4), (4, 4))
    """
    return (cdiv(rows, 2), cdiv(columns, 2)) if kernel == 2 else (rows // 2 + 1, columns // 2 + 1)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    add: Tensor | None,
    height: int | None,
    width: int | None,
    groups: int,
    channels_last: bool,
    allow_tf32: bool,
) -> Tensor:
    """-> y [N, O, height, width], or of the size of ``add``, or [N, O, 2H, 2W]."""
    _check(x, weight, bias, groups)
    _check_size(x, weight, add, height, width, groups)
    y = fake(x, weight, bias, add, height, width, groups, channels_last)
    if y.numel() == 0:
        return y
    tensors = (x if bias is None else bias.contiguous(), y if add is None else add, y)
    meta = {"BIASED": bias is not None, "ADDED": add is not None}
    with device.current(x):
        if _is_depthwise(weight, groups):
            _forward_depthwise(x, weight, *tensors, meta)
        else:
            _forward_dense(x, weight, *tensors, meta, allow_tf32)
    return y


def _is_depthwise(weight: Tensor, groups: int) -> bool:
    """Whether each channel is doubled by itself, as a single one always is."""
    return groups > 1 or weight.shape[:2] == (1, 1)


def _forward_dense(
    x: Tensor, weight: Tensor, bias: Tensor, add: Tensor, y: Tensor, meta: dict[str, bool], allow_tf32: bool
) -> None:
    p = plan(x, weight, allow_tf32)
    size = cells(p.kernel, *y.shape[2:])
    rows, columns = tiling(p.tiles.places, *size)
    tiles = x.shape[0] * cdiv(size[0], rows) * cdiv(size[1], columns)
    sizes = (*size, *x.shape[2:], *y.shape[2:], p.channels, p.outputs, p.blocks)
    device.launch(
        kernels.double,
        (tiles * p.blocks,),
        (x, _pack(weight, p), bias, add, y, *sizes, *x.stride(), *add.stride(), *y.stride()),
        R=rows,
        Q=columns,
        CB=p.tiles.channels,
        OB=p.tiles.outputs,
        K=p.kernel,
        PRECISION=p.precision,
        num_warps=p.tiles.warps,
        num_stages=p.tiles.stages,
        **meta,
    )


def _depthwise(t: Tensor, kernel: int, elements: int) -> tuple[int, dict[str, int]]:
    """Channel blocks, and block sizes, for a map like ``t``."""
    channels = min(DEPTHWISE_CHANNELS, power_of_two(int(t.shape[1]))) if is_channels_last(t) else 1
    return cdiv(int(t.shape[1]), channels), {"M": elements // channels, "CB": channels, "K": kernel, "num_warps": 4}


def _forward_depthwise(x: Tensor, weight: Tensor, bias: Tensor, add: Tensor, y: Tensor, meta: dict[str, bool]) -> None:
    n, c = x.shape[:2]
    kernel = int(weight.shape[2])
    size = cells(kernel, *y.shape[2:])
    blocks, blocking = _depthwise(y, kernel, DEPTHWISE_ELEMENTS)
    sizes = (n, *size, *x.shape[2:], *y.shape[2:], c, blocks)
    strides = (weight.stride(0), *weight.stride()[2:], *x.stride(), *add.stride(), *y.stride())
    grid = (cdiv(n * size[0] * size[1], blocking["M"]) * blocks,)
    device.launch(depthwise.double_depthwise, grid, (x, weight, bias, add, y, *sizes, *strides), **blocking, **meta)


def backward(dy: Tensor, x: Tensor, weight: Tensor, wanted: int, groups: int, allow_tf32: bool) -> tuple[Tensor, Tensor, Tensor]:
    """-> the gradients of x, the weight and the bias; those that bit i of ``wanted`` does not ask for are empty."""
    _check(x, weight, None, groups)
    most = [x.shape[0], weight.shape[1] * groups, 2 * x.shape[2], 2 * x.shape[3]]
    _check_cropped("dy", dy, x, most)
    dx, dw, db = _backward_fake(dy, x, weight, wanted, groups, allow_tf32)
    if dy.numel() == 0:
        return dx.zero_(), dw.zero_(), db.zero_()
    with device.current(x):
        if _is_depthwise(weight, groups):
            if wanted & 1:
                _input_gradient_depthwise(dy, weight, dx)
            if wanted & 6:
                _parameters_depthwise(dy, x, dw if wanted & 2 else None, db if wanted & 4 else None, int(weight.shape[2]))
            return dx, dw, db
        p = plan(x, weight, allow_tf32)
        if wanted & 1:
            _input_gradient(dy, weight, dx, p)
        if wanted & 2:
            _weight_gradient(dy, x, dw, p)
        if wanted & 4:
            # PyTorch's sum adds in a fixed order.
            db = dy.sum((0, 2, 3), dtype=torch.float32).to(dy.dtype, copy=True)
    return dx, dw, db


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
    """Keep a direct call of the operators from reading out of bounds; users meet gcn_kernels/upsample/functional.py first."""
    if x.dim() != 4 or x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise RuntimeError(f"x: expected [N, C, H, W] of float32, bfloat16 or float16, got {list(x.shape)} of {x.dtype}")
    channels = x.shape[1]
    if groups != 1 and groups != channels:
        raise RuntimeError(f"groups: expected 1, or {channels} as x has channels, got {groups}")
    fits = weight.dim() == 4 and weight.shape[0] == channels and weight.shape[2] == weight.shape[3] and weight.shape[2] in SIZES
    if not fits or weight.shape[1] < 1 or (groups > 1 and weight.shape[1] != 1):
        expected = f"[{channels}, {'O' if groups == 1 else 1}, k, k] with k of 2, 3 or 4"
        raise RuntimeError(f"weight: expected {expected}, got {list(weight.shape)}")
    if bias is not None and list(bias.shape) != [weight.shape[1] * groups]:
        raise RuntimeError(f"bias: expected [{weight.shape[1] * groups}], got {list(bias.shape)}")
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and (t.dtype != x.dtype or t.device != x.device):
            raise RuntimeError(f"{name}: expected {x.dtype} on {x.device}, got {t.dtype} on {t.device}")
    positions = 4 * x.shape[0] * (x.shape[2] + 1) * (x.shape[3] + 1)
    if isinstance(positions, int) and positions >= MOST_POSITIONS:
        raise RuntimeError(f"x: expected fewer than 2^31 pixels in the result, with its border, got {positions}; split the batch")


def _check_size(x: Tensor, weight: Tensor, add: Tensor | None, height: int | None, width: int | None, groups: int) -> None:
    most = [x.shape[0], weight.shape[1] * groups, 2 * x.shape[2], 2 * x.shape[3]]
    if (height is None) != (width is None) or (height is not None and add is not None):
        raise RuntimeError("height, width: expected both or neither, and neither beside add")
    if height is not None and width is not None and not (1 <= height <= most[2] and 1 <= width <= most[3]):
        raise RuntimeError(f"height, width: expected from (1, 1) to {(most[2], most[3])}, got {(height, width)}")
    if add is not None:
        _check_cropped("add", add, x, most)


def _check_cropped(name: str, t: Tensor, x: Tensor, most: list[int]) -> None:
    """Raise unless ``t`` has the size ``most`` of a result of ``x``, or that of its first rows and columns."""
    cropped = t.dim() == 4 and list(t.shape[:2]) == most[:2] and t.shape[2] <= most[2] and t.shape[3] <= most[3]
    if not cropped or t.dtype != x.dtype or t.device != x.device:
        raise RuntimeError(
            f"{name}: expected {most} or its first rows and columns, of {x.dtype} on {x.device}, got {list(t.shape)} of "
            f"{t.dtype} on {t.device}"
        )


def _pack(weight: Tensor, p: Plan) -> Tensor:
    packed = weight.new_empty((p.rows, p.pitch))
    grid = (cdiv(p.rows, PACKED_ROWS), p.blocks)
    arguments = (weight, packed, p.channels, p.outputs, p.pitch, *weight.stride())
    device.launch(kernels.pack, grid, arguments, R=PACKED_ROWS, OB=p.tiles.outputs, K=p.kernel, num_warps=4)
    return packed


def _input_gradient(dy: Tensor, weight: Tensor, dx: Tensor, p: Plan) -> None:
    n, _, h, w = dx.shape
    rows, columns = tiling(p.tiles.places, h, w)
    tiles, channel_tiles = n * cdiv(h, rows) * cdiv(w, columns), cdiv(p.channels, p.tiles.columns)
    sizes = (h, w, *dy.shape[2:], p.channels, p.outputs, p.blocks, channel_tiles)
    device.launch(
        kernels.input_gradient,
        (tiles * channel_tiles,),
        (dy, _pack(weight, p), dx, *sizes, *dy.stride(), *dx.stride()),
        R=rows,
        Q=columns,
        N=p.tiles.columns,
        OB=p.tiles.outputs,
        K=p.kernel,
        PRECISION=p.precision,
        num_warps=p.tiles.warps,
        num_stages=p.gradient_stages,
    )


def _weight_gradient(dy: Tensor, x: Tensor, dw: Tensor, p: Plan) -> None:
    n, _, h, w = x.shape
    results = cdiv(p.channels, p.tiles.channels) * p.blocks
    size = cells(p.kernel, *dy.shape[2:])
    rows, columns = tiling(p.summed_places, *size)
    steps = n * cdiv(size[0], rows) * cdiv(size[1], columns)
    splits = smaller(max(1, GRADIENT_PROGRAMS * device.multiprocessors(x.device) // results), steps)
    partial = x.new_empty((splits, p.rows, p.pitch), dtype=torch.float32)
    sizes = (splits, n, *size, h, w, *dy.shape[2:], p.channels, p.outputs, p.blocks)
    device.launch(
        kernels.weight_gradient,
        (results * splits,),
        (x, dy, partial, *sizes, *x.stride(), *dy.stride()),
        R=rows,
        Q=columns,
        CB=p.tiles.channels,
        OB=p.tiles.outputs,
        K=p.kernel,
        PRECISION=p.precision,
        num_warps=p.tiles.warps,
        num_stages=p.tiles.stages,
    )
    summed = min(SUMMED_COLUMNS, 4 * p.tiles.outputs)
    arguments = (partial, dw, splits, p.channels, p.outputs, p.pitch, *dw.stride())
    meta = {"S": SUMMED_SPLITS, "N": summed, "OB": p.tiles.outputs, "K": p.kernel, "num_warps": 4}
    device.launch(kernels.finish, (p.rows, p.pitch // summed), arguments, **meta)


def _input_gradient_depthwise(dy: Tensor, weight: Tensor, dx: Tensor) -> None:
    n, c, h, w = dx.shape
    blocks, blocking = _depthwise(dx, int(weight.shape[2]), DEPTHWISE_GRADIENT_ELEMENTS)
    strides = (weight.stride(0), *weight.stride()[2:], *dy.stride(), *dx.stride())
    device.launch(
        depthwise.input_gradient_depthwise,
        (cdiv(n * h * w, blocking["M"]) * blocks,),
        (dy, weight, dx, n, h, w, *dy.shape[2:], c, blocks, *strides),
        **blocking,
    )


def _parameters_depthwise(dy: Tensor, x: Tensor, dw: Tensor | None, db: Tensor | None, kernel: int) -> None:
    """The gradients of the weight and the bias, where asked for."""
    n, c, h, w = x.shape
    blocks, blocking = _depthwise(x, kernel, DEPTHWISE_GRADIENT_ELEMENTS)
    programs = DEPTHWISE_GRADIENT_PROGRAMS * device.multiprocessors(x.device)
    splits = smaller(larger(1, programs // blocks), cdiv(n * h * w, blocking["M"]))
    partial = x.new_empty((splits, kernel * kernel + 1, c), dtype=torch.float32)
    device.launch(
        depthwise.weight_gradient_depthwise,
        (blocks * splits,),
        (x, dy, partial, splits, n, h, w, *dy.shape[2:], c, blocks, *x.stride(), *dy.stride()),
        **blocking,
    )
    out = (0, 0, 0) if dw is None else (dw.stride(0), *dw.stride()[2:])
    device.launch(
        add_splits,
        (cdiv((kernel * kernel + 1) * c, SUMS),),
        (partial, partial if dw is None else dw, partial if db is None else db, splits, kernel * kernel, c, kernel, *out),
        S=SUMMED_SPLITS,
        N=SUMS,
        WEIGHT=dw is not None,
        BIASED=db is not None,
        num_warps=4,
    )


def _forward_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    add: Tensor | None,
    height: int | None,
    width: int | None,
    groups: int,
    channels_last: bool,
    allow_tf32: bool,
) -> Tensor:
    return fake(x, weight, bias, add, height, width, groups, channels_last)


def _backward_fake(
    dy: Tensor, x: Tensor, weight: Tensor, wanted: int, groups: int, allow_tf32: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dw = (torch.empty_like(t) if wanted >> i & 1 else t.new_empty(0) for i, t in enumerate((x, weight)))
    return dx, dw, dy.new_empty(dy.shape[1] if wanted & 4 else 0)


def _upsample(x: Tensor, weight: Tensor, bias: Tensor | None, channels_last: bool, allow_tf32: bool) -> Tensor:
    if weight.shape[2:] != (4, 4):
        raise RuntimeError(f"weight: expected [{x.shape[1]}, O, 4, 4], got {list(weight.shape)}")
    return forward(x, weight, bias, None, None, None, 1, channels_last, allow_tf32)


def _upsample_backward(dy: Tensor, x: Tensor, weight: Tensor, wanted: int, allow_tf32: bool) -> tuple[Tensor, Tensor, Tensor]:
    return backward(dy, x, weight, wanted, 1, allow_tf32)


def _upsample_fake(x: Tensor, weight: Tensor, bias: Tensor | None, channels_last: bool, allow_tf32: bool) -> Tensor:
    return fake(x, weight, bias, None, None, None, 1, channels_last)


def _upsample_backward_fake(
    dy: Tensor, x: Tensor, weight: Tensor, wanted: int, allow_tf32: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _backward_fake(dy, x, weight, wanted, 1, allow_tf32)


# Shapes alone: without these, every question about them would launch.
for _name, _run, _shapes in (
    ("triton_doubling", forward, _forward_fake),
    ("triton_doubling_backward", backward, _backward_fake),
    ("triton_upsample", _upsample, _upsample_fake),
    ("triton_upsample_backward", _upsample_backward, _upsample_backward_fake),
):
    _operator: Any = triton_op(f"gcn_kernels::{_name}", _run, mutates_args=())
    _operator.register_fake(_shapes)
