"""Faults in the CUDA kernels of boundary refinement, each with a small problem that has to show it."""

from dataclasses import dataclass, replace

from faults import mutations_of


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
#: The depth is an odd number of pieces; no channel of x is padded.
INFINITE = Case((1, 24, 19, 7, 40), special=("x", float("inf"), 30))
#: The last piece of a pixel has two padded channels.
PADDED = replace(INFINITE, sizes=(1, 22, 19, 7, 40), layout="channels_last")
#: All channels of three pixels are packed, and a number behind them is padding. What the ReLU stops is not nan.
PACKED = replace(INFINITE, sizes=(1, 5, 5, 7, 40), negative=True)
#: Pixels are read and written in pairs.
PAIRS = Case((1, 21, 19, 6, 40))
#: Padded channels of u; the second tile has units that do not touch the border.
PADDED_U = replace(INFINITE, sizes=(1, 24, 22, 7, 70), special=("x", float("inf"), 45), negative=True)
#: The second tile's pixels must not count in the first.
TWO_TILES = Case((1, 8, 8, 5, 31), special=("x", float("inf"), 30))
#: As many tiles as there are blocks, and more: the sums of a block are those of several tiles.
MANY = Case((40, 3, 2, 3, 5))
#: Of so many channels the weights of one convolution are in shared memory at a time.
IN_TURNS = Case((1, 40, 38, 5, 6))
FLOAT64 = replace(TILE, math="float64")


