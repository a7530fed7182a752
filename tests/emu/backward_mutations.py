"""Faults in the kernels of the backward pass alone, each with a small problem that has to show it."""

from mutations import CHANNELS_LAST, DOUBLE, LINES, LONG, MANY_SPLITS, NCHW, ODD, OUTPUTS, SKIPS, SPLIT, Mutation, _of
from special_cases import SPECIAL, SpecialCase

WEIGHT_GRAD = _of(
    "gcn/weight_grad.cuh",
    ("no-barrier", "copy_wait<0>();\n      __syncthreads();", "copy_wait<0>();", "other threads' copies are not visible", NCHW),
    (
        "wait-for-nothing",
        "copy_wait<0>();\n      __syncthreads();",
        "copy_wait<1>();\n      __syncthreads();",
        "the stage has not landed",
        NCHW,
    ),
    (
        "not-transposed",
        "ldmatrix_x4_trans(w, window + pixel + column_at[j]);\n#pragma unroll\n          for",
        "ldmatrix_x4(w, window + pixel + column_at[j]);\n#pragma unroll\n          for",
        "pixels and channels change places",
        NCHW,
    ),
    ("narrow-not-transposed", "ldmatrix_x4_trans(two", "ldmatrix_x4(two", "pixels and channels change places", NCHW),
    (
        "mask",
        "(patch.h + place.h < p.h) & (patch.w + place.w < p.w) & (channel",
        "(patch.h + place.h < p.h) & (channel",
        "pixels of the next row count twice",
        ODD,
    ),
    ("narrow-mask", " & (patch.w + own[k].w < p.w)", "", "pixels of the next row count twice", ODD),
    (
        "next-patch",
        "if (patch.w < p.w) return;",
        "if (patch.w <= p.w) return;",
        "a patch past the end of the row takes the place of the next row's first",
        LINES,
    ),
    (
        "halo",
        "w = i - row * window_w - (b.axis == 1 ? b.radius : 0)",
        "w = i - row * window_w - (b.axis == 1 ? b.radius + 1 : 0)",
        "the window starts a column early",
        NCHW,
    ),
    (
        "wanted-high",
        "length - first + b.radius : 0",
        "length - last + b.radius - 2 : 0",
        "column blocks with a tap that counts are skipped",
        LINES,
    ),
    (
        "place-in-the-patch",
        "(row_of(pixel) * window_w + column_of(pixel))",
        "(column_of(pixel) * window_w + row_of(pixel))",
        "rows and columns of a patch change places",
        CHANNELS_LAST,
    ),
    (
        "places-no-barrier",
        "    wait_for_dependencies();\n    __syncthreads();",
        "    wait_for_dependencies();",
        "read before they are written",
        NCHW,
    ),
    (
        "split-end",
        "multiply_all<false>(acc, first_patch(split), first_patch(split + 1), own",
        "multiply_all<false>(acc, first_patch(split), first_patch(split + 1) - (split + 1 < p.splits), own",
        "splits leave a patch out",
        SPLIT,
    ),
    (
        "operands-change-places",
        "kNarrow ? lane >> 3 & 1 : lane >> 4",
        "lane >> 4",
        "the pair's second block stands where the first block's other pixels belong",
        NCHW,
    ),
    ("third-octet", "own + 2 * kOctetBytes", "own + kOctetBytes", "dy's second octet counts as the third", NCHW),
    (
        "another-warps-pairs",
        "2 * (kNarrow ? j * kWarps + warp : j) + i",
        "2 * (kNarrow ? j * kWarps : j) + i",
        "all warps have the first one's pairs",
        NCHW,
    ),
    (
        "padding-columns-written",
        "if (own_column + at < columns) to[",
        "to[",
        "columns past the group's last are written over the next group's",
        NCHW,
    ),
)

SECOND_STAGE_GRAD = _of(
    "gcn/second_stage_grad.cuh",
    ("splits", "row / p.dw.splits, row % p.dw.splits", "row / p.dw.splits, 0", "all splits are the first", SPLIT),
    ("second-job", "block - job * of_first", "block", "du_r starts behind its first rectangles", NCHW),
    ("channel-tiles", "row / p.dw.splits, row % p.dw", "0, row % p.dw", "outputs from 24 on are lost", OUTPUTS),
)

