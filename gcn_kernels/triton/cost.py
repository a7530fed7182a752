"""What the kernels cost on paper: bytes and operations by launch, and the time that they take at given rates.

These are predictions from counting; nothing here was measured on a GPU. They decide which way of computing is worth writing
and show what bounds it. The counts come from the same plans that the launches are made from, so a change of tiles shows here.
"""

from dataclasses import dataclass

from gcn_kernels.triton.config import TABLE, arithmetic, family
from gcn_kernels.triton.plan import (
    PRICE_OF_CHANNEL_SPLIT,
    Constants,
    Problem,
    Stage,
    cdiv,
    pixel_splits,
    plan_stage,
    power_of_two,
    splits,
)


@dataclass(frozen=True)
class Rates:
    """Ceilings of a GPU: multiply-adds and bytes per second, for the whole of it, and seconds from launch to launch."""

    architecture: str
    multiprocessors: int
    multiply_adds: float
    shared: float
    l2: float
    memory: float
    launch: float


_CLOCK = 1.755e9
#: 16-bit products and copies as PyTorch reaches them; shared memory at 128 bytes, L2 at 50 (of 40 to 60) a clock and SM.
H100 = Rates("sm_90", 132, 798e12 / 2, 132 * 128 * _CLOCK, 132 * 50 * _CLOCK, 3.0e12, 1e-6)
#: Consecutive 2-byte values that start anywhere touch three sectors of 32 bytes where two would do.
MISALIGNED = 1.5
#: A matrix instruction's rows: for each of so many, the right factor is read from shared memory again.
INSTRUCTION_ROWS = 64


@dataclass(frozen=True)
class Work:
    """What one launch does.

    Attributes:
        programs: of the grid.
        multiply_adds: of the matrix units, those on padding included.
        l2: bytes from L2 into the multiprocessors.
        shared: bytes through shared memory in the main loop.
        memory: bytes of device memory, each read or written once.
        epilogue: bytes through shared memory that nothing overlaps with.
        launches: one, or two where partial sums are added.
    """

    programs: int
    multiply_adds: float = 0.0
    l2: float = 0.0
    shared: float = 0.0
    memory: float = 0.0
    epilogue: float = 0.0
    launches: int = 1

    def seconds(self, rates: Rates) -> float:
        """The slowest of what overlaps, over whole waves of programs, then the rest."""
        waves = cdiv(self.programs, rates.multiprocessors) * rates.multiprocessors / self.programs
        parallel = max(self.multiply_adds / rates.multiply_adds, self.l2 / rates.l2, self.shared / rates.shared)
        return float(
            max(parallel * waves, self.memory / rates.memory) + self.epilogue / rates.shared + self.launches * rates.launch
        )


@dataclass(frozen=True)
class Product:
    """One tile of a matrix product.

    Attributes:
        rows: of the result.
        columns: of the result.
        depth: of the sum.
        size: bytes of a factor.
    """

    rows: int
    columns: int
    depth: int
    size: int

    @property
    def multiply_adds(self) -> int:
        return self.rows * self.columns * self.depth

    @property
    def loaded(self) -> int:
        """Bytes from L2."""
        return (self.rows + self.columns) * self.depth * self.size

    @property
    def shared(self) -> int:
        """Bytes written to shared memory, and read by the matrix instructions."""
        return self.loaded + (self.rows + self.columns * cdiv(self.rows, INSTRUCTION_ROWS)) * self.depth * self.size


def fork(c: Constants, problem: Problem, channels_last: bool, rates: Rates) -> Work:
    """The fork kernel on a problem's maps, and the sum of its splits where there are any."""
    plan, stage, size = c.fork(channels_last), c.stage, problem.dtype.itemsize
    n, h, w, rows = problem.n, problem.h, problem.w, plan.tile.rows
    tiles_v, tiles_h = plan.tiles(n, h, w, plan.inner), plan.tiles(n, w, h, 1)
    depth = cdiv(stage.wide, plan.tile.depth) * plan.tile.depth
    mid_tiles = cdiv(stage.widest_mid, plan.mid_columns)
    multiply_adds = l2 = shared = epilogue = 0.0
    for branch, tiles, misaligned in ((stage.v, tiles_v, False), (stage.h, tiles_h, not channels_last)):
        grouped = branch.taps // plan.group if plan.group > 1 else 0
        left = branch.taps - grouped * plan.group
        for products, columns in ((grouped, plan.columns), (left, plan.mid_columns)):
            one = Product(rows, columns, depth, size)
            count = tiles * mid_tiles * products
            multiply_adds += count * one.multiply_adds
            l2 += count * one.loaded * (MISALIGNED if misaligned else 1.0)
            shared += count * one.shared
        if plan.group > 1:
            epilogue += tiles * 4 * rows * (plan.columns + power_of_two(plan.group) * plan.mid_columns)
    programs = (tiles_v + tiles_h) * mid_tiles
    parts = splits(programs, cdiv(stage.wide, plan.tile.depth), rates.multiprocessors, PRICE_OF_CHANNEL_SPLIT)
    if parts > 1:
        # Partial sums stay in L2: written, and read by a launch of its own.
        l2 += 2 * parts * problem.pixels * 4 * (stage.v.pitch + stage.h.pitch)
    launches = 1 if parts == 1 else 2
    return Work(programs * parts, multiply_adds, l2, shared, _maps(stage, problem), epilogue, launches)


