"""Faults in the CUDA kernels of depthwise strips, each with a small problem that has to show it."""

import math
from dataclasses import dataclass, replace

from faults import Fault
from strips_cases import Case, column, pairs, row, square

MSCA = Case("msca", pairs(7, 21), square(5), skip=True, n=1, c=3, h=13, w=21)
#: Whole groups of outputs along both axes, and so the kernels that know their taps; rows of a channel are quads.
WHOLE = Case("whole", pairs(7, 19, 21), square(5), skip=True, n=1, c=8, h=16, w=32)
WHOLE_CHAIN = Case("whole-chain", ((square(3), row(11), column(11)),), n=2, c=4, h=32, w=48)
#: A block has four channels of it, whose maps are moved four elements at a time in either layout.
MANY_CHANNELS = Case("many-channels", pairs(7), n=1, c=96, h=16, w=16)
#: A block has eight channels of it in channels_last.
EIGHT_CHANNELS = Case("eight-channels", pairs(7), n=2, c=32, h=8, w=16)
#: Several channels of a block whose pieces are no whole number of its threads.
ODD_CHANNELS = Case("odd-channels", pairs(7), n=1, c=96, h=9, w=20)
#: More than a tile along both axes, and more than one image.
TILES = Case("tiles", pairs(7, 21), square(5), skip=True, n=2, c=1, h=70, w=140)
RECTANGLES = Case("rectangles", (((13, 5, (1, 1)),), ((5, 13, (1, 1)),)), n=1, c=2, h=20, w=17)
DILATED = Case("dilated", ((square(3, 2), row(5, 4)), (column(5, 5),)), n=1, c=3)
#: No tile of it fits in shared memory.
FAR = Case("far", ((column(3, 108), row(3, 108)),), n=1, c=1, h=118, w=113)


@dataclass(frozen=True)
class Mutation:
    name: str
    fault: Fault
    caught_by: Case
    layout: str = "nchw"
    math: str = "float32"
    #: A value in the last place of a map, "x" or "dy", that the fault has to show with.
    special: tuple[str, float] | None = None


def _of(file: str, *mutations: tuple[str, str, str, str, Case]) -> list[Mutation]:
    """Mutations of one file, as (name, old, new, why, caught by)."""
    prefix = file.removeprefix("strips/strips_").removesuffix(".cuh")
    return [Mutation(f"{prefix}-{name}", Fault(file, old, new, why), case) for name, old, new, why, case in mutations]


