"""Faults in the package's kernels, each with a small problem that has to show it."""

from dataclasses import dataclass

from cases import Case, square
from faults import Fault
from problems import CROP, EIGHTS, MANY_OUTPUTS, MANY_PIXELS, EmulatedCase

#: Lines that fill tiles, several groups of middle channels.
WHOLE_LINES = Case("whole-lines", n=1, c=32, h=16, w=16, mid_l=21, mid_r=21, out=5, k=square(15))
SKIPPING = Case("skipping", n=2, c=24, h=5, w=8, mid_l=5, mid_r=6, out=4, k=square(15))

NCHW = EmulatedCase(CROP, "half", "nchw", "tiny")
CHANNELS_LAST = EmulatedCase(CROP, "half", "channels_last", "tiny")
SPLIT = EmulatedCase(CROP, "half", "nchw")
SMALL = EmulatedCase(EIGHTS, "half", "nchw")
WHOLE = EmulatedCase(WHOLE_LINES, "half", "nchw", "tiny")
LINES = EmulatedCase(WHOLE_LINES, "half", "channels_last", "tiny")
ODD = EmulatedCase(Case("odd", n=2, c=19, h=7, w=13, mid_l=5, mid_r=3, out=6, k=square(5)), "half", "nchw")
BATCH = EmulatedCase(Case("batch", n=2, c=40, h=7, w=13, mid_l=5, mid_r=3, out=6, k=square(5)), "half", "channels_last")
PACKED = EmulatedCase(EIGHTS, "half", "unaligned")
SKIPS = EmulatedCase(SKIPPING, "half", "channels_last")
DOUBLE = EmulatedCase(EIGHTS, "double", "nchw")
OUTPUTS = EmulatedCase(MANY_OUTPUTS, "half", "channels_last")
#: More splits of the second weights' gradients than one thread adds.
MANY_SPLITS = EmulatedCase(MANY_PIXELS, "half", "nchw")
#: More parts of a bias's gradient than a block has threads.
LONG = EmulatedCase(Case("long", n=1, c=8, h=1, w=16700, mid_l=2, mid_r=2, out=2, k=square(3)), "half", "channels_last")


@dataclass(frozen=True)
class Mutation:
    name: str
    fault: Fault
    caught_by: EmulatedCase
    sanitized: bool = False  # only sanitizers can see it


def _of(file: str, *mutations: tuple[str, str, str, str, EmulatedCase]) -> list[Mutation]:
    """Mutations of one file, as (name, old, new, why, caught by)."""
    prefix = file.removeprefix("gcn/").removesuffix(".cuh").removesuffix(".h").replace("_", "-")
    return [Mutation(f"{prefix}-{name}", Fault(file, old, new, why), case) for name, old, new, why, case in mutations]


