"""Faults in the CUDA kernels of boundary refinement, each with a small problem that has to show it."""

from dataclasses import dataclass, replace

from faults import Fault


@dataclass(frozen=True)
class Case:
    """A problem: n, c, m, h, w, the arithmetic, the layout of the maps, and a value that is not finite: where, which, its column.

    ``negative``: all of w1, so that the ReLU stops a positive infinity in x.
    """

    sizes: tuple[int, int, int, int, int]
    math: str = "bfloat16"
    layout: str = "nchw"
    special: tuple[str, float, int] | None = None
    negative: bool = False


#: One tile; its rows and columns are no whole units.
TILE = Case((1, 21, 19, 7, 13))
#: More than a tile along both axes, and more than one image; more tiles than blocks.
TILES = Case((4, 5, 21, 50, 70))
#: Two tiles side by side, which share pixels.
BESIDE = Case((1, 5, 6, 4, 40))
#: More than 24 channels on either side.
WIDE = Case((1, 30, 27, 6, 9))
#: Three pixels are four and a half steps of the product; no channel of x is padded.
INFINITE = Case((1, 24, 19, 7, 40), special=("x", float("inf"), 30))
INFINITE_LAST = replace(INFINITE, sizes=(1, 21, 19, 7, 40), layout="channels_last")
#: As many tiles as there are blocks, and more: the sums of a block are those of several tiles.
MANY = Case((40, 3, 2, 3, 5))
#: Of so many channels the weights of one convolution are in shared memory at a time.
IN_TURNS = Case((1, 40, 38, 5, 6))
FLOAT64 = replace(TILE, math="float64")


@dataclass(frozen=True)
class Mutation:
    name: str
    fault: Fault
    caught_by: Case


def _of(file: str, *mutations: tuple[str, str, str, str, Case]) -> list[Mutation]:
    """Mutations of one file, as (name, old, new, why, caught by)."""
    prefix = file.removesuffix(".cuh")
    return [
        Mutation(f"{prefix}-{name}", Fault(f"refine/refine_{file}", old, new, why), case)
        for name, old, new, why, case in mutations
    ]


