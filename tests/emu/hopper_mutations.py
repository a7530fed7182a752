"""Faults in the Hopper kernels, each with a small problem that has to show it."""

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
from mutations import Mutation, _of
from problems import EmulatedCase
from special_cases import SPECIAL, SpecialCase

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

FIRST_STAGE = _of(
    "gcn/hopper/hopper_first_stage.cuh",
    (
        "expects-too-little",
        "windows.start_filling(bytes)",
        "windows.start_filling(bytes / 2)",
        "full before the window has come",
        ITEMS,
    ),
    ("window-not-awaited", "      windows.wait_until_full();\n", "", "x has not come yet", ITEMS),
    ("weights-not-awaited", "        weights.wait_until_full();\n", "", "weights have not come yet", ITEMS),
    ("lets-go-too-early", "wgmma_wait<2>();", "wgmma_wait<4>();", "a stage is let go of while its products run", LONG),
    (
        "descriptor-advance",
        "product_step<kCount>(part, w + step * kStep,",
        "product_step<kCount>(part, w + step * kStep / 2,",
        "half a step of the depth",
        ITEMS,
    ),
    (
        "descriptor-stride",
        "kForm = operand(0, 0, kPositionBytes,",
        "kForm = operand(0, 0, 2 * kPositionBytes,",
        "every other position, and every other eight rows",
        ITEMS,
    ),
    (
        "swizzle-phase",
        "kForm = operand(0, 0, kPositionBytes, Swizzle::k64)",
        "kForm = operand(0, 0, kPositionBytes, Swizzle::k128)",
        "units in another order than they were copied in",
        ITEMS,
    ),
    ("no-fence-of-barriers", "      fence_barrier_init();\n", "", "copies may not see the barriers yet", ITEMS),
    (
        "no-fence-of-registers",
        "uint32_t w, uint32_t x) const {\n    wgmma_fence();\n",
        "uint32_t w, uint32_t x) const {\n",
        "products start before their registers are there",
        ITEMS,
    ),
    ("multicast-mask", "kRowBlockBytes / 2, full, 3)", "kRowBlockBytes / 2, full, 1)", "only the first block gets both", SHARED),
    ("multicast-half", "half = rank * (kRowBlockBytes / 2)", "half = 0 * rank", "both blocks send the first rows", SHARED),
    (
        "tells-itself-only",
        "if (c.releases >= 0) barrier_arrive_at(weights.empty + slot, c.releases);",
        "weights.release(slot, c.lane);",
        "the other block's copies do not wait for this one",
        SHARED,
    ),
    (
        "warpgroup-split",
        "const Item item = item_of(u, side);\n      if (item.valid) {",
        "const Item item = item_of(u, 0);\n      if (item.valid) {",
        "both warpgroups have the first item",
        ITEMS,
    ),
    (
        "window-of-the-other",
        "units_of(window_at(0, c.side))",
        "units_of(window_at(0, 0))",
        "both warpgroups multiply the first one's pixels",
        ITEMS,
    ),
    (
        "window-front",
        "branch(u.axis).radius + p().window_front[u.axis];",
        "branch(u.axis).radius;",
        "windows start at their first row",
        SHARED,
    ),
    ("no-shift", "x + (step >> kProductBits) * kPosition", "x", "all groups of taps meet the same pixels", ITEMS),
    ("early-place", "w, x + kEarlyFrom * kPosition", "w, x", "early positions start at the first", SHARED),
    ("tap-place", "r.mids * kEndRow + kBundle", "r.mids * kEndRow", "taps of a group are added at the same place", ITEMS),
    (
        "sums-not-there",
        "high, bias);\n      group_barrier(1 + c.side, kGroupSize);\n",
        "high, bias);\n",
        "other warps' rows are read before they are written",
        ITEMS,
    ),
    ("bias-of-all-taps", "&& m < r.mids;", ";", "rows of other taps have a bias of their own", ITEMS),
    (
        "segments-apart",
        "const int step = kEndPositions - b.group_taps + 1;",
        "const int step = kEndPositions;",
        "positions lack taps",
        LONG,
    ),
    ("segment-place", "(position - segment.from) * kBundle", "position * kBundle", "positions of the segment before", LONG),
    (
        "sums-overwritten",
        "write_partial(sums, c, u, item, r, segment);\n      }\n      group_barrier(1 + c.side, kGroupSize);",
        "write_partial(sums, c, u, item, r, segment);\n      }",
        "sums are written out meanwhile",
        LONG,
    ),
    (
        "ends-too-early",
        "multiply_all(warpgroup - 1);\n    }\n    if (in_cluster) cluster_sync();",
        "multiply_all(warpgroup - 1);\n    }",
        "a block ends while the other sends",
        SHARED,
    ),
    ("lines-outside", "    if (line >= (u.axis == 0 ? w : h)) return;\n", "", "lines that the map does not have", ODD),
    (
        "segment",
        "first = i % segments * p().outputs[u.axis];",
        "first = 0 * segments;",
        "every item is the first of its line",
        LONG,
    ),
    ("stagger-of-too-many", "stagger.make(kWarps)", "stagger.make(kWarps + 1)", "nobody else arrives", ITEMS),
    (
        "no-dependencies",
        "    wait_for_dependencies();\n    const bool in_cluster",
        "    const bool in_cluster",
        "weights are not packed yet",
        ITEMS,
    ),
    ("place-of-partial", "+ item.line / kBundle;", ";", "partial sums of all bundles in one place", SPLIT),
    ("slot", "(u.split * int64_t(p().stage.tiles)", "(0 * int64_t(p().stage.tiles)", "all splits in one place", SPLIT),
)

