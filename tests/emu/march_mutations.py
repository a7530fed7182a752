"""Problems for the refinement's kernel for Hopper, and faults in it, each with a small problem that has to show it."""

from dataclasses import dataclass, replace

from faults import Fault, Mutation


@dataclass(frozen=True)
class March:
    """As refine_mutations.Case; ``out``: the layout of y, if it is not that of x; ``biases``: whether there are any."""

    sizes: tuple[int, int, int, int, int]
    math: str = "bfloat16"
    layout: str = "nchw"
    out: str = ""
    special: tuple[str, float, int] | None = None
    negative: bool = False
    biases: bool = True


#: A strip that the map does not fill.
SHORT = March((1, 21, 21, 5, 40))
#: Two strips, the second of one group of pixels; two images.
STRIPS = March((2, 21, 19, 4, 136), "float16")
#: More units than the six warpgroups, of a row each.
ROW = March((7, 19, 21, 1, 16), "float16")
#: Strips that the map fills, and segments of three rows.
WHOLE = March((1, 20, 17, 7, 256), "float16", "channels_last")
TURNED = March((1, 21, 18, 9, 24), layout="nchw", out="channels_last")
BACK = March((1, 17, 21, 9, 24), layout="channels_last", out="nchw")
#: Values that are not finite, where padded channels and pixels meet them; what the ReLU stops is not nan.
NCHW = March((1, 19, 18, 5, 136), special=("x", float("inf"), 128), negative=True)
#: A map between others in memory.
BELOW = March((3, 21, 19, 2, 16))
INFINITE = March((1, 21, 21, 5, 136), special=("x", float("inf"), 127), negative=True)
PADDED = March((1, 19, 18, 5, 136), layout="channels_last", special=("x", float("inf"), 128), negative=True)

CASES = (
    *(SHORT, STRIPS, ROW, WHOLE, TURNED, BACK, INFINITE, PADDED),
    replace(SHORT, math="float16", layout="channels_last"),
    replace(STRIPS, layout="channels_last"),
    replace(SHORT, biases=False),
    March((1, 18, 20, 19, 128)),
    March((1, 21, 21, 3, 8), special=("x", float("nan"), 0)),
    March((1, 17, 17, 4, 144), special=("x", float("-inf"), 143)),
    replace(INFINITE, negative=False, special=("x", float("inf"), 128)),
    March((1, 17, 19, 2, 16), "float16", special=("x", float("inf"), 15), negative=True),
)


MUTATIONS = tuple(
    Mutation(f"march-{name}", Fault("refine/hopper/refine_march.cuh", old, new, why), case)
    for name, old, new, why, case in (
        ("border", "place >= 0 && place < end", "place >= 0", "what is right of the image is not zero", STRIPS),
        ("rows", "image_row >= 0 && image_row < p.h ? own", "true ? own", "what is above the image is not zero", BELOW),
        ("channels", "piece < 2 || kMarchWhole + channel < p.c;", "true;", "the padded channels are whatever was there", NCHW),
        (
            "u-outside",
            "inside && (piece < 2 || channel < p.m);",
            "channel < p.m;",
            "u is not zero above and below the image",
            SHORT,
        ),
        ("u-channels", "inside && (piece < 2 || channel < p.m);", "inside;", "zero weights meet what is not finite", PADDED),
        ("u-left", "if (col == 0 && unit.col0 == 0) col", "if (false) col", "u is not zero left of the image", SHORT),
        ("u-right", "if (col == behind) col", "if (false) col", "u is not zero right of the image", SHORT),
        ("u-last", "if (kMarchCols + i == behind) continue;", "", "u is not zero right of a full strip", WHOLE),
        (
            "halves",
            "low ? sums[i / 2 * 4 + i % 2] : sums[i / 2 * 4 + 2 + i % 2]",
            "low ? sums[i / 2 * 4 + 2 + i % 2] : sums[i / 2 * 4 + i % 2]",
            "the last channels are those of another row",
            SHORT,
        ),
        ("slots", "(dy + slot + 2) % 3", "(dy + slot + 1) % 3", "rows of taps belong to other rows", SHORT),
        (
            "numbers",
            "(5 * version + input) % 8 : input % 8",
            "input % 8 : input % 8",
            "the last channels of u have the weights of others",
            SHORT,
        ),
        ("third-tap", "third + 2 * kPieceBytes;", "third + kPieceBytes;", "the last channels of a tap count twice", SHORT),
        ("column", "x_row(row) + 6 * kPieceBytes", "x_row(row) + 7 * kPieceBytes", "u is moved by a pixel", SHORT),
        ("starts-again", "two[0] = these ? bias : two[0],", "two[0] = bias,", "sums of other rows are lost", SHORT),
        ("residual-row", "keep_y(x_row(row - 2)", "keep_y(x_row(row - 1)", "x is added to the row above", SHORT),
        (
            "no-fence",
            "});\n      fence_async_proxy();",
            "});",
            "wgmma may read what was there before",
            SHORT,
        ),
        ("no-barrier", "copy_wait<1>();\n      wait();", "copy_wait<1>();", "a warp overtakes another", SHORT),
        ("early", "copy_wait<1>();", "copy_wait<2>();", "a row of x is arranged before it has come", SHORT),
        ("segment", "row0 = segment * p.rows;", "row0 = segment * (p.rows + 1);", "rows are left out between segments", WHOLE),
        (
            "by-pixels",
            "channel < p.c ? load_shared(channels + channel)",
            "channel < p.c + 1 ? load_shared(channels + channel)",
            "a padded channel is the next pixel's",
            PADDED,
        ),
        (
            "rest-of-x",
            "kPieceBytes) + channel - kMarchWhole;",
            "kPieceBytes);",
            "the last channels of y have the first of them added",
            SHORT,
        ),
    )
)
