"""Faults in the CUDA kernels of the doubling, each with a small problem that has to show it."""

from dataclasses import dataclass, replace

from faults import mutations_of


@dataclass(frozen=True)
class Case:
    """A problem: n, c, o, h, w, the kernel, each channel by itself, the arithmetic, the layout of the maps.

    ``crop``: rows and columns of the result that are left out; ``add``: a map is added; ``special``: a value that is not finite:
    in x or dy, which, its row and column.
    """

    sizes: tuple[int, int, int, int, int]
    math: str = "bfloat16"
    k: int = 4
    by_itself: bool = False
    layout: str = "nchw"
    crop: tuple[int, int] = (0, 0)
    add: bool = False
    special: tuple[str, float, int, int] | None = None


#: One tile, with no whole units.
TILE = Case((1, 21, 19, 5, 13))
#: More than a tile along both axes, and more than one image; more tiles than blocks.
TILES = Case((3, 5, 6, 19, 70))
#: More than 24 channels on either side.
WIDE = Case((1, 30, 27, 5, 9))
WIDE_FLOAT = Case((1, 10, 27, 5, 9), "float32")
WIDE_BACK = Case((1, 27, 10, 5, 9), "float32")
#: Several tiles of a block.
MANY = Case((40, 3, 2, 3, 5))
#: An odd number of pieces, none of them padded: what is read behind the last is not zero, and here not finite.
INFINITE = Case((1, 24, 24, 5, 40), special=("x", float("inf"), 2, 20))
#: Channels of x that are padded.
PADDED = replace(INFINITE, sizes=(1, 22, 19, 5, 40), layout="channels_last")
CORNER = Case((1, 8, 8, 5, 40), special=("dy", float("inf"), 0, 0))
EDGE = Case((1, 8, 8, 5, 40), special=("dy", float("inf"), 9, 79))
FLOAT = replace(TILE, math="float32")
#: Threads share the rows of a tile, and have sums of their own.
FEW = Case((1, 3, 4, 5, 13), "float32")
ADDED = Case((1, 5, 6, 6, 12), add=True, crop=(1, 2))
SINGLE = Case((2, 5, 5, 11, 7), by_itself=True, math="float32")
DIRECT = Case((1, 200, 3, 6, 5), math="float32")
NEAR_EDGE = Case((1, 3, 3, 3, 7), "float32", by_itself=True, special=("x", float("inf"), 1, 0))