RUNS = mutations_of(
    "pixel_runs.cuh",
    ("border", "col >= 0 && col < w;", "col >= 0 && col <= w;", "the pixel right of the image is not zero", TILE),
    (
        "channels",
        "is_inside(row, col) ? channels - channel : 0",
        "is_inside(row, col) ? kPiece<E> : 0",
        "the padded channels are another pixel's",
        PADDED,
    ),
    (
        "second-of-pair",
        "(in[i + 1][j / 2] & 0xffff0000u)",
        "(in[i][j / 2] & 0xffff0000u)",
        "two channels of a pixel are one",
        PAIRS,
    ),
    ("pairs", "strides % kWide == 0 &&", "", "pairs of pixels in rows of an odd length", TILE),
    (
        "pieces-of-pixels",
        "int piece = tid % together;",
        "int piece = 0;",
        "in channels_last the first piece of a pixel stands for all",
        replace(TILE, layout="channels_last"),
    ),
    ("back", "out[j][i] = in[i][j];", "out[j][i] = in[0][j];", "both pixels of a pair are the first", PAIRS),
)
MAPS = mutations_of(
    "refine/refine_maps.cuh",
    (
        "packed-padding",
        "number < 3 * kRest ? values[i + number / kRest % 3][number % kRest] : from_float<E>(0);",
        "values[i + number / kRest % 3][number % kRest];",
        "what is behind the packed channels is not zero",
        PACKED,
    ),
    (
        "packed-neighbours",
        "values[i + number / kRest % 3]",
        "values[number / kRest % 3]",
        "the second pixel of a pair has the neighbours of the first",
        PAIRS,
    ),
    (
        "rest-not-stored",
        "map.pixel.whole + int(map.pixel.packed > 0), rows",
        "map.pixel.whole, rows",
        "channels are left out",
        TILE,
    ),
    ("padding-of-u", "map.pixel.packed ? first : end;", "end;", "what is behind the packed channels of u is not zero", TILE),
    ("zeros", ": kRefineZeros;", ": 0;", "a zero weight meets what is not finite", replace(INFINITE, negative=True)),
    ("columns-of-taps", "of_pixel * plane + dx * kPieceBytes;", "of_pixel * plane;", "the columns of taps are one", TILE),
    ("channel-of-rest", "(packed < 0 ? 0 : pixel.whole * of_piece)", "0", "the packed channels are the first ones", TILE),
    ("not-flipped", "conv.flipped ? 8 - tap : tap", "tap", "gradients take the kernel as it is", TILE),
    (
        "not-turned",
        "output * conv.of_output + of.channel * conv.of_input",
        "output * conv.of_input + of.channel * conv.of_output",
        "outputs and inputs of the weights change places",
        TILE,
    ),
    ("tap", "tap = dy * 3 + of.dx;", "tap = of.dx * 3 + dy;", "rows of taps are columns", TILE),
    (
        "column-of-tile",
        "image.store_runs(runs, map.row0 + row, map.col0 + col,",
        "image.store_runs(runs, map.row0 + row, col,",
        "tiles lie on top of each other",
        TILES,
    ),
    (
        "row-of-tile",
        "int(rest % p.tiles_h) * (p.rows - 2)",
        "int(rest % p.tiles_h) * p.rows",
        "rows between the tiles are left out",
        TILES,
    ),
)
UNITS = mutations_of(
    "pixel_unit.cuh",
    ("biases", "i % 2 ? both.y : both.x", "both.x", "two outputs have the bias of one", TILE),
    (
        "mask",
        "const int pixel = half * 8 + (lane & 3) * 2;",
        "const int pixel = (lane & 3) * 2;",
        "pixels behind the last one count",
        BESIDE,
    ),
    (
        "mask-in-32-bits",
        "const int pixel = half * 4 + (lane & 3);",
        "const int pixel = lane & 3;",
        "pixels behind the last one count",
        replace(BESIDE, math="float32"),
    ),
)
PRODUCTS = mutations_of(
    "refine/refine_products.cuh",
    ("columns", "i * row + columns * half", "i * row", "pixels of a unit are counted twice", BESIDE),
    ("rows", "sums[i - dy][columns][block], a, b[dy]", "sums[i - dy][columns][block], a, b[2 - dy]", "taps upside down", TILE),
    ("pixels", "(columns * 16 + i * 4) * kPieceBytes", "(columns * 16 + i * 2) * kPieceBytes", "pixels are stored twice", TILE),
    ("mask-of-windows", "windows[r] &= mask[r >> 1];", "windows[r] &= ~0u;", "a zero meets a pixel of another tile", TWO_TILES),
    ("bias", "is_bias = window == g.windows;", "is_bias = window == 0;", "a bias is added up in the place of weights", TILE),
    ("row-of-taps", "b_at + i * b_row, windows_at", "b_at, windows_at", "the rows of taps are one", TILE),
    ("window", "b_map, unit.window, lane", "b_map, 0, lane", "the first numbers of the depth stand for all", TILE),
    ("group", "a_map, unit.group, lane", "a_map, 0, lane", "the first 24 channels stand for all", WIDE),
    ("group-of-bias", "a_map, group, lane", "a_map, 0, lane", "the biases of the first 24 channels stand for all", WIDE),
    ("last-rows", "if (rows_left)", "if (false)", "rows that are not four are left out", TILE),
    ("rows-of-four", "(!kAllRows && i - dy >= rows)", "false", "rows behind the last one count", TILE),
)
KERNELS = mutations_of(
    "refine/refine_tile.cuh",
    (
        "no-barrier-after-load",
        "load_map(x, p.maps[0], place.n, p.c, p.h, p.w);\n      __syncthreads();",
        "load_map(x, p.maps[0], place.n, p.c, p.h, p.w);",
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
        "load_weights<M>(conv, shared);\n    __syncthreads();",
        "load_weights<M>(conv, shared);",
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
    ("leaking-bias", "if (!pixel || !channel) sums", "if (!channel) sums", "the first bias leaks over the border", TILE),
    ("padded-channels", "if (!pixel || !channel) sums", "if (!pixel) sums", "the padded channels of u are nan", PADDED_U),
    ("padded-inside", "inside && u.pixel.whole * kPiece<E> <= p.m", "inside", "the padded channels of u are nan", PADDED_U),
    ("no-relu", "sum < 0 ? 0.0f : sum", "sum", "there is no ReLU", TILE),
    ("no-mask", "to_float(value) <= 0 ? 0.0f : sum", "sum", "the gradient ignores the ReLU", TILE),
    (
        "next-pixel",
        "store_shared(reinterpret_cast<E*>(at + second), value);",
        "",
        "a channel is not packed to the pixel before",
        TILE,
    ),
    (
        "one-after",
        "u.at(row0, col - 2, output + e + 2 * rest)",
        "u.at(row0, col - 1, output + e + 2 * rest)",
        "a channel is packed to the wrong pixel",
        TILE,
    ),
    ("no-x", "to_float(before.value[1]) + sum1", "sum1", "x is not added to half of the channels", TILE),
    ("sums-of-tiles", "first ? sum : to[i * 32] + sum;", "sum;", "the last tile of a block stands for all", MANY),
    ("unit-of-sums", "p.units + g.first + unit)", "p.units + unit)", "both weights' gradients are one", TILE),
    ("start-of-core", "gradient(p.grad[0], u, u.at(1, 1)", "gradient(p.grad[0], u, u.at(0, 0)", "the border counts", TILE),
    (
        "group",
        "group * kRefineOutputs + block * 8 + c_column(lane, 0);\n        if (output >= p.c)",
        "block * 8 + c_column(lane, 0);\n        if (output >= p.c)",
        "all groups are the first",
        WIDE,
    ),
)
FINISH = mutations_of(
    "refine/refine_finish.cuh",
    ("skips-parts", "part += kRefineFinishThreads / 32", "part += kRefineFinishThreads / 16", "not all parts are added", MANY),
    ("first-unit", "of(g, unit - g.first)", "of(g, unit)", "the second gradient's units are counted from the first's", TILE),
    ("tap", "dy * 3 + depth.dx]", "depth.dx * 3 + dy]", "rows of taps are columns", TILE),
    ("window", "of.window * kRefineWindows + row", "row", "the first numbers of the depth stand for all", TILE),
)
DIRECT = mutations_of(
    "refine/refine_direct.cuh",
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
MUTATIONS = (*RUNS, *MAPS, *UNITS, *PRODUCTS, *KERNELS, *FINISH, *DIRECT)