UNIT = _of(
    "strips/strips_unit.cuh",
    (
        "no-barrier",
        "of)::value>(p.map[op.src], p.image[op.dst]); });\n      }\n      __syncthreads();",
        "of)::value>(p.map[op.src], p.image[op.dst]); });\n      }",
        "an operation reads what others have not written yet",
        MSCA,
    ),
    (
        "ends-of-rows",
        "walk.piece : walk.piece + whole) * kZeros",
        "walk.piece : walk.piece) * kZeros",
        "the right end is what was there before",
        WHOLE,
    ),
    (
        "rows-outside",
        "walk.row : walk.row + in_h.size()",
        "walk.row : walk.row",
        "rows below the image are what was there before",
        WHOLE,
    ),
    (
        "padding-of-images",
        "zero_outside(to, in_h, in_w);",
        "",
        "the padding of x is what was there before",
        MSCA,
    ),
    ("tile-column", "tile % p.tiles_w * p.tile_w", "tile % p.tiles_w * p.tile_h", "tiles lie elsewhere", TILES),
    ("tile-row", "tile / p.tiles_w * p.tile_h", "tile / p.tiles_h * p.tile_h", "tiles lie elsewhere", TILES),
)
TILE = _of(
    "strips/strips_tile.cuh",
    (
        "no-barrier-in-dot",
        "    __syncthreads();\n\n    const A* const scratch",
        "    const A* const scratch",
        "parts of other warps are not there yet",
        MSCA,
    ),
    (
        "no-padding-of-maps",
        "if (op.addend != StripsAddend::kItself) zero_outside(dst, in_h, in_w);",
        "",
        "a map's padding is what was there before",
        MSCA,
    ),
    (
        "end-of-line",
        "if (first + i < along.end) store_shared(to + i * to_step, sum[i]);",
        "store_shared(to + i * to_step, sum[i]);",
        "a bias leaks over the border",
        MSCA,
    ),
    ("not-flipped", "op.flipped ? count - 1 - natural : natural", "natural", "gradients take the kernel as it is", MSCA),
    ("bias-in-gradients", "op.flipped || !k.bias", "!k.bias", "a gradient has no bias", MSCA),
    (
        "no-line-dilation",
        "from += axes.line_dilation * line_step",
        "from += line_step",
        "lines are not next to each other",
        DILATED,
    ),
    (
        "dilation-in-dot",
        "(first + first_tap * axes.dilation)",
        "(first + first_tap)",
        "taps are not next to each other",
        Case("far-taps", ((row(11, 3),),), n=1, c=1, h=9, w=40),
    ),
    (
        "split-twice",
        "piece += kStripsWarp * op.splits) {\n        const int line",
        "piece += kStripsWarp) {\n        const int line",
        "pixels are counted by every split",
        Case("splits", pairs(7), n=1, c=12, h=31, w=60),
    ),
    (
        "split-twice-of-known-taps",
        "piece += kStripsWarp * op.splits) {\n        const int group",
        "piece += kStripsWarp) {\n        const int group",
        "pixels are counted by every split",
        Case("whole-splits", pairs(7), n=1, c=6, h=64, w=64),
    ),
    ("bias-of-known-taps", "sum[kTaps] += of_pixel[i];", "", "a bias's gradient is not added up", WHOLE),
    (
        "line-of-known-taps",
        "const A* const x_of = x_core + c * x.plane + u *",
        "const A* const x_of = x_core + c * x.plane + 0 *",
        "lines of a square are one",
        WHOLE,
    ),
    (
        "stored-quads",
        "store_quad(to + i, {sum[i], sum[i + 1]",
        "store_quad(to + i, {sum[i + 1], sum[i]",
        "outputs change places",
        WHOLE,
    ),
    (
        "other-axis",
        "conv_along<true>(op, axes, in_h, in_w)",
        "conv_along<true>(op, axes, in_w, in_h)",
        "columns are as long as rows",
        WHOLE,
    ),
    (
        "part-of-channel",
        "(part * p.c + of_unit(kChannel)) * p.sums + op.sums",
        "(part * p.c) * p.sums + op.sums",
        "all groups of channels write the first one's sums",
        Case("channels", pairs(7), n=1, c=70, h=9, w=9),
    ),
    (
        "addend",
        "op.addend == StripsAddend::kMap ? p.map[op.addend_map] : dst",
        "dst",
        "the skip adds what was there before",
        MSCA,
    ),
    (
        "part-of-tile",
        "(p.tiles_h * p.tiles_w) + of_unit(kTile);",
        "(p.tiles_h * p.tiles_w);",
        "tiles write the same parts",
        TILES,
    ),
)
GEOMETRY = _of(
    "strips/strips_geometry.cuh",
    ("order-of-taps", "return down ? t * lines + u : u * taps + t;", "return u * taps + t;", "columns are not rows", RECTANGLES),
    ("walk", "piece -= pieces, ++row, next_row();", "piece -= pieces, next_row();", "a row is skipped", WHOLE),
    ("next-row", "at_row(row - w.pieces * piece)", "at_row(row)", "pieces are skipped", ODD_CHANNELS),
    ("next-slice", "at_slice(slice - w.rows * row)", "at_slice(slice)", "rows are skipped", ODD_CHANNELS),
    (
        "walk-slice",
        "row -= rows, ++slice, next_slice();",
        "row -= rows, slice += 2, next_slice();",
        "channels are skipped",
        ODD_CHANNELS,
    ),
)
LINES = _of(
    "strips/strips_lines.cuh",
    ("window", "window[i] = window[i + kGroup];", "window[i] = window[i + kGroup - 1];", "the window moves too little", MSCA),
    (
        "last-tap",
        "if (t >= taps) break;\n#pragma unroll\n    for (int i = 0; i < kOutputs",
        "if (t + 1 >= taps) break;\n#pragma unroll\n    for (int i = 0; i < kOutputs",
        "the last tap is left out",
        MSCA,
    ),
    ("warp-sum", "v[0] += shuffle_xor(v[0], 2);", "v[0] += shuffle_xor(v[0], 1);", "lanes are added twice", MSCA),
    (
        "skip",
        "(kStripsQuad - kTaps / 2 % kStripsQuad) % kStripsQuad",
        "kTaps / 2 % kStripsQuad",
        "inputs stand elsewhere in their quads",
        WHOLE,
    ),
    (
        "first-tap",
        "sum[j - t] += w[t / kStripsQuad][t % kStripsQuad] * x;",
        "sum[j - t] += w[t / kStripsQuad][0] * x;",
        "taps of a quad are one",
        WHOLE,
    ),
    ("products", "sum[t] += g[j - t] * x;", "sum[t] += g[0] * x;", "pixels of a lane are one", WHOLE),
    (
        "last-input",
        "if (first + e >= 0 && first + e < kCount)",
        "if (first + e >= 0 && first + e < kCount - 1)",
        "the last input is left out",
        WHOLE,
    ),
)
FINISH = _of(
    "strips/strips_finish.cuh",
    ("skips-parts", "part += kShares", "part += 2 * kShares", "not all parts are added", TILES),
    ("first-sum", "of_channel - g.first", "of_channel", "every gradient gets the first sums", MSCA),
)
DIRECT = _of(
    "strips/strips_direct.cuh",
    ("not-flipped", "p.flipped ? taps - 1 - tap : tap", "tap", "gradients take the kernel as it is", FAR),
    ("bias-in-gradients", "k.bias && !p.flipped", "k.bias", "a gradient has no bias", FAR),
    ("shift", "(tap / k.kw - k.kh / 2) * k.dh", "(tap / k.kw) * k.dh", "the kernel's centre is elsewhere", FAR),
)
#: Of the tensor cores: a channel has a tile of which neither axis is whole, of several 16 by 32.
BANDS = Case("bands", pairs(7, 21), square(5), skip=True, n=1, c=3, h=37, w=41)
#: Bands of more pieces than are in registers at a time, and gradients that take several passes.
LONG = Case("long", pairs(51), n=1, c=2, h=24, w=40)