def join(c: Constants, problem: Problem) -> Work:
    """The join kernel on a problem's maps."""
    stage, tile, size = c.stage, c.join, problem.dtype.itemsize
    column_tiles = cdiv(stage.wide, tile.columns)
    tiles = cdiv(problem.n * problem.h * cdiv(problem.w, 8) * 8, tile.rows) * column_tiles
    depth = sum(cdiv(b.taps * b.pitch, tile.depth) * tile.depth for b in (stage.v, stage.h))
    one = Product(tile.rows, tile.columns, depth, size)
    return Work(tiles, tiles * one.multiply_adds, tiles * one.loaded, tiles * one.shared, _maps(stage, problem))


def weight_gradient(c: Constants, problem: Problem, rates: Rates) -> Work:
    """The weight gradient kernel on a problem's maps; its partial sums are written and read."""
    stage, tile, size = c.stage, c.weight_gradient, problem.dtype.itemsize
    places = problem.n * problem.h * cdiv(problem.w, 8) * 8
    tiles = sum(cdiv(b.taps * b.pitch, tile.rows) for b in (stage.v, stage.h)) * cdiv(stage.wide, tile.columns)
    parts = pixel_splits(stage, tile, tiles, places, size, rates.multiprocessors)
    one = Product(tile.rows, tile.columns, places, size)
    partial = parts * (stage.v.rows + stage.h.rows) * stage.pitch * 4
    memory = _maps(stage, problem) + 2 * partial
    return Work(tiles * parts, tiles * one.multiply_adds, tiles * one.loaded, tiles * one.shared, memory)


def _maps(stage: Stage, problem: Problem) -> float:
    """Bytes of the wide map and both middle maps."""
    return float(problem.pixels * (stage.wide + stage.v.pitch + stage.h.pitch) * problem.dtype.itemsize)


def small(bytes_moved: float) -> Work:
    """A launch that only moves bytes."""
    return Work(1, memory=bytes_moved)


def predict(problem: Problem, *, channels_last: bool = True, allow_tf32: bool = True, rates: Rates = H100) -> dict[str, float]:
    """Predicted seconds of every launch of a forward and a backward pass.

    Returns:
        By name, ``forward ...`` and ``backward ...``.

    Example:
        >>> res4 = Problem(16, 1024, 32, 32, 21, 21, 21, (15, 15, 15, 15), torch.bfloat16)
        >>> sum(s for name, s in predict(res4).items() if name.startswith("forward")) < 3 * 27.0e-6
        True
    """
    kind = arithmetic(problem.dtype, allow_tf32, rates.architecture)
    config = TABLE[family(rates.architecture), kind]
    first, second = (plan_stage(stage, config, "ieee") for stage in problem.stages)
    size = problem.dtype.itemsize

    def packed(stage: Stage) -> float:
        # Short runs touch about twice the sectors.
        return float((stage.v.rows + stage.h.rows) * stage.pitch * 3 * size)

    middle = sum(branch.pitch for branch in (first.stage.v, first.stage.h))
    work = {
        "forward pack 1": small(packed(first.stage)),
        "forward fork": fork(first, problem, channels_last, rates),
        "forward pack 2": small(packed(second.stage)),
        "forward join": join(second, problem),
        "backward pack 2": small(packed(second.stage)),
        "backward fork": fork(second, problem, channels_last, rates),
        "backward pack 1": small(packed(first.stage)),
        "backward join": join(first, problem),
        "backward weight gradient 1": weight_gradient(first, problem, rates),
        "backward sum 1": small(packed(first.stage)),
        "backward weight gradient 2": weight_gradient(second, problem, rates),
        "backward sum 2": small(packed(second.stage)),
        "backward bias gradients": small(float(problem.pixels * (middle + 2 * problem.out) * size)),
    }
    return {name: w.seconds(rates) for name, w in work.items()}
