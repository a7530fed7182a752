"""Faults in the kernels that read weights as they are given, each with a small problem that has to show it."""

from mutations import _of
from problems import ONE_TILE, SINGLE, SINGLE_SKIPS, EmulatedCase

#: Weights as they are given: channels that fill no k-block, in three splits; many k-blocks of the second stage; taps that lead
#: nowhere.
SPLITS = EmulatedCase(SINGLE, "half", "channels_last", "unpacked-splits")
DEEP = EmulatedCase(ONE_TILE, "bfloat16", "channels_last", "unpacked-splits")
SKIPS = EmulatedCase(SINGLE_SKIPS, "half", "channels_last", "unpacked")

FIRST_STAGE = _of(
    "gcn/first_stage_unpacked.cuh",
    ("given-taps", "uint32_t(given->skipped[block.axis] + tap)", "uint32_t(tap)", "taps that were left out are not", SKIPS),
    ("given-swizzle", " ^ (swizzle_rows(first, 0) & 3);", ";", "pieces of weights change places", SPLITS),
    ("given-past-the-end", "valid = within && at != kOutside;", "valid = at != kOutside;", "nan behind the weights", SPLITS),
    ("ticket-too-early", "last = uint32_t(p.splits) - 1;", "last = uint32_t(p.splits) - 2;", "a split is missing", SPLITS),
    (
        "ticket-of-another",
        "take_ticket(counters + own, last)",
        "take_ticket(counters + block.tile, last)",
        "groups of middle channels count together",
        SPLITS,
    ),
    (
        "ticket-not-told",
        "take_ticket(counters + own, last));\n    __syncthreads();",
        "take_ticket(counters + own, last));",
        "other threads do not know yet whether it is the last",
        SPLITS,
    ),
    ("split-left-out", "first + i < p.splits ?", "first + i + 1 < p.splits ?", "one is not added", SPLITS),
)

SECOND_STAGE = _of(
    "gcn/second_stage_unpacked.cuh",
    ("no-dependencies", "    wait_for_dependencies();\n", "", "the middle maps are not there yet", SPLITS),
    ("no-barrier", "load_windows(depth);\n    __syncthreads();", "load_windows(depth);", "others' windows and weights", SPLITS),
    ("no-wait", "    copy_wait<0>();\n", "", "windows are on their way", SPLITS),
    (
        "overwritten-too-early",
        "multiply_all(acc, depth);\n    __syncthreads();",
        "multiply_all(acc, depth);",
        "sums of warps go where others still read",
        SPLITS,
    ),
    ("wrong-weights", "k_block * kBlockOfWeights", "(k_block ^ 1) * kBlockOfWeights", "another k-block's weights", SPLITS),
    ("depth-left-out", "(depth.all + 3) / 4;", "depth.all / 4;", "the last pieces are not multiplied", SPLITS),
    (
        "pixels-stay",
        "k_block * 4 < depth.first ? max(k_block + 1, depth.first / 4) : depth.all / 4",
        "depth.all / 4",
        "the second map is read where the first one's pixels are",
        DEEP,
    ),
)

MUTATIONS = (*FIRST_STAGE, *SECOND_STAGE)