PRODUCTS = _of(
    "gcn/hopper/hopper_tiles.h",
    (
        "early-too-soon",
        "inside.from < kEarlyFrom ? kLow",
        "inside.from < 1 ? kLow",
        "positions one to three are left out",
        SHARED,
    ),
    (
        "cut-too-soon",
        "inside.to <= kLowPositions + kHighCutPositions",
        "inside.to <= kLowPositions + kHighPositions",
        "of positions that count, some are left out",
        SHARED,
    ),
)

PREPARE = _of(
    "gcn/prepare.cuh",
    ("planes-no-wait", "copy_commit();\n  copy_wait<0>();\n", "copy_commit();\n", "pieces that have not come yet", COPIED),
    ("planes-no-barrier", "copy_wait<0>();\n  __syncthreads();", "copy_wait<0>();", "pieces of other threads", COPIED),
    ("planes-rows", "lane / 8 * 2 + row % 2", "lane / 8 * 2 + 1 - row % 2", "two channels change places", COPIED),
    (
        "planes-matrices",
        "row / 2 * kOctet + lane / 8 * 2",
        "row / 2 * 2 + lane / 8 * kOctet",
        "channels in another order",
        COPIED,
    ),
    ("planes-halves", "plane_place(first + of_row, piece)", "plane_place(of_row, piece)", "the first 32 channels twice", COPIED),
    ("planes-tile", "int(at - n * tiles) * kPlanePixels", "int(at - n * tiles) * kOctet", "tiles overlap", COPIED),
    ("planes-map", "from + channel * j.stride_c + piece", "from + channel * j.stride_c + i % 2 * piece", "pieces twice", COPIED),
    ("planes-sample", "(n * j.stride_n + first_channel", "(0 * j.stride_n + first_channel", "every map is the first one", COPIED),
    ("planes-past-the-channels", "channel < channels && piece", "piece", "padding of the next map", COPIED_INF),
    ("shared-tap-not-halved", "from_float<E>(0.5f *", "from_float<E>(1.0f *", "a tap of two groups counts twice", LONG),
)

