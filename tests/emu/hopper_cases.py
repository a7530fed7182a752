"""Small problems that show faults in the Hopper kernels."""

from hopper_problems import (
    DEEP,
    LARGE_PATCHES,
    LONG_LINES,
    LONG_ROWS,
    MANY,
    MANY_OUTPUTS,
    ODD_ROWS,
    ODD_SIZES,
    PAIRS,
    PLANES,
    SHORT_LINES,
    THREE_TILES,
    WIDE,
    WIDE_MAP,
    WIDE_ROWS,
)
from problems import EmulatedCase
from special_cases import SPECIAL, SpecialCase

#: The first stage: several items to a block; lines of several items, with products that are left out; lines outside of the map.
ITEMS = EmulatedCase(SHORT_LINES, "half", "channels_last", "hopper-1")
LONG = EmulatedCase(LONG_LINES, "half", "channels_last", "hopper-1")
ODD = EmulatedCase(ODD_SIZES, "half", "channels_last", "hopper")
#: Blocks that share weights; parts of sums in memory.
SHARED = EmulatedCase(WIDE_MAP, "half", "channels_last", "hopper-2")
SPLIT = EmulatedCase(DEEP, "half", "channels_last", "hopper-fast-launch")
#: Several units to a block; several strips of octets and taps, patches that reach over the map; an octet without a partner.
GRADIENTS = EmulatedCase(WIDE, "half", "channels_last", "hopper-2", wanted=("w_l1", "w_r1"))
BATCH = EmulatedCase(THREE_TILES, "half", "channels_last", "hopper-2", wanted=("w_l1", "w_r1"))
PATCHES = EmulatedCase(THREE_TILES, "half", "channels_last", "hopper-2", wanted=("x",))
COPIED = EmulatedCase(PLANES, "half", "nchw", "hopper")
COPIED_INF = SpecialCase(PLANES, "half", "nchw", "h100", ("b_l2",), "x", "one")
INPUT = EmulatedCase(MANY, "half", "channels_last", "hopper-1", wanted=("x",))
#: Into NCHW; patches that reach over the map.
TOGETHER = EmulatedCase(PAIRS, "half", "nchw", "hopper-1", wanted=("x",))
PLANAR = EmulatedCase(THREE_TILES, "half", "nchw", "hopper-2", wanted=("x",))
EDGE = EmulatedCase(ODD_ROWS, "half", "nchw", "hopper", wanted=("x",))
ROWS_OF_64 = EmulatedCase(LONG_ROWS, "half", "nchw", "hopper-64", wanted=("x",))
ROWS_OF_32 = EmulatedCase(WIDE_ROWS, "half", "nchw", "hopper-32", wanted=("x",))

#: The second stage: several units to a block, in the small patches and in the large ones; its gradients, with sums for biases.
SMALL = EmulatedCase(MANY_OUTPUTS, "half", "channels_last", "hopper-1")
LARGE = EmulatedCase(LARGE_PATCHES, "half", "channels_last", "hopper-large")
ROWS = EmulatedCase(SHORT_LINES, "half", "channels_last", "hopper-1")
DU = EmulatedCase(LARGE_PATCHES, "half", "nchw", "hopper-large", wanted=("w_l1", "b_l1", "b_r1"))
#: With windows that are turned.
TURNED = EmulatedCase(MANY_OUTPUTS, "half", "nchw", "hopper-turned")
TURNED_LARGE = EmulatedCase(LARGE_PATCHES, "half", "channels_last", "hopper-turned-large")

#: Values that are not finite, at the borders of x.
NOT_FINITE_X = SpecialCase(SPECIAL, "half", "channels_last", "hopper", ("w_l1", "w_r1"), "x")
