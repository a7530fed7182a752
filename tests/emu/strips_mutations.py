"""Faults in the CUDA kernels of depthwise strips, each with a small problem that has to show it."""

from dataclasses import dataclass

from faults import Fault
from strips_cases import LSKA, Case, column, pairs, row, square

MSCA = Case("msca", pairs(7, 21), square(5), skip=True, n=1, c=3, h=13, w=21)
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


def _of(file: str, *mutations: tuple[str, str, str, str, Case]) -> list[Mutation]:
    """Mutations of one file, as (name, old, new, why, caught by)."""
    prefix = file.removeprefix("strips/strips_").removesuffix(".cuh")
    return [Mutation(f"{prefix}-{name}", Fault(file, old, new, why), case) for name, old, new, why, case in mutations]


TILE = _of(
    "strips/strips_tile.cuh",
    (
        "no-barrier",
        "store(p.map[op.src], p.image[op.dst]);\n      }\n      __syncthreads();",
        "store(p.map[op.src], p.image[op.dst]);\n      }",
        "an operation reads what others have not written yet",
        MSCA,
    ),
    (
        "no-barrier-in-dot",
        "    __syncthreads();\n\n    A* const to = static_cast<A*>(p.partial)",
        "    A* const to = static_cast<A*>(p.partial)",
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
    ("bias-in-gradients", "k.bias && !op.flipped", "k.bias", "a gradient has no bias", MSCA),
    ("window", "window[i] = window[i + kGroup];", "window[i] = window[i + kGroup - 1];", "the window moves too little", MSCA),
    ("last-tap", "if (t >= taps) break;", "if (t + 1 >= taps) break;", "the last tap is left out", MSCA),
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
    ("split-twice", "piece += kStripsWarp * op.splits", "piece += kStripsWarp", "pixels are counted by every split", TILES),
    (
        "part-of-channel",
        "(part * p.c + channel0) * p.sums + op.sums",
        "(part * p.c) * p.sums + op.sums",
        "all groups of channels write the first one's sums",
        Case("channels", pairs(7), n=1, c=70, h=9, w=9),
    ),
    ("order-of-taps", "return down ? t * lines + u : u * taps + t;", "return u * taps + t;", "columns are not rows", RECTANGLES),
    ("warp-sum", "v[0] += shuffle_xor(v[0], 2);", "v[0] += shuffle_xor(v[0], 1);", "lanes are added twice", MSCA),
    (
        "addend",
        "op.addend == StripsAddend::kMap ? p.map[op.addend_map] : dst",
        "dst",
        "the skip adds what was there before",
        MSCA,
    ),
    (
        "padding-of-images",
        "    zero_outside(to, in_h, in_w);\n    const int rows",
        "    const int rows",
        "the padding of x is what was there before",
        MSCA,
    ),
    ("tile-column", "tile % p.tiles_w * p.tile_w", "tile % p.tiles_w * p.tile_h", "tiles lie elsewhere", TILES),
    ("tile-row", "tile / p.tiles_w * p.tile_h", "tile / p.tiles_h * p.tile_h", "tiles lie elsewhere", TILES),
    ("part-of-tile", "part = n * tiles + tile;", "part = n * tiles;", "tiles write the same parts", TILES),
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
LAST_CHANNELS = Mutation(
    "tile-pixel-of-channels",
    Fault(
        "strips/strips_tile.cuh",
        "{e & (p.channels - 1), line, e / p.channels}",
        "{e & (p.channels - 1), line, e % p.channels}",
        "columns of another pixel",
    ),
    LSKA,
    "channels_last",
)
MUTATIONS = (*TILE, LAST_CHANNELS, *FINISH, *DIRECT)