WEIGHT_GRAD = _of(
    "gcn/hopper/hopper_weight_grad.cuh",
    (
        "expects-too-little",
        "ring.start_filling(2 * kXBytes + octets(u) * kWindowBytes)",
        "ring.start_filling(2 * kXBytes)",
        "full before the windows have come",
        GRADIENTS,
    ),
    (
        "lets-go-too-early",
        "wgmma_wait<kSteps>();",
        "wgmma_wait<kSteps + 1>();",
        "a stage is let go of while its products run",
        GRADIENTS,
    ),
    ("no-wait", "        ring.wait_until_full();\n", "", "nothing has come yet", GRADIENTS),
    (
        "depth-advance",
        "moved(of_du, step * 2 * kRowBytes)",
        "moved(of_du, step * kRowBytes)",
        "the window moves by one position, x by two",
        GRADIENTS,
    ),
    (
        "tap-stride",
        "operand(du, kRowBytes, kRowBytes,",
        "operand(du, kRowBytes, kPieceBytes,",
        "the next tap is the next line",
        GRADIENTS,
    ),
    (
        "lines-and-positions",
        "Patch{n, w, h} : Patch{n, h, w}",
        "Patch{n, w, h} : Patch{n, w, h}",
        "rows start at columns",
        GRADIENTS,
    ),
    ("next-map", "if (++row == in_column) row = 0, ++n;", "++row;", "all patches are the first map's, or outside of it", BATCH),
    ("next-octet", "of_octet += octet", "of_octet += octet + 8", "sums of an octet a tap further on", GRADIENTS),
    ("other-rows", "to += 8 * row", "to += 4 * row", "sums of eight channels over those of others", GRADIENTS),
    ("cut-too-much", "if (taps > 13) {", "if (taps > 15) {", "the last taps of a strip are left out", GRADIENTS),
    (
        "cut-of-the-first-step",
        "const int taps = inside - 2 * step;",
        "const int taps = inside - 8;",
        "as if it were the last",
        GRADIENTS,
    ),
    ("stagger-of-too-many", "stagger.make(kWarps)", "stagger.make(kWarps + 1)", "nobody else arrives", GRADIENTS),
    (
        "swizzle-phase",
        "kPatchSide * 128, Swizzle::k128",
        "kPatchSide * 128, Swizzle::k64",
        "units in another order than they were copied in",
        GRADIENTS,
    ),
    (
        "warpgroup-split",
        "shared_address(stage() + side * kXBytes)",
        "shared_address(stage())",
        "both warpgroups multiply the first one's channels",
        GRADIENTS,
    ),
    (
        "tap-strip",
        "p().branch[u.axis].radius + u.first_tap, at.n",
        "p().branch[u.axis].radius, at.n",
        "the second strip has the first one's windows",
        GRADIENTS,
    ),
    (
        "split-end",
        "patches * (split + 1) / p().splits}",
        "patches * (split + 1) / p().splits - (split == 0)}",
        "a patch is left out",
        GRADIENTS,
    ),
    (
        "not-transposed",
        "wgmma<8 * kTaps, true, true>",
        "wgmma<8 * kTaps, true, false>",
        "pixels and channels change places",
        GRADIENTS,
    ),
)