FIRST_STAGE = _of(
    "gcn/first_stage.cuh",
    (
        "no-barrier",
        "copy_wait<kFirstStageStages - 2>();\n      __syncthreads();",
        "copy_wait<kFirstStageStages - 2>();",
        "other threads' copies are not visible",
        NCHW,
    ),
    ("lax-wait", "copy_wait<kFirstStageStages - 2>", "copy_wait<kFirstStageStages - 1>", "a group too many is in flight", NCHW),
    (
        "wrong-stage",
        "int stage = 0, free_stage = 0;",
        "int stage = 1, free_stage = 0;",
        "not landed yet",
        NCHW,
    ),
    (
        "loads-too-far",
        "to = stages() + free_stage * kStageBytes",
        "to = stages() + next_stage(free_stage) * kStageBytes",
        "refills what is read",
        NCHW,
    ),
    (
        "no-dependencies",
        "    wait_for_dependencies();\n    for (int i = 0; i < kFirstStageStages - 1; ++i) load(first + i, !p.x_given);",
        "    for (int i = 0; i < kFirstStageStages - 1; ++i) load(first + i, !p.x_given);",
        "weights are not packed yet",
        NCHW,
    ),
    (
        "x-not-loaded",
        "load(first + i, !p.x_given)",
        "load(first + i, false)",
        "a packed x does not arrive",
        PACKED,
    ),
    (
        "swizzle-of-x",
        "swizzle_rows(tid / 4, tid % 4)",
        "swizzle_rows(tid / 4, tid % 4 ^ 1)",
        "pieces of x change places",
        CHANNELS_LAST,
    ),
    (
        "fragment",
        "mma(acc[i][j], a[i], {w[0], w[1]}, M{});",
        "mma(acc[i][j], a[i], {w[0], w[2]}, M{});",
        "half of another block",
        NCHW,
    ),
    ("overhang", "split * b.tap_groups + tap_group", "tap_group", "all splits write one slot", SPLIT),
    (
        "split-start",
        "first = int(int64_t(p.k_blocks) * split / p.splits)",
        "first = int(int64_t(p.k_blocks) * split / p.splits) + (split > 0)",
        "splits leave a k-block out",
        SPLIT,
    ),
    (
        "wanted-low",
        "position + b.radius - b.length + 1, first_tap)",
        "position + b.radius - b.length + 17, first_tap)",
        "column blocks with a tap that counts are skipped",
        LINES,
    ),
    (
        "wanted-of-the-other-fragment",
        "wanted[i] >> j & 3",
        "wanted[1 - i] >> j & 3",
        "each fragment skips what the other may skip",
        LINES,
    ),
    (
        "pixels-no-barrier",
        "until & ~before);\n    __syncthreads();",
        "until & ~before);",
        "read before they are written",
        NCHW,
    ),
    (
        "bias-of-another-channel",
        "(b.bias)[first_mid + m]",
        "(b.bias)[m]",
        "every group takes the first group's bias",
        WHOLE,
    ),
)

FIRST_STAGE_TAPS = _of(
    "gcn/first_stage_taps.cuh",
    (
        "left-halo",
        "radius - min(position, before)",
        "radius - min(position - 1, before)",
        "the tap on the line's first position is lost",
        NCHW,
    ),
    ("tap-off-by-one", "e - radius * (1 << shift)", "e - (radius - 1) * (1 << shift)", "all sums move by a position", NCHW),
    (
        "column-order",
        "apart = mids * kScratchRow + (1 << shift)",
        "apart = kScratchRow + (1 << shift)",
        "columns are summed as if they were channel by channel",
        NCHW,
    ),
    (
        "tap-in-both-halves",
        "(first_m + i < rest)",
        "(first_m + i <= rest)",
        "a channel's tap is looked for in the half that does not have it",
        WHOLE,
    ),
    (
        "scratch-reused-at-once",
        "add_taps<0>(scratch, sums, partial);\n    __syncthreads();",
        "add_taps<0>(scratch, sums, partial);",
        "the second half overwrites the first under other threads",
        NCHW,
    ),
    ("first-half-lost", "sum[i] = load_shared(sums + i * row);", "sum[i] = 0;", "the second half's sums start with zero", WHOLE),
)

COMBINE = _of(
    "gcn/combine.cuh",
    ("split-lost", "for (int term = 0;", "for (int term = 1;", "the first split is lost", SPLIT),
    ("next-tile", "of_tile - kTilePixels", "of_tile", "the next tile's sums are taken from the tile's own place", NCHW),
    ("share-lost", "other = tid + pixels;", "other = tid + 2 * pixels;", "a thread's splits are lost", SPLIT),
    (
        "shares-no-barrier",
        "tid, sums[i]);\n  __syncthreads();",
        "tid, sums[i]);",
        "read before they are written",
        SPLIT,
    ),
    (
        "tile-before",
        "max(q - reach, line_first) / kTilePixels",
        "max(q, line_first) / kTilePixels",
        "sums of the tile before are lost",
        NCHW,
    ),
    (
        "tile-after",
        "min(q + reach, line_last) / kTilePixels",
        "min(q, line_last) / kTilePixels",
        "sums of the tile after are lost",
        NCHW,
    ),
    ("no-dependencies", "  wait_for_dependencies();\n", "", "partial sums are not there yet", NCHW),
)

