"""Faults in the Hopper kernels, each with a small problem that has to show it."""

from hopper_problems import DEEP, OVERHANG, THREE_TILES
from mutations import Mutation, _of
from problems import EmulatedCase

#: Two blocks in a cluster, of which the last has no tile; several units to a block; more k-blocks than stages.
CLUSTER = EmulatedCase(THREE_TILES, "half", "channels_last", "hopper-2")
BOXES = EmulatedCase(OVERHANG, "half", "channels_last", "hopper-2")
SPLIT = EmulatedCase(DEEP, "half", "channels_last", "hopper-slow-l2")

FIRST_STAGE = _of(
    "hopper/hopper_first_stage.cuh",
    ("parity-of-full", "uint32_t parity = 0;", "uint32_t parity = 1;", "reads stages before they are full", CLUSTER),
    ("parity-of-empty", "uint32_t parity = 1;", "uint32_t parity = 0;", "waits for a stage that nobody has had", CLUSTER),
    ("expects-too-little", "kXBytes + groups * kWeightBytes)", "kXBytes + kWeightBytes)", "full before all has come", CLUSTER),
    (
        "refills-at-once",
        "        barrier_wait(empty(slot), parity);\n",
        "",
        "stages are overwritten while they are read",
        CLUSTER,
    ),
    ("lets-go-too-early", "wgmma_wait<1>();", "wgmma_wait<2>();", "a stage is let go of while its products run", CLUSTER),
    (
        "descriptor-advance",
        "(low, moved(of_x, step * kStepBytes)",
        "(low, moved(of_x, step * kStepBytes / 2)",
        "half a step of the depth",
        CLUSTER,
    ),
    (
        "descriptor-stride",
        "kEightRows = 8 * kBlockBytes",
        "kEightRows = 4 * kBlockBytes",
        "rows four to seven come twice",
        CLUSTER,
    ),
    (
        "swizzle-phase",
        "operand(x, 0, kEightRows, Swizzle::k64)",
        "operand(x, 0, kEightRows, Swizzle::k128)",
        "units of x in another order than they were copied in",
        CLUSTER,
    ),
    ("no-fence-of-barriers", "      fence_barrier_init();\n", "", "copies may not see the barriers yet", CLUSTER),
    ("no-fence-of-registers", "      wgmma_fence();\n", "", "products start before their registers are there", CLUSTER),
    ("multicast-mask", "full(slot), 3)", "full(slot), 1)", "only the first block gets the weights", CLUSTER),
    (
        "tells-itself-only",
        "if (c.lane < p().cluster) barrier_arrive_at(empty(slot), c.lane);",
        "if (c.lane < p().cluster) barrier_arrive_at(empty(slot), rank);",
        "the other block's copies do not wait for this one",
        CLUSTER,
    ),
    (
        "warpgroup-split",
        "group_of(u, u.pair * 2 + c.side)",
        "group_of(u, u.pair * 2)",
        "both warpgroups write the first one's channels",
        CLUSTER,
    ),
    (
        "second-half-of-pixels",
        "kTilePixels / 2 * kBlockBytes + step",
        "kTilePixels / 4 * kBlockBytes + step",
        "the second product starts among the first one's pixels",
        CLUSTER,
    ),
    ("ends-too-early", "cluster_sync();  // before either", "// before either", "a block ends while the other sends", CLUSTER),
    (
        "pass-overwritten",
        "add_taps(kPass, scratch, sums, c, u, g);\n      group_barrier(1 + c.side, kGroupSize);",
        "add_taps(kPass, scratch, sums, c, u, g);",
        "the next pass overwrites T under other warps",
        CLUSTER,
    ),
    (
        "barrier-of-half-a-group",
        "store_pass<kPass>(low, high, scratch, c);\n      group_barrier(1 + c.side, kGroupSize);",
        "store_pass<kPass>(low, high, scratch, c);\n      group_barrier(1 + c.side, kGroupSize / 2);",
        "half of the warpgroup goes on without the other",
        CLUSTER,
    ),
    (
        "sums-cleared-too-early",
        "group_barrier(1 + c.side, kGroupSize);  // before",
        "// before",
        "sums are cleared while other warps still write them out",
        CLUSTER,
    ),
    ("lag-of-too-many", "barrier_init(lag(), kWarps)", "barrier_init(lag(), kWarps + 1)", "nobody else arrives", CLUSTER),
    (
        "lines-and-positions",
        "u.axis == 0 ? at.w : at.h,",
        "u.axis == 1 ? at.w : at.h,",
        "boxes start at line and position exchanged",
        BOXES,
    ),
    (
        "split-start",
        "unit_at(int i) const {\n    const int",
        "unit_at(int i) const {\n    i -= i > 3;\n    const int",
        "a unit twice",
        SPLIT,
    ),
    (
        "no-dependencies",
        "    wait_for_dependencies();  // the packed weights, and maybe x\n",
        "",
        "weights are not packed yet",
        CLUSTER,
    ),
)

MUTATIONS: tuple[Mutation, ...] = (*FIRST_STAGE,)