FINISH = _of(
    "gcn/finish.cuh",
    ("splits", "split + i * step < splits", "split + i * step < 1", "only the first split counts", SPLIT),
    ("shares", "share < shares; ++share) sum +=", "share < 1; ++share) sum +=", "one thread's splits count", MANY_SPLITS),
    ("no-barrier", "sum.w);\n  }\n  __syncthreads();", "sum.w);\n  }", "read before they are written", NCHW),
    ("half", "* 2 + tid % 2;", "* 2;", "the second half of an octet is the first", NCHW),
    ("flip", "j.flip ? j.kernel - 1 - tap : tap", "tap", "first weights have their taps backwards", NCHW),
    (
        "order-of-memory",
        "? Element{slow, fast} : Element{fast, slow}",
        "? Element{slow, fast} : Element{slow, fast}",
        "channels take the place of taps",
        CHANNELS_LAST,
    ),
    ("tap-stride", "tap * j.out.tap_stride", "tap", "taps follow each other in channels_last, too", CHANNELS_LAST),
    (
        "skipped",
        "(j.flip ? j.kernel - 1 - tap : tap) - j.skipped",
        "(j.flip ? j.kernel - 1 - tap : tap)",
        "gradients stand at taps that touch the padding only",
        SKIPS,
    ),
    ("part-lost", "part = threadIdx.x;", "part = threadIdx.x + 1;", "the first part of a bias is lost", NCHW),
    ("part-stride", "part += kThreads", "part += kThreads / 2", "parts of a bias count twice", LONG),
)

BLOCK_SUM = _of(
    "block_sum.cuh",
    (
        "no-barrier",
        "store_shared(sums + tid, mine);\n  __syncthreads();",
        "store_shared(sums + tid, mine);",
        "read before they are written",
        NCHW,
    ),
    ("half-of-the-sum", "half >= width; half /= 2", "half > width; half /= 2", "the last two are not added", DOUBLE),
)

#: Values that are not finite, at the borders of x and of dy.
SPECIAL_X = SpecialCase(SPECIAL, "half", "channels_last", where="x")
SPECIAL_DY = SpecialCase(SPECIAL, "half", "channels_last", where="dy")
NOT_FINITE = _of(
    "gcn/weight_grad.cuh",
    ("not-again", "any_of_block(!all_finite(acc))", "any_of_block(false)", "inf has met the zeros around the map", SPECIAL_X),
    (
        "first-sums-stay",
        "for (int k = 0; k < 4; ++k) acc[i][j][k] = 0;",
        "for (int k = 0; k < 4; ++k) acc[i][j][k] = kCareful ? acc[i][j][k] : 0;",
        "the second time adds to nan",
        SPECIAL_X,
    ),
    (
        "a-not-cleared",
        "mma(sums, {a[0] & in[0], a[1] & in[0], a[2] & in[1], a[3] & in[1]}, {w[0] & in[0], w[1] & in[1]}, M{});",
        "mma(sums, a, {w[0] & in[0], w[1] & in[1]}, M{});",
        "x keeps what has no partner",
        SPECIAL_X,
    ),
    ("half-a-register", "0xffffu << 16 * i", "0xffffu", "the second pixel of a register never counts", SPECIAL_X),
    (
        "whole-too-early",
        "own_tap >= b.radius - first && own_tap < length - last",
        "own_tap >= b.radius - last && own_tap < length - last",
        "a step counts as whole whose first pixels have no partner",
        SPECIAL_X,
    ),
    ("tap-of-a-half", "tap_of(column_of(j, half))", "tap_of(column_of(j, 0))", "both halves of a pair as the first", SPECIAL_DY),
)

MUTATIONS: tuple[Mutation, ...] = (*WEIGHT_GRAD, *SECOND_STAGE_GRAD, *FINISH, *BLOCK_SUM, *NOT_FINITE)