MAPS = _of(
    "maps.cuh",
    ("border", "at_w >= 0 && at_w < w;", "at_w >= 0 && at_w <= w;", "the pixel right of the image is not zero", TILE),
    ("channels", "inside && channel + e < channels ?", "inside ?", "the padded channels are another pixel's", INFINITE_LAST),
    ("not-flipped", "conv.flipped ? 8 - tap : tap", "tap", "gradients take the kernel as it is", TILE),
    (
        "not-turned",
        "output * conv.of_output + input * conv.of_input",
        "output * conv.of_input + input * conv.of_output",
        "outputs and inputs of the weights change places",
        TILE,
    ),
    ("tap", "tap = dy * 3 + dx;", "tap = dx * 3 + dy;", "rows of taps are columns", TILE),
    ("column-of-tile", "(core.col0 + col) * image.stride_w", "col * image.stride_w", "tiles lie on top of each other", TILES),
    (
        "row-of-tile",
        "row0 = int(rest % p.tiles_h) * (p.rows - 2)",
        "row0 = int(rest % p.tiles_h) * p.rows",
        "rows between the tiles are left out",
        TILES,
    ),
    (
        "pieces-of-pixels",
        "channels_first ? task % pieces : task / pixels",
        "channels_first ? task / pieces : task / pixels",
        "in channels_last pieces of channels are pixels",
        replace(TILE, layout="channels_last"),
    ),
)
PRODUCTS = _of(
    "products.cuh",
    ("half-step", "multiply_step<M, true>", "multiply_step<M, false>", "a zero weight meets the next pixel", INFINITE),
    ("columns", "i * row + columns * 16 * pixel", "i * row + columns * 8 * pixel", "pixels of a unit are counted twice", BESIDE),
    ("rows", "sums[i - dy][columns][block], a, b[dy]", "sums[i - dy][columns][block], a, b[2 - dy]", "taps upside down", TILE),
    (
        "mask",
        "const int first = half * 8 + (lane & 3) * 2;",
        "const int first = (lane & 3) * 2;",
        "pixels behind the last one count",
        BESIDE,
    ),
    (
        "mask-in-32-bits",
        "half * 4 + (lane & 3) < count",
        "(lane & 3) < count",
        "pixels behind the last one count",
        replace(BESIDE, math="float32"),
    ),
    (
        "one-mask",
        "b[0] &= mask[0], b[1] &= mask[1];",
        "",
        "a zero meets a pixel of another tile",
        Case((1, 8, 8, 5, 31), special=("x", float("inf"), 30)),
    ),
    ("bias", "return dy == 1 && group == 0;", "return dy == 0 && group == 0;", "a bias's gradient is not added up", TILE),
    ("row-of-taps", "(row + unit.dy) * b_map.cols", "row * b_map.cols", "the rows of taps are one", TILE),
    ("column-of-taps", "b_at + dx * b_map.pixel, unit", "b_at, unit", "the columns of taps are one", TILE),
    ("channels-of-a", "channel(unit / g.groups / 3 * 16)", "channel(0)", "the first 16 channels stand for all", TILE),
    (
        "group-of-b",
        "unit.group * kRefineOutputs + block * 8, lane",
        "block * 8, lane",
        "the first 24 channels stand for all",
        WIDE,
    ),
)
KERNELS = _of(
    "tile.cuh",
    (
        "no-barrier-after-load",
        "load_map(x, p.x, place.n, p.c, p.h, p.w);\n      __syncthreads();",
        "load_map(x, p.x, place.n, p.c, p.h, p.w);",
        "x is not there yet",
        TILE,
    ),
    (
        "no-barrier-after-u",
        "middle(x, u);\n      __syncthreads();\n      take_turn",
        "middle(x, u);\n      take_turn",
        "u is not there yet",
        TILE,
    ),
    (
        "no-barrier-before-du",
        "__syncthreads();\n        middle_gradient(dy, u);",
        "middle_gradient(dy, u);",
        "u is overwritten while it is read",
        TILE,
    ),
    (
        "no-barrier-after-du",
        "middle_gradient(dy, u);\n        __syncthreads();",
        "middle_gradient(dy, u);",
        "du is not there yet",
        TILE,
    ),
    (
        "no-barrier-after-a-turn",
        "load_weights<M>(conv, pixel, shared);\n    __syncthreads();",
        "load_weights<M>(conv, pixel, shared);",
        "the weights of this turn are not there yet",
        IN_TURNS,
    ),
    (
        "no-barrier-between-tiles",
        "store(place, x);\n      __syncthreads();",
        "store(place, x);",
        "the next tile overwrites what is still stored",
        MANY,
    ),
    ("leaking-bias", "!inside || output + e >= p.m", "output + e >= p.m", "the first bias leaks over the border", TILE),
    ("padded-channels", "|| output + e >= p.m ||", "||", "the padded channels of u are nan", replace(INFINITE, negative=True)),
    ("no-relu", "|| value < 0;", ";", "there is no ReLU", TILE),
    ("no-mask", "to_float(pair.value[e]) <= 0 ? 0.0f : sum[e]", "sum[e]", "the gradient ignores the ReLU", TILE),
    ("sums-of-tiles", "first ? sum : to[i * 32] + sum;", "sum;", "the last tile of a block stands for all", MANY),
    ("unit-of-sums", "p.units + g.first + unit)", "p.units + unit)", "both weights' gradients are one", TILE),
    ("start-of-core", "gradient(p.grad[0], u, u.at(1, 1)", "gradient(p.grad[0], u, u.at(0, 0)", "the border counts", TILE),
    (
        "group",
        "group * kRefineOutputs + of_group;\n        if (output >= p.c)",
        "of_group;\n        if (output >= p.c)",
        "all groups are the first",
        WIDE,
    ),
)
FINISH = _of(
    "finish.cuh",
    ("skips-parts", "part += kRefineFinishThreads / 32", "part += kRefineFinishThreads / 16", "not all parts are added", MANY),
    ("first-unit", "unit -= g.first;", "", "the second gradient's units are counted from the first's", TILE),
    ("tap", "dy * 3 + dx]", "dx * 3 + dy]", "rows of taps are columns", TILE),
)
DIRECT = _of(
    "direct.cuh",
    ("not-flipped", "conv.flipped ? 8 - tap : tap", "tap", "gradients take the kernel as it is", FLOAT64),
    ("no-relu", "if (p.relu && sum < 0) sum = 0;", "", "there is no ReLU", FLOAT64),
    ("no-mask", "h, w) <= 0) sum = 0;", "h, w) <= 0) sum += 0;", "the gradient ignores the ReLU", FLOAT64),
    (
        "shift",
        "at_h = h + tap / 3 - 1, at_w = w + tap % 3 - 1;\n        const",
        "at_h = h + tap / 3 - 1, at_w = w;\n        const",
        "columns of taps are one",
        FLOAT64,
    ),
)
MUTATIONS = (*MAPS, *PRODUCTS, *KERNELS, *FINISH, *DIRECT)
