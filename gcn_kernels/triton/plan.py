"""From the sizes of a problem to launch parameters: everything that a launch needs and that no tensor holds.

What depends on channels, taps and dtype alone is computed once and cached. What depends on the map is a few integer
operations, which also work on the symbolic sizes of a traced graph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, cast

import torch

from gcn_kernels.triton.config import Config, Tile, arithmetic, choose

T = TypeVar("T")
#: Columns of packed weights are padded to a multiple of this, the deepest step of any product.
PITCH = 64
#: Channels of the middle maps are padded to a multiple of this: 16 bytes of a 16-bit type.
CHUNK = 8
#: More waves of programs than this are not made by splitting.
MOST_WAVES = 8
#: The price of splitting channels, for which two small maps more are written: see :func:`splits`.
PRICE_OF_CHANNEL_SPLIT = 0.03
#: Device memory is slower than L2 by about this much.
MEMORY_TO_L2 = 4
#: Where plans get their tiles from; a trial of autotune puts its own in this place.
tiles_for: Callable[[str, str, int, int], Config] = choose
#: Pixel positions are 32-bit numbers in the kernels (offsets are 64-bit).
MOST_POSITIONS = 1 << 31


@dataclass(frozen=True)
class Branch:
    """One branch of a stage: its middle channels and taps."""

    mid: int
    taps: int

    @property
    def chunks(self) -> int:
        return cdiv(self.mid, CHUNK)

    @property
    def pitch(self) -> int:
        """Channels of the padded middle map."""
        return self.chunks * CHUNK

    @property
    def rows(self) -> int:
        """Rows of the packed weights."""
        return self.mid * self.taps


@dataclass(frozen=True)
class Stage:
    """Two convolutions between one wide map and the two middle maps; ``v`` runs along H, ``h`` along W.

    The first stage is wide -> middle (the left branch along H), the second middle -> wide (the left branch along W), so
    there ``wide_first`` holds: the weights are [wide, mid, ...].
    """

    v: Branch
    h: Branch
    wide: int
    wide_first: bool

    @property
    def pitch(self) -> int:
        """Columns of the packed weights."""
        return cdiv(self.wide, PITCH) * PITCH

    @property
    def widest_mid(self) -> int:
        return max(self.v.mid, self.h.mid)


@dataclass(frozen=True)
class Problem:
    """x [n, c, h, w]; middle channels, output channels, and k1, k2, k3, k4 in the order of the weights."""

    n: int
    c: int
    h: int
    w: int
    mid_l: int
    mid_r: int
    out: int
    taps: tuple[int, int, int, int]
    dtype: torch.dtype

    @property
    def pixels(self) -> int:
        return self.n * self.h * self.w

    @property
    def stages(self) -> tuple[Stage, Stage]:
        """The first and the second stage."""
        k1, k2, k3, k4 = self.taps
        first = Stage(Branch(self.mid_l, k1), Branch(self.mid_r, k3), self.c, wide_first=False)
        return first, Stage(Branch(self.mid_r, k4), Branch(self.mid_l, k2), self.out, wide_first=True)


@dataclass(frozen=True)
class Fork:
    """Constants of the fork kernel: see there."""

    group: int
    left_over: bool
    inner: int
    tile: Tile
    mid_columns: int
    columns: int

    @property
    def overlap(self) -> int:
        return (self.group - 1) * self.inner

    def tiles(self, batch: Any, axis: Any, across: Any, inner: int) -> Any:
        """Programs for one branch on lines of ``axis`` pixels, of which ``across`` lie side by side."""
        places = batch * cdiv(across, inner) * inner * (axis + self.group - 1)
        return cdiv(places, self.tile.rows - (self.group - 1) * inner)


@dataclass(frozen=True)
class Constants:
    """What a problem's channels, taps, dtype and architecture decide for one stage."""

    stage: Stage
    precision: str
    config: Config
    nchw_fork: Fork
    channels_last_fork: Fork
    join: Tile
    weight_gradient: Tile

    def fork(self, channels_last: bool) -> Fork:
        return self.channels_last_fork if channels_last else self.nchw_fork


@lru_cache(maxsize=1024)
def constants(stage: Stage, architecture: str, dtype: torch.dtype, allow_tf32: bool) -> Constants:
    """Plan one stage on one architecture, ``sm_90`` or ``gfx942``."""
    kind = arithmetic(dtype, allow_tf32, architecture)
    config = tiles_for(architecture, kind, stage.wide, max(stage.v.taps, stage.h.taps))
    return plan_stage(stage, config, "tf32" if kind == "tf32" else "ieee")