PREPARE = _of(
    "gcn/prepare.cuh",
    (
        "places-no-barrier",
        "place_of(j, first + tid));\n    __syncthreads();",
        "place_of(j, first + tid));",
        "places are read before they are written",
        PACKED,
    ),
    (
        "square-no-barrier",
        "first_channel);\n    __syncthreads();",
        "first_channel);",
        "the square is read before it is written",
        PACKED,
    ),
    ("places", "n * j.stride_n + (row - n * j.h)", "n * j.stride_n + row", "rows of all images follow each other", PACKED),
    ("past-the-channels", "(kAlongChannels ? 0 : i * kStep) < channels", "0 < channels", "padding of another channel's", ODD),
    (
        "skipped-taps",
        "(j.skipped + tap) * w.tap_stride",
        "tap * w.tap_stride",
        "the first taps take the place of those left out",
        SKIPS,
    ),
    (
        "swizzle-of-weights",
        "swizzle_rows(column, piece)",
        "swizzle_rows(column, piece ^ 1)",
        "pieces of the weights change places",
        NCHW,
    ),
    ("flip", "(t.flip ? t.kernel - 1 - tap : tap)", "tap", "input gradients want the taps backwards", NCHW),
    (
        "order-of-the-depth",
        "at = first + packed_tap * of_taps + piece;",
        "",
        "the depth of a term is piece by piece instead of tap by tap",
        NCHW,
    ),
    (
        "channel-mask",
        "used ? j.channels - channel : 0",
        "used ? kPiece<E> : 0",
        "reads the next tap's weights as further channels",
        ODD,
    ),
    ("sum", "sums[c] += to_float(", "sums[c] = to_float(", "only the last pixel of a thread counts", NCHW),
    ("sums-of-lanes", "apart = kSquareOctets; apart < 32", "apart = kSquareOctets; apart < 16", "half of the pixels count", NCHW),
    (
        "sums-no-barrier",
        "if (!j.sums) return;\n  __syncthreads();",
        "if (!j.sums) return;",
        "sums are written where others still read",
        NCHW,
    ),
    ("shares", "* j.shares + share] = sum", "* j.shares] = sum", "all shares write one sum", NCHW),
)

LINE_CONV = _of(
    "gcn/line_conv.cuh",
    (
        "no-barrier",
        "copy_wait<kStages - 2>();\n      __syncthreads();",
        "copy_wait<kStages - 2>();",
        "windows and weights are not visible",
        NCHW,
    ),
    ("lax-wait", "copy_wait<kStages - 2>", "copy_wait<kStages - 1>", "a group too many is in flight", NCHW),
    (
        "wrong-stage",
        "shared + (stage + i * kNextBlock)",
        "shared + ((stage == last_stage ? last_stage - (kRing - kStageBytes) : stage + kStageBytes) + i * kNextBlock)",
        "not landed yet",
        NCHW,
    ),
    ("block-of-the-round", "i * kNextBlock)", "0 * kNextBlock)", "a round's second k-block has the first one's weights", NCHW),
    ("loads-too-far", "i < kStages - 1; ++i) load();", "i < kStages; ++i) load();", "refills what is read", NCHW),
    (
        "halo",
        "first_h = h0 - (t.axis == 0 ? t.radius : 0)",
        "first_h = h0 - (t.axis == 0 ? t.radius - 1 : 0)",
        "the window starts a row late",
        NCHW,
    ),
    (
        "mask",
        "(unsigned(h) < unsigned(map_h))",
        "(unsigned(h) < unsigned(map_h + 1))",
        "reads the next image's first row after the last one",
        ODD,
    ),
    (
        "padding-of-the-depth",
        "store_shared(reinterpret_cast<uint32_t*>(shared + zero_at) + threadIdx.x, 0u);",
        "{}",
        "weights of zero times whatever there is",
        SMALL,
    ),
    ("tap-step", "p.term[1].axis == 0 ? row_bytes[1] : ", "", "taps run along rows in both terms", NCHW),
    (
        "pixels-of-another-term",
        "k_block * 4 < depth.first ? max(k_block + 1, depth.first / 4) : depth.all / 4",
        "depth.all / 4",
        "the second term's map is read where the first's pixels stand",
        NCHW,
    ),
    (
        "window-overwritten",
        "    copy_wait<0>();\n    __syncthreads();\n  }",
        "    copy_wait<0>();\n  }",
        "other warps still read",
        NCHW,
    ),
    (
        "fragment",
        "(shared + table_at) + a_half(lane)",
        "(shared + table_at) + a_row(lane) / 8",
        "halves of the depth and of the rows change places",
        NCHW,
    ),
    (
        "needed-too-late",
        "(at.tap >= first)",
        "(at.tap > first)",
        "the first tap that leads into the map is skipped",
        WHOLE,
    ),
    ("needed-until", "(at.tap <= last)", "(at.tap < last)", "the last tap that leads into the map is skipped", WHOLE),
    (
        "needed-by-another",
        "find_taps(p.term[0], lane % 16)",
        "find_taps(p.term[0], lane % 16 ^ 1)",
        "fragments skip what their neighbours do not need",
        WHOLE,
    ),
    (
        "table-no-barrier",
        "line_round(kShape));\n    __syncthreads();",
        "line_round(kShape));",
        "read before it is written",
        WHOLE,
    ),
    (
        "needed-piece",
        "uint16_t(both | both >> 16)",
        "uint16_t(both)",
        "a product is left out although its second piece needs it",
        WHOLE,
    ),
)

