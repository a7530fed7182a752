"""Problems for the Hopper kernels in emulation."""

from cases import Case, square
from problems import EmulatedCase, wild

#: Short lines, of which parts are left out of the products; one item to each warpgroup.
SHORT_LINES = Case("short-lines", n=1, c=72, h=16, w=16, mid_l=21, mid_r=21, out=5, k=square(15))
#: Lines of several items, the second part of which is left out at the end; and so many of them that blocks share weights.
LONG_LINES = Case("long-lines", n=1, c=40, h=8, w=99, mid_l=5, mid_r=40, out=3, k=(7, 3, 15, 3))
THREE_UNITS = Case("three-units", n=1, c=264, h=16, w=16, mid_l=21, mid_r=64, out=4, k=(9, 3, 9, 3))
WIDE_MAP = Case("wide-map", n=1, c=40, h=32, w=32, mid_l=21, mid_r=3, out=3, k=square(15))

#: Three tiles, so that a block of a cluster goes without; two groups of middle channels; lines that fill tiles.
THREE_TILES = Case("three-tiles", n=3, c=72, h=8, w=16, mid_l=21, mid_r=21, out=5, k=square(15))
#: Lines that overhang tiles, one group of middle channels, several boxes in a tile.
OVERHANG = Case("overhang", n=1, c=40, h=24, w=24, mid_l=9, mid_r=3, out=6, k=square(15))
#: Many k-blocks, few tiles: the channels are split.
DEEP = Case("deep", n=1, c=520, h=16, w=16, mid_l=5, mid_r=21, out=4, k=(11, 3, 7, 5))
ODD_SIZES = Case("odd-sizes", n=1, c=24, h=9, w=13, mid_l=5, mid_r=3, out=6, k=square(5))

#: More than three octets of middle channels, more than 15 taps, patches that reach over the map.
WIDE = Case("wide-middle", n=1, c=136, h=20, w=16, mid_l=30, mid_r=8, out=4, k=(9, 3, 17, 3))

#: A window so long that items are short.
LONG_KERNEL = Case("long-kernel", n=1, c=24, h=40, w=72, mid_l=3, mid_r=16, out=3, k=(63, 3, 63, 3))

#: The second stage: tiles of outputs, and middle channels in one, two and five octets; outputs that are whole pieces.
MANY_OUTPUTS = Case("many-outputs", n=2, c=8, h=18, w=21, mid_l=9, mid_r=37, out=40, k=(3, 9, 1, 5))
#: Large patches, of which parts reach over the map, several to a block; taps of a single octet in pairs and one alone.
LARGE_PATCHES = Case("large-patches", n=1, c=8, h=62, w=28, mid_l=3, mid_r=21, out=20, k=(3, 1, 3, 15))
#: NCHW that is copied 16 bytes at a time: channels with padding, parts of tiles either way, rows that are no whole pieces.
PLANES = Case("planes", n=2, c=76, h=6, w=28, mid_l=5, mid_r=9, out=3, k=(5, 3, 9, 3))

FORWARD = (
    EmulatedCase(SHORT_LINES, "half", "channels_last", "hopper-1"),
    EmulatedCase(SHORT_LINES, "tf32", "channels_last", "hopper"),
    EmulatedCase(THREE_TILES, "bfloat16", "channels_last", "hopper-2"),
    EmulatedCase(LONG_LINES, "bfloat16", "channels_last", "hopper-1"),
    EmulatedCase(WIDE_MAP, "half", "channels_last", "hopper-2"),
    EmulatedCase(OVERHANG, "bfloat16", "unaligned", "hopper"),
    EmulatedCase(THREE_UNITS, "half", "channels_last", "hopper-2"),
    EmulatedCase(DEEP, "half", "channels_last", "hopper"),
    EmulatedCase(DEEP, "tf32", "channels_last", "hopper-fast-launch"),
    EmulatedCase(ODD_SIZES, "half", "channels_last", "hopper"),
    EmulatedCase(LONG_KERNEL, "half", "channels_last", "hopper-2"),
    EmulatedCase(DEEP, "half", "nchw", "hopper"),
    EmulatedCase(THREE_TILES, "bfloat16", "nchw", "hopper-2"),
    EmulatedCase(SHORT_LINES, "tf32", "nchw", "hopper-1"),
    EmulatedCase(OVERHANG, "bfloat16", "view", "hopper"),
    EmulatedCase(MANY_OUTPUTS, "half", "channels_last", "hopper-1"),
    EmulatedCase(MANY_OUTPUTS, "bfloat16", "nchw", "hopper"),
    EmulatedCase(LARGE_PATCHES, "half", "channels_last", "hopper-large"),
    EmulatedCase(LARGE_PATCHES, "bfloat16", "nchw", "hopper-2"),
    EmulatedCase(MANY_OUTPUTS, "half", "nchw", "hopper-turned"),
    EmulatedCase(LARGE_PATCHES, "half", "channels_last", "hopper-turned-large"),
    EmulatedCase(ODD_SIZES, "half", "nchw", "hopper-choice"),
    EmulatedCase(THREE_UNITS, "half", "channels_last", "hopper-ahead"),
    EmulatedCase(PLANES, "half", "nchw", "hopper"),
)

