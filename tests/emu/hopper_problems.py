"""Problems for the Hopper kernels in emulation."""

from cases import Case, square
from problems import GPUS, EmulatedCase

#: GPUs that ask for the Hopper kernels: with plenty of multiprocessors; with two, and so slow a way from L2 that blocks share
#: what they load; and with one, where there are no clusters. Where launches are slow, blocks of a cluster
#: add up parts of sums, where they are fast, another launch does.
GPUS["hopper"] = {"hopper": 1}
GPUS["hopper-2"] = {"hopper": 1, "multiprocessors": 2, "l2_gigabytes": 10}
GPUS["hopper-slow-l2"] = {"hopper": 1, "l2_gigabytes": 1000}
GPUS["hopper-1"] = {"hopper": 1, "multiprocessors": 1}
GPUS["hopper-fast-launch"] = {"hopper": 1, "dependent_launch_us": 0}
GPUS["hopper-slow-launch-2"] = {"hopper": 1, "dependent_launch_us": 500, "multiprocessors": 2}
GPUS["hopper-slow-launch-16"] = {"hopper": 1, "dependent_launch_us": 500, "multiprocessors": 16}

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
EIGHT = Case("eight-blocks", n=2, c=64, h=16, w=8, mid_l=12, mid_r=6, out=4, k=square(5))
SIXTEEN = Case("sixteen-blocks", n=1, c=32, h=16, w=8, mid_l=11, mid_r=9, out=4, k=square(11))
ODD_SIZES = Case("odd-sizes", n=1, c=24, h=9, w=13, mid_l=5, mid_r=3, out=6, k=square(5))

#: More than three octets of middle channels, more than 15 taps, patches that reach over the map.
WIDE = Case("wide-middle", n=1, c=136, h=20, w=16, mid_l=30, mid_r=8, out=4, k=(9, 3, 17, 3))

#: A window so long that items are short.
LONG_KERNEL = Case("long-kernel", n=1, c=24, h=40, w=72, mid_l=3, mid_r=21, out=3, k=(63, 3, 63, 3))

#: Rows that are copied 32 or 64 pixels at a time, as a whole or in parts, and columns of few positions.
ROWS_OF_32 = Case("rows-of-32", n=2, c=40, h=4, w=32, mid_l=3, mid_r=5, out=4, k=(5, 3, 17, 3))
ROWS_OF_64 = Case("rows-of-64", n=1, c=72, h=6, w=64, mid_l=4, mid_r=11, out=4, k=(3, 3, 15, 3))
THIRDS_OF_96 = Case("thirds-of-96", n=1, c=40, h=4, w=96, mid_l=5, mid_r=3, out=3, k=(7, 3, 11, 3))
HALVES_OF_128 = Case("halves-of-128", n=2, c=24, h=3, w=128, mid_l=2, mid_r=4, out=3, k=(5, 3, 13, 3))

FORWARD = (
    EmulatedCase(SHORT_LINES, "half", "channels_last", "hopper-1"),
    EmulatedCase(SHORT_LINES, "tf32", "channels_last", "hopper"),
    EmulatedCase(THREE_TILES, "bfloat16", "channels_last", "hopper-2"),
    EmulatedCase(LONG_LINES, "bfloat16", "channels_last", "hopper-1"),
    EmulatedCase(WIDE_MAP, "half", "channels_last", "hopper-2"),
    EmulatedCase(OVERHANG, "bfloat16", "unaligned", "hopper"),
    EmulatedCase(THREE_UNITS, "half", "channels_last", "hopper-slow-launch-2"),
    EmulatedCase(DEEP, "half", "channels_last", "hopper-slow-launch-16"),
    EmulatedCase(DEEP, "tf32", "channels_last", "hopper-fast-launch"),
    EmulatedCase(ODD_SIZES, "half", "channels_last", "hopper"),
    EmulatedCase(LONG_KERNEL, "half", "channels_last", "hopper-2"),
    EmulatedCase(DEEP, "half", "nchw", "hopper-slow-l2"),
    EmulatedCase(THREE_TILES, "bfloat16", "nchw", "hopper-2"),
    EmulatedCase(THREE_TILES, "half", "view", "hopper-1"),
    EmulatedCase(OVERHANG, "half", "nchw", "hopper-2"),
    EmulatedCase(OVERHANG, "bfloat16", "view", "hopper"),
    EmulatedCase(DEEP, "bfloat16", "nchw", "hopper"),
    EmulatedCase(EIGHT, "half", "nchw", "hopper-2"),
    EmulatedCase(SIXTEEN, "bfloat16", "nchw", "hopper-1"),
    EmulatedCase(ROWS_OF_32, "half", "nchw", "hopper-2"),
    EmulatedCase(ROWS_OF_64, "bfloat16", "nchw", "hopper-2"),
    EmulatedCase(THIRDS_OF_96, "half", "view", "hopper"),
    EmulatedCase(HALVES_OF_128, "bfloat16", "far", "hopper-2"),
)

#: So many channels of x that a block takes 256 of them.
MANY = Case("many-channels", n=1, c=264, h=24, w=8, mid_l=7, mid_r=17, out=3, k=(5, 3, 9, 3))
BACKWARD = (
    EmulatedCase(MANY, "half", "channels_last", "hopper-1", wanted=("x",)),
    EmulatedCase(THREE_TILES, "bfloat16", "channels_last", "hopper-2"),
    EmulatedCase(OVERHANG, "half", "unaligned", "hopper"),
    EmulatedCase(WIDE, "half", "channels_last", "hopper-2"),
    EmulatedCase(WIDE, "bfloat16", "channels_last", "hopper"),
    EmulatedCase(THREE_TILES, "half", "channels_last", "hopper", wanted=("w_r1",)),
)

#: What a GPU is checked on.
CASES = tuple(dict.fromkeys(problem.case for problem in (*FORWARD, *BACKWARD)))
