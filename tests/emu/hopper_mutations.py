"""Faults in the Hopper kernels, each with a small problem that has to show it: in what they have in common, and all together."""

import hopper_backward_mutations
import hopper_forward_mutations
from hopper_cases import GRADIENTS, INPUT, ITEMS, PATCHES, ROWS, SHARED, SMALL
from mutations import Mutation, _of

#: What all these kernels have in common, each fault with a problem to every kernel that it does something else to.
STAGGER = ("barrier_init(barrier, kConsumerWarps)", "barrier_init(barrier, kConsumerWarps + 1)", "nobody else arrives")
RELEASE = (
    "if (lane < cluster) barrier_arrive_at(empty + of, lane);",
    "if (lane == 0) barrier_arrive(empty + of);",
    "the other block's copies do not wait for this one",
)
END = ("  if (in_cluster) cluster_sync();\n}", "}", "a block ends while the other sends")
ZEROS = ("make_uint4(0, 0, 0, 0));\n  fence_async_proxy();", "make_uint4(0, 0, 0, 0));", "wgmma may not see the zeros yet")
DEPENDENCIES = ("  if (!block.starts_early()) wait_for_dependencies();\n", "", "weights are not packed yet")
BLOCK = _of(
    "gcn/hopper/hopper_block.cuh",
    ("no-fence-of-barriers", "    fence_barrier_init();\n", "", "copies may not see the barriers yet", ITEMS),
    ("first-stage-stagger-of-too-many", *STAGGER, ITEMS),
    ("weight-grad-stagger-of-too-many", *STAGGER, GRADIENTS),
    ("input-grad-stagger-of-too-many", *STAGGER, INPUT),
    ("first-stage-tells-itself-only", *RELEASE, SHARED),
    ("input-grad-tells-itself-only", *RELEASE, PATCHES),
    ("first-stage-ends-too-early", *END, SHARED),
    ("input-grad-ends-too-early", *END, PATCHES),
    ("input-grad-no-fence-of-zeros", *ZEROS, INPUT),
    ("second-stage-no-fence-of-zeros", *ZEROS, ROWS),
    ("first-stage-no-dependencies", *DEPENDENCIES, ITEMS),
    ("second-stage-no-dependencies", *DEPENDENCIES, SMALL),
    ("stage-not-released", "in_flight = slot, next();", "in_flight = -1, next();", "stages are never empty again", GRADIENTS),
    (
        "releases-the-next-one",
        "release(in_flight, lane);",
        "release(slot, lane);",
        "a stage is released while its products run",
        GRADIENTS,
    ),
    ("sets-of-windows", "parity ^= slot == 0;", "parity ^= 1;", "the second set is waited for in the wrong phase", INPUT),
    ("units-left-out", "i += step) work", "i += 2 * step) work", "every other unit of a block", GRADIENTS),
)

MUTATIONS: tuple[Mutation, ...] = (*BLOCK, *hopper_forward_mutations.MUTATIONS, *hopper_backward_mutations.MUTATIONS)