RUNS = mutations_of(
    "pixel_runs.cuh",
    ("border", "col >= 0 && col < w;", "col >= 0 && col <= w;", "the pixel right of the image is not zero", TILE),
    (
        "channels",
        "is_inside(row, col) ? channels - channel : 0",
        "is_inside(row, col) ? kPiece<E> : 0",
        "padded channels are another's",
        PADDED,
    ),
    ("pairs", "strides % kWide == 0 &&", "", "pairs of pixels in rows of an odd length", TILE),
    (
        "second-of-pair",
        "in[i][j / 2] >> 16 |",
        "(in[i][j / 2] & 0xffffu) |",
        "two pixels of a pair are one",
        replace(TILE, sizes=(1, 5, 6, 4, 8)),
    ),
)
MAPS = mutations_of(
    "upsample/upsample_maps.cuh",
    ("phases", "(row & 1) * 2 + (col & 1)", "(col & 1) * 2 + (row & 1)", "rows and columns of phases change places", TILE),
    ("not-rounded", "to_float(added[e][i]) +", "", "nothing is added", ADDED),
    ("crop", "image.h - kScale * map.row0)", "2 * image.h)", "rows behind the last are written", replace(ADDED, crop=(3, 2))),
    ("turned", "turned ? 1 - first - count : first", "first", "gradients read the windows of the forward pass", TILE),
)
UNITS = mutations_of("pixel_unit.cuh", ("bias", "i % 2 ? both.y : both.x", "0", "the bias is left out", TILE))
PRODUCTS = mutations_of(
    "upsample/upsample_products.cuh",
    (
        "half-step",
        "left >= 2; left -= 2",
        "left >= 1; left -= 2",
        "a zero weight meets what is not finite",
        replace(INFINITE, k=2),
    ),
    ("window", "at += kPieceBytes - of_window;", "at -= of_window;", "both windows are one", TILE),
    ("last-piece", "at = (conv.pieces - 1) * map.plane;", "at = 0;", "the last piece is the first", replace(TILE, k=3)),
    ("second-row", "own + (tap * to_tap + block * 32)", "own + block * 32", "both rows of taps have one's weights", TILE),
    (
        "mask-end",
        "first - col, end - col",
        "first - col, 16",
        "the product of a value outside of x",
        EDGE,
    ),
    (
        "mask-first",
        "first - col, end - col",
        "0, end - col",
        "the product of a value outside of x",
        CORNER,
    ),
    ("rows-outside", "above + row + tap < 0 || above + row + tap >= h ||", "", "rows outside of x", CORNER),
    (
        "accumulate",
        "is_first ? sums[tap][block][i] : *sum + sums[tap][block][i]",
        "sums[tap][block][i]",
        "sums of earlier tiles are lost",
        MANY,
    ),
)
MULTIPLY_ADD = mutations_of(
    "upsample/upsample_multiply_add.cuh",
    ("row-of-tap", "pixel[r + tap].value[e]", "pixel[r].value[e]", "both rows of taps read one", FLOAT),
    (
        "outside",
        "if (at_w >= 0 && at_w < p.w) add_products",
        "add_products",
        "the product of a value outside of x",
        replace(CORNER, math="float32"),
    ),
    ("shares", "row += p.shares", "++row", "every share has all rows", FEW),
    ("part", "int64_t(blockIdx.x) * p.shares + share", "int64_t(blockIdx.x) * p.shares", "shares write one part", FEW),
)
TILES_OF = mutations_of(
    "upsample/upsample_tile.cuh",
    (
        "barrier",
        "        take_turn(group);\n        __syncthreads();\n",
        "        take_turn(group);\n",
        "y is made before x is there",
        TILE,
    ),
    (
        "halo",
        "Products::multiply(sums, p.conv, phase, x, 0, row + kUpsampleHaloRows,",
        "Products::multiply(sums, p.conv, phase, x, 0, row,",
        "rows of x are those above",
        TILE,
    ),
    ("bias-rows", "kUpsampleHaloRows + (row >> 2)", "(row >> 2)", "rows above count in the bias", FLOAT),
)
FINISH = mutations_of(
    "upsample/upsample_finish.cuh",
    ("parts", "part < parts; part", "part < parts - 1; part", "a part is left out", TILE),
    ("bias-parts", "is_bias ? p.parts_bias : p.parts", "p.parts", "as many parts of the bias as of the weight", FEW),
    (
        "place",
        "(int64_t(c) * p.o + o) * p.taps + tap",
        "(int64_t(o) * p.c + c) * p.taps + tap",
        "inputs and outputs change places",
        TILE,
    ),
)
POSITIONS = mutations_of(
    "upsample/upsample_positions.cuh",
    (
        "first",
        "(row - int(k == 2)) * k + (col - int(k == 2))",
        "row * k + col",
        "2 x 2 is taken for another form",
        replace(SINGLE, k=2),
    ),
    ("last", "row == 3 || col == 3 ? k == 4 :", "", "3 x 3 has a fourth tap", replace(SINGLE, k=3)),
    ("warps", "warp < kWarps; ++warp", "warp < 1; ++warp", "a warp adds up alone", replace(SINGLE, sizes=(1, 2, 2, 40, 80))),
)
SINGLY = mutations_of(
    "upsample/upsample_single.cuh",
    ("above", "odd ? below[at] : above[at]", "below[at]", "the row above is the one below", SINGLE),
    ("shift", "above[i] = here[i], here[i] = below[i];", "here[i] = below[i];", "the row above is the first", SINGLE),
    ("last-row", "if (2 * row + odd >= p.yh) continue;", "", "a row behind the last is written", replace(SINGLE, crop=(1, 0))),
    (
        "runs",
        "in_runs<E, 4>(p.out, p.yw) &&",
        "",
        "four outputs at once where they are no run",
        replace(SINGLE, sizes=(1, 2, 2, 5, 6), crop=(0, 2)),
    ),
    (
        "outside",
        "at_w >= 0 && at_w < p.yw ? A(to_float(pixels[col])) : A(0)",
        "A(to_float(pixels[col]))",
        "a product outside of dy",
        NEAR_EDGE,
    ),
    (
        "strip",
        "s.row = row0 + at.row * p.strip",
        "s.row = row0",
        "every strip is the first",
        replace(SINGLE, sizes=(1, 2, 2, 40, 8)),
    ),
)
DIRECTLY = mutations_of(
    "upsample/upsample_direct.cuh",
    ("edge", "at_h < 0 || at_h >= p.yh ||", "at_h < 0 ||", "outputs behind the last row", replace(DIRECT, crop=(3, 0))),
    ("bias", "(tap / 4 == 1 || tap / 4 == 2) &&", "(tap / 4 == 1) &&", "half of dy counts in the bias", DIRECT),
    ("shift", "const int r = row - shift_h;", "const int r = row + shift_h;", "rows of x are turned", DIRECT),
)
MUTATIONS = [*RUNS, *MAPS, *UNITS, *PRODUCTS, *MULTIPLY_ADD, *TILES_OF, *FINISH, *POSITIONS, *SINGLY, *DIRECTLY]