LINE_CONV_OUTPUT = _of(
    "gcn/line_conv_output.cuh",
    (
        "warp-lost",
        "for (int k = 1; k < kShape.warps_k",
        "for (int k = 2; k < kShape.warps_k",
        "a warp's share of the depth is lost",
        SPLIT,
    ),
    (
        "patch-order",
        "pixel_of(major / 16, major % 16)",
        "pixel_at(major)",
        "pixels are written row by row, which they are not",
        CHANNELS_LAST,
    ),
    (
        "bias",
        "if (first && output < p.outputs) bias",
        "if (first && output < p.outputs - 1) bias",
        "the last output has no bias",
        NCHW,
    ),
    (
        "rows-next-pixel",
        "if (used[0]) store_shared(",
        "store_shared(",
        "an output that there is not takes the place of the next pixel's first",
        CHANNELS_LAST,
    ),
    (
        "rows-past-the-map",
        "min(columns, p.tile_w) * outputs",
        "p.tile_w * outputs",
        "what is past the right edge is written into the next row",
        BATCH,
    ),
    ("rows-pitch", "tile + h * row + at", "tile + h * inside + at", "rows in shared memory follow each other", BATCH),
    ("sums-outside", "if (inside >> i & 1) sum +=", "sum +=", "pixels past the edge of the map are summed", ODD),
    ("sums-of-lanes", "apart = 4; apart < 32", "apart = 8; apart < 32", "half of the pixels are summed", NCHW),
    ("sums-of-warps", "for (int warp = 0;", "for (int warp = 1;", "the first warp's pixels are not summed", NCHW),
    ("sums-of-rectangles", "+ rectangle] = sum", "] = sum", "all rectangles write one sum", NCHW),
    (
        "sums-twice",
        "add_pixels(acc, sums);",
        "add_pixels(acc, reinterpret_cast<float*>(shared));",
        "the tile is written over the sums",
        NCHW,
    ),
)

DIRECT = _of(
    "gcn/direct.cuh",
    ("last-tap", "length - at + radius)", "length - at + radius - 1)", "the tap on the line's last position is lost", DOUBLE),
)

SANITIZED = [
    Mutation(
        "first-stage-pixel-mask",
        Fault(
            "gcn/first_stage.cuh",
            "inside = q < p.n * p.h * p.w;",
            "inside = q < p.n * p.h * p.w + 64;",
            "reads past the end of x, for sums that nobody reads",
        ),
        BATCH,
        sanitized=True,
    )
]

MUTATIONS = (*FIRST_STAGE, *FIRST_STAGE_TAPS, *COMBINE, *PREPARE, *LINE_CONV, *LINE_CONV_OUTPUT, *DIRECT, *SANITIZED)