#: So many channels of x that a block takes 256 of them.
MANY = Case("many-channels", n=1, c=264, h=24, w=8, mid_l=7, mid_r=17, out=3, k=(5, 3, 9, 3))
#: Rows of x are whole pieces of 16 bytes, pixels are not: its gradient is left to the portable kernel.
HALF_AN_OCTET = Case("half-an-octet", n=1, c=12, h=9, w=10, mid_l=5, mid_r=3, out=6, k=square(5))
#: Rows that are whole pieces, patches that reach over the map on either side, two maps.
ODD_ROWS = Case("odd-rows", n=2, c=24, h=13, w=24, mid_l=9, mid_r=3, out=3, k=(5, 3, 7, 3))
#: Three tiles of channels on two multiprocessors: two follow each other with the same windows.
SHALLOW = Case("shallow", n=1, c=264, h=8, w=16, mid_l=9, mid_r=16, out=3, k=(5, 3, 9, 3))
#: Three patches, each with two tiles of channels that follow each other.
PAIRS = Case("pairs", n=3, c=256, h=8, w=16, mid_l=9, mid_r=3, out=3, k=(5, 3, 9, 3))
#: Rows of more pixels than a patch has; patches that reach over the map on either side; a pair of octets, and a single one.
LONG_ROWS = Case("long-rows", n=1, c=136, h=6, w=72, mid_l=21, mid_r=3, out=3, k=(7, 3, 9, 3))
#: Rows that are a quarter of a patch of 32 columns wider than one; taps of a single octet in pairs and one alone.
WIDE_ROWS = Case("wide-rows", n=1, c=24, h=11, w=40, mid_l=3, mid_r=21, out=3, k=(5, 3, 7, 3))
BACKWARD = (
    EmulatedCase(HALF_AN_OCTET, "bfloat16", "channels_last", "hopper"),
    EmulatedCase(MANY, "half", "channels_last", "hopper-1", wanted=("x",)),
    EmulatedCase(THREE_TILES, "bfloat16", "channels_last", "hopper-2"),
    EmulatedCase(OVERHANG, "half", "unaligned", "hopper"),
    EmulatedCase(WIDE, "half", "channels_last", "hopper-2"),
    EmulatedCase(WIDE, "bfloat16", "channels_last", "hopper"),
    EmulatedCase(THREE_TILES, "half", "channels_last", "hopper", wanted=("w_r1",)),
    EmulatedCase(MANY_OUTPUTS, "half", "channels_last", "hopper-1"),
    EmulatedCase(LARGE_PATCHES, "half", "nchw", "hopper-large", wanted=("w_l1", "b_l1", "b_r1")),
    EmulatedCase(MANY_OUTPUTS, "half", "nchw", "hopper-turned"),
    EmulatedCase(LARGE_PATCHES, "bfloat16", "nchw", "hopper-turned-large", wanted=("w_l1", "b_l1", "b_r1")),
    EmulatedCase(MANY, "half", "nchw", "hopper-1", wanted=("x",)),
    EmulatedCase(THREE_TILES, "bfloat16", "nchw", "hopper-2"),
    EmulatedCase(ODD_ROWS, "bfloat16", "nchw", "hopper"),
    EmulatedCase(WIDE, "half", "nchw", "hopper-2", wanted=("x",)),
    EmulatedCase(PAIRS, "half", "nchw", "hopper-1", wanted=("x",)),
    EmulatedCase(SHALLOW, "half", "nchw", "hopper-2", wanted=("x",)),
    EmulatedCase(LONG_ROWS, "half", "nchw", "hopper-64", wanted=("x",)),
    EmulatedCase(WIDE_ROWS, "bfloat16", "nchw", "hopper-32", wanted=("x",)),
)

#: Two maps whose elements may share memory. The copy engine takes none of them; x is copied first.
VIEWED = Case("viewed", n=2, c=24, h=10, w=12, mid_l=5, mid_r=9, out=6, k=(9, 3, 9, 3))
VIEWS = tuple(wild("hopper", "half", VIEWED))

#: What a GPU is checked on.
CASES = tuple(dict.fromkeys(problem.case for problem in (*FORWARD, *BACKWARD)))