def plan_stage(stage: Stage, config: Config, precision: str) -> Constants:
    """Fit the tiles of ``config`` to a stage."""
    most_rows = max(stage.v.taps * stage.v.pitch, stage.h.taps * stage.h.pitch)
    join, gradient = config.join, config.weight_gradient
    return Constants(
        stage,
        precision,
        config,
        _plan_fork(stage, config.fork, inner=8),
        _plan_fork(stage, config.fork, inner=1),
        Tile(join.rows, fit(stage.wide, join.columns), fit(most_rows, join.depth), join.warps, join.stages),
        Tile(fit(most_rows, gradient.rows), fit(stage.wide, gradient.columns), gradient.depth, gradient.warps, gradient.stages),
    )


def _plan_fork(stage: Stage, tile: Tile, inner: int) -> Fork:
    taps, mid = (stage.v.taps, stage.h.taps), stage.widest_mid
    group = taps_per_group(taps, mid, tile, inner)
    left_over = group == 1 or any(k % group for k in taps)
    fitted = Tile(tile.rows, tile.columns, fit(stage.wide, tile.depth), tile.warps, tile.stages)
    return Fork(group, left_over, inner, fitted, fit(mid, tile.columns), fit(group * mid, tile.columns))


def taps_per_group(taps: tuple[int, int], mid: int, tile: Tile, inner: int = 1) -> int:
    """G: how many neighbouring taps share a product, by the columns that both branches' products have in all.

    Left-over taps have a product of their own, padded to the middle channels' power of two. Larger groups overlap more.

    Example:
        >>> taps_per_group((15, 15), 21, Tile(128, 64, 64, 8, 4))
        3
    """

    def cost(group: int) -> float:
        columns = fit(group * mid, tile.columns) if group > 1 else 0
        grouped = [k // group if group > 1 else 0 for k in taps]
        left = sum(k - g * group for k, g in zip(taps, grouped, strict=True))
        products = sum(grouped) * columns + left * fit(mid, tile.columns)
        return products * tile.rows / (tile.rows - (group - 1) * inner)

    most = min(max(taps), tile.columns // mid, tile.rows // (2 * inner))
    return min(range(1, max(most, 1) + 1), key=cost)


def splits(programs: Any, steps: Any, multiprocessors: int, price: float) -> Any:
    """Into how many parts a sum of ``steps`` is cut, so that whole waves of programs fill the GPU.

    Args:
        programs: of one part.
        steps: what is divided.
        multiprocessors: of the GPU.
        price: of a part more, as a share of the kernel's time: its sums are written, and read again.
    """
    if not isinstance(programs, int) or not isinstance(steps, int):
        # A traced graph is for many sizes.
        return larger(1, smaller(multiprocessors // larger(programs, 1), steps))
    return _splits(programs, steps, multiprocessors, price)


@lru_cache(maxsize=1024)
def _splits(programs: int, steps: int, multiprocessors: int, price: float) -> int:
    most = max(1, min(steps, MOST_WAVES * multiprocessors // programs))

    def cost(parts: int) -> float:
        waves = cdiv(programs * parts, multiprocessors)
        return float(waves * multiprocessors / (programs * parts) + price * parts)

    return min(range(1, most + 1), key=cost)


def pixel_splits(stage: Stage, tile: Tile, tiles: int, places: Any, itemsize: int, multiprocessors: int) -> Any:
    """:func:`splits` for the weight gradient, whose partial sums are float32 gradients written and read once."""
    partial = 2 * 4 * (stage.v.rows + stage.h.rows) * stage.pitch
    loaded = tiles * places * (tile.rows + tile.columns) * itemsize
    price = MEMORY_TO_L2 * partial / loaded if isinstance(loaded, int) else 0.0
    return splits(tiles, cdiv(places, tile.depth), multiprocessors, price)


def fit(size: int, most: int) -> int:
    """The power of two from ``size`` on, at least 16 (the smallest side of a matrix instruction) and at most ``most``."""
    return min(max(16, power_of_two(size)), most)


def power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


def cdiv(a: T, b: int) -> T:
    """a / b, rounded up; ``a`` may be symbolic."""
    return cast(T, (cast(Any, a) + b - 1) // b)


def larger(a: Any, b: Any) -> Any:
    """max(a, b) of sizes that may be symbolic."""
    return torch.sym_max(a, b)  # type: ignore[no-untyped-call]


def smaller(a: Any, b: Any) -> Any:
    """min(a, b) of sizes that may be symbolic."""
    return torch.sym_min(a, b)  # type: ignore[no-untyped-call]