INPUT_GRAD = _of(
    "gcn/hopper/hopper_input_grad.cuh",
    (
        "no-fence-of-zeros",
        "make_uint4(0, 0, 0, 0));\n    fence_async_proxy();",
        "make_uint4(0, 0, 0, 0));",
        "wgmma may not see the zeros yet",
        INPUT,
    ),
    (
        "no-zeros",
        "operand(last, shared_address(zeros()) - last, next_group",
        "operand(last, tap, next_group",
        "a weight of zero times whatever lies behind the window",
        INPUT,
    ),
    ("octet-stride", "operand(start, plane, next", "operand(start, tap, next", "the next tap instead of the next octet", INPUT),
    ("one-tap-a-step", "at = moved(at, 4 * tap)", "at = moved(at, 2 * tap)", "single octets take taps twice", INPUT),
    (
        "last-tap",
        "last = start + 2 * radius * tap",
        "last = start + radius * tap",
        "single octets end with a tap in the middle",
        PATCHES,
    ),
    (
        "warpgroup-split",
        "(windows.slot, axis)) + (kShape.nchw ? 0 : side * 8 * row);",
        "(windows.slot, axis));",
        "both warpgroups multiply the first one's pixels",
        INPUT,
    ),
    ("weights-advance", "second, moved(of_w, 32)", "second, moved(of_w, 16)", "half a step of the depth", INPUT),
    ("windows-not-let-go", "    windows.release(windows.slot, lane);\n", "", "the third unit's windows never come", INPUT),
    ("windows-not-awaited", "      barrier_wait(windows_full(axis), windows.parity);\n", "", "nothing has come yet", INPUT),
    (
        "second-window-not-awaited",
        "barrier_wait(windows_full(axis), windows.parity);",
        "if (i == 0) barrier_wait(windows_full(axis), windows.parity);",
        "the second branch's windows come later than the first one's",
        INPUT,
    ),
    (
        "windows-over-those-in-use",
        "    if (copy == 0) barrier_wait(windows.empty + windows.slot, windows.parity ^ 1);\n",
        "",
        "the next but one group's windows come while these are read",
        TOGETHER,
    ),
    (
        "windows-of-this-group",
        "copy_group(g, group_of(next), next != i)",
        "copy_group(g, g, next != i)",
        "every group has the first one's windows",
        TOGETHER,
    ),
    (
        "windows-left-out",
        "    while (copied < all) copy_window(next, copied++);\n",
        "",
        "of short groups, some of the next windows never come",
        TOGETHER,
    ),
    (
        "lets-go-too-early",
        "wgmma_wait<1>();\n      weights.release",
        "wgmma_wait<2>();\n      weights.release",
        "a stage is let go of while its products run",
        INPUT,
    ),
    ("rows-of-a-lane", "4 + 2 * row + k % 2", "4 + 2 * (1 - row) + k % 2", "two rows of pixels change places", INPUT),
    ("channels-of-a-lane", "k / 2 * 4 + 2 * row", "(3 - k / 2) * 4 + 2 * row", "channels in another order than weights", INPUT),
    (
        "sums-from-one",
        "Sums acc = {};",
        "Sums acc; for (auto& part : acc) for (float& a : part) a = 1;",
        "sums do not start with zero",
        INPUT,
    ),
    ("multicast-mask", "weights.slot, 3)", "weights.slot, 1)", "only the first block gets both halves", PATCHES),
    ("multicast-half", "start = rank * part", "start = 0 * rank", "both blocks send the first half", PATCHES),
    (
        "tells-itself-only",
        "weights.release_shared(flow.before, lane, flow.blocks);",
        "weights.release_shared(flow.before, lane, min(1, flow.blocks));",
        "the second block's stages are never free",
        PATCHES,
    ),
    ("stagger-of-too-many", "stagger.make(kWarps)", "stagger.make(kWarps + 1)", "nobody else arrives", INPUT),
    (
        "ends-too-early",
        "multiply_all(warpgroup - 1);\n    }\n    cluster_sync();",
        "multiply_all(warpgroup - 1);\n    }",
        "a block ends while the other sends",
        PATCHES,
    ),
    ("halo", "g.h - (axis == 0 ? p().radius[0] : 0)", "g.h - (axis == 0 ? p().radius[0] - 1 : 0)", "a row late", INPUT),
    ("phase", "start += 2 * plane", "start += plane", "the second phase starts at the second octet", INPUT),
    ("windows-let-go-too-early", "    if (!u.last) return;\n", "", "the next tile of channels has the next windows", TOGETHER),
    ("windows-copied-again", "if (!started) {", "if (true) {", "nobody takes the second copy", TOGETHER),
    (
        "tile-of-channels",
        "p().weights[axis]) + n_tile *",
        "p().weights[axis]) + 0 *",
        "all have the first channels' weights",
        INPUT,
    ),
    (
        "nchw-products",
        "moved(of_du, i * flow.next)",
        "moved(of_du, i * flow.next / 2)",
        "the right pixels of a row start in the middle of the left ones",
        PLANAR,
    ),
    (
        "nchw-warpgroup-split",
        "const int row = side * 64 + warp",
        "const int row = 0 * side + warp",
        "both warpgroups have the first channels",
        PLANAR,
    ),
    (
        "nchw-weights-of-a-step",
        "swizzle_rows(row, 2 * step + a_half(lane))",
        "swizzle_rows(row, a_half(lane))",
        "both steps of a k-block have the first one's weights",
        PLANAR,
    ),
    (
        "nchw-weights-not-permuted",
        "swizzle_rows(row, 2 * step + a_half(lane)) * kPieceBytes",
        "(row * 4 + 2 * step + a_half(lane)) * kPieceBytes",
        "pieces in another order than they are packed in",
        PLANAR,
    ),
    (
        "nchw-registers-overwritten",
        "    wgmma_wait<1>();\n    ldmatrix_x4",
        "    ldmatrix_x4",
        "weights are loaded over those of products in flight",
        PLANAR,
    ),
    (
        "nchw-phase-overwritten",
        "if constexpr (kShape.nchw) wgmma_wait<0>();",
        "",
        "the step before, alone in its k-block, has the same registers",
        PLANAR,
    ),
    (
        "nchw-no-fence-of-registers",
        "kStageBytes);\n    wgmma_fence();\n",
        "kStageBytes);\n",
        "products start before their weights are there",
        PLANAR,
    ),
    (
        "nchw-lets-go-too-early",
        "      if constexpr (kSteps == 2) step<1>(acc, flow, second);\n"
        "      weights.release_shared(weights.slot, lane, p().cluster);\n",
        "      weights.release_shared(weights.slot, lane, p().cluster);\n"
        "      if constexpr (kSteps == 2) step<1>(acc, flow, second);\n",
        "the second step's weights are read when the next ones may come",
        PLANAR,
    ),
    (
        "nchw-by-row",
        "flow.next = kShape.by_row ? row : group;",
        "flow.next = group;",
        "the next product is eight pixels on instead of a row",
        ROWS_OF_64,
    ),
    (
        "nchw-groups-of-a-row",
        "next_group = kShape.by_row ? group : row;",
        "next_group = row;",
        "columns of a product stand below each other",
        ROWS_OF_64,
    ),
    (
        "nchw-second-half-of-a-row",
        "(group + 4 * i) % kAcross * 8;",
        "group % kAcross * 8;",
        "pixels 32 to 63 of a row over the first ones",
        ROWS_OF_64,
    ),
    ("nchw-columns-of-32", "? row : column, at", "? column : row, at", "rows and groups change places", ROWS_OF_32),
    ("nchw-half-turned", "apart < 4; apart *= 2", "apart < 2; apart *= 2", "lanes exchange with one other only", PLANAR),
    ("nchw-second-not-turned", "        turn(v[1], lane);\n", "", "of every other four groups, pixels change places", PLANAR),
    ("nchw-turned-back", "shuffle_xor(upper ? v[i] :", "shuffle_xor(!upper ? v[i] :", "lanes keep what they should give", PLANAR),
    ("nchw-group-of-a-lane", "w = u.w + own % kAcross * 8", "w = u.w + own / 2 * 8", "rows and groups change places", PLANAR),
    ("nchw-channels-of-a-lane", "first_channel + 8 * half", "first_channel + 8 * (1 - half)", "channels change places", PLANAR),
    (
        "nchw-past-the-row",
        " || column >= columns) continue;",
        ") continue;",
        "pixels right of the map are the next row's",
        EDGE,
    ),
    ("nchw-past-the-map", "row >= left ||", "left <= 0 ||", "rows below the map are the next channel's", EDGE),
)