def _banded(file: str, *mutations: tuple[str, str, str, str, Case]) -> tuple[Mutation, ...]:
    return tuple(replace(m, math="bfloat16") for m in _of(file, *mutations))


_BANDED = "strips/strips_banded.cuh"
_AGAIN = Fault(_BANDED, "if (ballot(!(nothing == 0)) == 0) return found;", "return found;", "zeros of a band hide no inf")
_OF_PIXELS = Fault(_BANDED, "ballot(there && !is_finite(total))", "ballot(false)", "masked pixels hide no inf")
BANDED = (
    *_banded(
        _BANDED,
        ("zeros-of-weights", "store_shared(all + i, make_uint4(0, 0, 0, 0));", ";", "a band's zeros are what was there", BANDS),
        ("pair-of-taps", "store_shared(halves - 1, value);", "", "every other tap is zero", BANDS),
        ("flipped", "op.flipped ? count - 1 - at : at", "at", "gradients take the kernel as it is", BANDS),
        ("gap-of-taps", "kStripsBandBefore + t * axes.dilation;", "kStripsBandBefore + t;", "taps are neighbours", DILATED),
        ("bias-in-gradients", "if (op.flipped || !k.bias) continue;", "if (!k.bias) continue;", "a gradient has no bias", BANDS),
        ("line", "at += axes.line_dilation", "at += 1", "lines are not next to each other", DILATED),
        (
            "second-pass",
            "load_shared(words + (first + m) * kPiece<E>)",
            "load_shared(words + m * kPiece<E>)",
            "long bands begin anew",
            LONG,
        ),
        (
            "end-of-pairs",
            "if (out.left == block * 8 + 1) sum[block][1] = sum[block][3] = 0;",
            "",
            "a bias leaks over the border of an odd row",
            BANDS,
        ),
        ("skip", "axes.down ? 0 : -axes.reach & (whole - 1)", "0", "windows begin at no multiple of 8", BANDS),
        ("end-of-run", "min(in_h.end, first_row + of_run)", "in_h.end", "warps write the same rows", TILES),
        ("start-of-run", "in_h.begin + walk.row * of_run", "in_h.begin + walk.row * 16", "strips overlap", TILES),
        ("rows-of-run", "first_row + at < end_row; at += 16", "first_row + at < end_row; at += 32", "rows are left out", TILES),
        ("all-there", "out.left + c_column(lane, 0) >= 8 * kBlocks", "true", "columns beyond the image are written", BANDS),
        ("many-pieces", "pieces_along(axes) <= kManyPieces", "true", "taps are left out", LONG),
        ("tile-of-warp", "in_w.begin + walk.piece * 8 * kBlocks", "in_w.begin + walk.piece * 8", "tiles overlap", BANDS),
        (
            "no-barrier-in-dot",
            "    __syncthreads();\n\n    const int lines",
            "    const int lines",
            "parts are not there yet",
            BANDS,
        ),
        ("rows-of-mask", "(a, along - i, depth - d, lane);", "(a, 16, depth - d, lane);", "halos count", TILES),
        ("depth-of-mask", "(a, along - i, depth - d, lane);", "(a, along - i, 16, lane);", "halos count", TILES),
        (
            "diagonal",
            "store_shared(diagonal + m * 8 + e, before + on);",
            "store_shared(diagonal + m * 8 + e, before);",
            "half",
            BANDS,
        ),
        ("pass-of-diagonal", "diagonal - pass * kStripsGramBlocks * 8;", "diagonal;", "passes are one", LONG),
        ("splits", "j < op.splits * 8", "j < 8", "shares are left out", Case("shares", pairs(7), n=1, c=12, h=31, w=60)),
        ("line-of-dot", "x_row + u * axes.line_dilation + d", "x_row + d", "lines of a square are one", BANDS),
    ),
    *_banded(
        "strips/strips_bands.cuh",
        ("rows-beyond", "min(row, rows - 1) * pitch", "row * pitch", "other maps are read", BANDS),
        ("half-of-window", "mma_short(sum[block], a[2], a[3]", "mma_short(sum[block], a[0], a[1]", "other columns", BANDS),
        ("half-of-band", "a[0], a[1], band[m], M{}", "a[0], a[1], band[0], M{}", "other taps", BANDS),
        (
            "band-down",
            "a[2] = load_shared(words + 8), a[3] = a[0];",
            "a[2] = a[0], a[3] = load_shared(words + 8);",
            "turned",
            BANDS,
        ),
        (
            "not-turned",
            "ldmatrix_x4_trans(b, m.row(row + b_half(lane)",
            "ldmatrix_x4(b, m.row(row + b_half(lane)",
            "columns are rows",
            BANDS,
        ),
        (
            "pieces-down",
            "int left = length + 15;",
            "int left = length;",
            "taps are left out",
            BANDS,
        ),
    ),
    Mutation("banded-inf-in-zeros", _AGAIN, BANDS, math="bfloat16", special=("x", math.inf)),
    Mutation("banded-inf-in-masks", _OF_PIXELS, BANDS, math="bfloat16", special=("x", math.inf)),
    Mutation(
        "banded-inf-in-padding",
        Fault(_BANDED, "else if (at_h >= 0 && at_h < p.h && at_w >= 0 && at_w < p.w) {", "else {", "padding is multiplied"),
        BANDS,
        math="bfloat16",
        special=("dy", math.inf),
    ),
)
#: Of products in tf32: what is otherwise than in 16 bits.
TF32 = tuple(
    replace(m, name=f"tf32-{m.name}", math="tf32")
    for m in (
        *_of(
            _BANDED,
            ("taps", "kIsTf32<M> && kPieces > 0 ? 1 : 2", "2", "a word has one tap", BANDS),
            ("rows-of-mask", "(a, along - i, depth - d, lane);", "(a, 16, depth - d, lane);", "halos count", TILES),
            ("bias-of-lanes", "bias[0] += shuffle_xor(bias[0], 2);", "", "half of the pixels are left out", BANDS),
            (
                "steps-of-dot",
                "d = step * kDepth<E>;",
                "d = step * 16;",
                "pixels are left out",
                BANDS,
            ),
        ),
        *_of(
            "strips/strips_bands.cuh",
            ("turned-a", "row + (lane & 3) * 2 + (i >> 1)", "row + (lane & 3) + (i >> 1) * 4", "rows in another order", BANDS),
            ("turned-b", "row + (lane & 3) * 2 + (i & 1)", "row + (lane & 3) + (i & 1) * 4", "rows in another order", BANDS),
            ("rows-down", "x.from(row + 1)", "x.from(row + 4)", "rows in another order", BANDS),
            (
                "band-down",
                "a[2] = load_shared(words + 1), a[3] = load_shared(words - 7);",
                "a[2] = load_shared(words - 7), a[3] = load_shared(words + 1);",
                "turned",
                BANDS,
            ),
            ("next-block", "const int m = first - block * kNext;", "const int m = first - block;", "windows overlap", BANDS),
        ),
    )
)
LAST_CHANNELS = tuple(
    Mutation(f"unit-{name}", Fault("strips/strips_unit.cuh", old, new, why), case, "channels_last")
    for name, old, new, why, case in (
        (
            "channels-of-a-pixel",
            "kTogether * map.plane, 1,",
            "map.plane, 1,",
            "channels lie on top of each other",
            EIGHT_CHANNELS,
        ),
        (
            "element-of-a-pixel",
            "store_shared(inside + place[i] + e * l.in_piece, value[e]);",
            "store_shared(inside + place[i], value[e]);",
            "four channels are one",
            MANY_CHANNELS,
        ),
    )
)
MUTATIONS = (*UNIT, *TILE, *BANDED, *TF32, *LAST_CHANNELS, *GEOMETRY, *LINES, *FINISH, *DIRECT)