SECOND_STAGE = _of(
    "gcn/hopper/hopper_second_stage.cuh",
    ("weights-not-awaited", "    barrier_wait(weights_full + branch, 0);\n", "", "weights have not come yet", SMALL),
    (
        "windows-not-awaited",
        "    barrier_wait(full(windows.slot, branch), windows.parity);\n",
        "",
        "windows have not come yet",
        SMALL,
    ),
    ("first-window-not-awaited", "        copy_wait<1>();\n", "", "the first branch's window has not come yet", SMALL),
    ("copies-not-awaited", "        copy_wait<0>();\n", "", "full before the second branch's window has come", SMALL),
    (
        "no-fence-of-copies",
        "const {\n    fence_async_proxy();\n    __syncwarp();",
        "const {\n    __syncwarp();",
        "wgmma may not see the windows yet",
        SMALL,
    ),
    (
        "told-too-early",
        "        copy_wait<0>();\n        arrive(slot, 1);",
        "        arrive(slot, 1);\n        copy_wait<0>();",
        "full before the second branch's window has come",
        SMALL,
    ),
    (
        "no-fence-of-zeros",
        "make_uint4(0, 0, 0, 0));\n    fence_async_proxy();",
        "make_uint4(0, 0, 0, 0));",
        "wgmma may not see the zeros yet",
        ROWS,
    ),
    ("no-zeros", "zero - last - tile_at(i), row", "tap, row", "zero weights meet whatever lies behind the window", SMALL),
    ("zeros-of-the-first-tile", "zero - last - tile_at(i)", "zero - last", "other tiles have what lies behind the zeros", LARGE),
    ("halo", "(branch == 1 ? p.radius[1] : 0) + own", "(branch == 1 ? p.radius[1] - 1 : 0) + own", "a row late", SMALL),
    ("every-row-twice", "h += kRowStep, from", "h += 1, from", "rows outside are told from others too late", SMALL),
    ("next-pair", "start += 2 * plane", "start += plane", "the second pair starts at the second octet", SMALL),
    ("half-of-the-patch", " + side * kHeight * down;", ";", "both warpgroups multiply the upper half", SMALL),
    ("tile-across", "i % kAcross * 8 * right", "i % kAcross * right", "neighbouring tiles are a pixel apart", LARGE),
    ("tile-down", "i / kAcross * 8 * down", "i / kAcross * down", "tiles below each other are a row apart", LARGE),
    ("not-turned", "        if (kTurned && branch == 0) turn(acc, side);\n", "", "sums of pixels in different orders", TURNED),
    ("turned-tap", "tap = branch == 0 ? right : down", "tap = kTurned ? down : right", "taps lead down along rows", TURNED),
    (
        "turned-not-there",
        "group_barrier(1 + side, kGroupSize);\n#pragma unroll\n      for (int i = 0; i < 2 * kTiles; ++i) {\n"
        "        const float* const from",
        "#pragma unroll\n      for (int i = 0; i < 2 * kTiles; ++i) {\n        const float* const from",
        "other warps' sums are read before they are there",
        TURNED,
    ),
    (
        "turned-too-early",
        "of += 4) {\n      group_barrier(1 + side, kGroupSize);",
        "of += 4) {",
        "the columns before are still being read",
        TURNED,
    ),
    ("turned-blocks", "in_block * kTurnRow + (block + i % 2) * 8", "in_block * kTurnRow + block * 8", "one of two", TURNED),
    ("turned-pieces", "own * kPieces + lane / 8", "own + lane / 8", "pieces twice and others never", TURNED),
    ("turned-columns", "Piece{int(eight * 8 + column)", "Piece{int(column)", "the second eight columns never come", TURNED_LARGE),
    ("weights-advance", "moved(of_w, 32), true", "moved(of_w, 16), true", "half a step of the depth", SMALL),
    ("one-tap-a-step", "taps += 4 * tap", "taps += 2 * tap", "single octets take taps twice", SMALL),
    (
        "lets-go-too-early",
        "if (branch == 1) windows.release",
        "if (branch == 0) windows.release",
        "one branch is still to come",
        SMALL,
    ),
    (
        "windows-not-let-go",
        "if (branch == 1) windows.release(windows.slot, lane);",
        "",
        "the third unit's windows never come",
        SMALL,
    ),
    (
        "outputs-overwritten",
        "outputs_of(side);\n    group_barrier(1 + side, kGroupSize);",
        "outputs_of(side);",
        "the unit before is still being written",
        SMALL,
    ),
    (
        "outputs-not-there",
        "fill(acc, out, tile_of_outputs);\n    group_barrier(1 + side, kGroupSize);",
        "fill(acc, out, tile_of_outputs);",
        "other warps' outputs are written before they are there",
        SMALL,
    ),
    ("sums-kept", "for (float& a : acc[i]) a = 0;", "for (float& a : acc[i]) a += 0;", "sums of the unit before", DU),
    ("behind-the-last-output", "      if (by_row && !used) continue;\n", "", "padding over the next pixel", ROWS),
    ("bias-of-the-first-tile", "b[n_tile() * kOutputs + column]", "b[column]", "every tile has the first one's biases", SMALL),
    (
        "weights-of-the-first-tile",
        "n_tile() * phases * phase_bytes",
        "0 * phases * phase_bytes",
        "tiles have the same weights",
        SMALL,
    ),
    ("pixels-outside", "if (h_of(tile, at) < rows && w_of", "if (w_of", "pixels outside of the map in a bias's gradient", DU),
    ("sums-of-one-half", "(2 * u.patch + side)", "(2 * u.patch)", "both halves' sums in one place", DU),
    (
        "half-way-of-too-many",
        "barrier_init(half_way, kWarps)",
        "barrier_init(half_way, kWarps + 1)",
        "nobody else arrives",
        SMALL,
    ),
    (
        "no-dependencies",
        "    wait_for_dependencies();\n    __syncthreads();",
        "    __syncthreads();",
        "weights are not packed yet",
        SMALL,
    ),
)

#: Values that are not finite, at the borders of x.
SPECIAL_X = SpecialCase(SPECIAL, "half", "channels_last", "hopper", ("w_l1", "w_r1"), "x")
NOT_FINITE = _of(
    "gcn/hopper/hopper_weight_grad.cuh",
    ("not-again", "return any != 0;", "return false;", "inf has met the zeros around the map", SPECIAL_X),
    (
        "units-not-permuted",
        "unit = (2 * warp + tile % 2) ^ (lane % 8);",
        "unit = 2 * warp + tile % 2;",
        "channels in another order than the copy engine has them",
        SPECIAL_X,
    ),
    ("second-position", "inside(position + 1)", "inside(position)", "a step's second position as its first", SPECIAL_X),
    ("same-partner", "w[t + 1] & high", "w[t] & high", "both positions meet the first one's partner", SPECIAL_X),
)

MUTATIONS: tuple[Mutation, ...] = (
    *(*FIRST_STAGE, *PRODUCTS, *PREPARE, *WEIGHT_GRAD, *INPUT_GRAD, *SECOND_STAGE),
    *NOT_FINITE,
)
