"""The networks that tables 1, 2, 3 and 5 compare, as recipes, and the paper's own numbers beside them."""

from dataclasses import replace
from typing import NamedTuple

from segmentation.recipe import Recipe


class Experiment(NamedTuple):
    """One network of the comparison: its name, and how its recipe differs."""

    name: str
    head: str
    kernel: int
    refine: bool = False

    def recipe(self, base: Recipe, seed: int) -> Recipe:
        """The recipe of this network with one seed."""
        return replace(base, head=self.head, kernel=self.kernel, refine=self.refine, seed=seed)


BASELINE = Experiment("1x1", "1x1", 1)
GCN_SIZES = (3, 5, 7, 9, 11, 13, 15)
DENSE_SIZES = (3, 5, 7, 9)
STACK_SIZES = (3, 5, 7, 9, 11)


def gcn(k: int) -> Experiment:
    """GCN without boundary refinement."""
    return Experiment(f"GCN {k}", "gcn", k)


def dense(k: int) -> Experiment:
    """One dense k x k convolution."""
    return Experiment(f"dense {k}", "dense", k)


def stack(k: int) -> Experiment:
    """3 x 3 convolutions of the same reach; a single one is the dense 3 x 3."""
    return Experiment(f"stack {k}", "stack", k) if k > 3 else dense(3)


REFINED = Experiment("GCN 15 + BR", "gcn", 15, refine=True)

#: Table -> its networks.
TABLES = {
    "1": (BASELINE, *map(gcn, GCN_SIZES)),
    "2": (*map(gcn, DENSE_SIZES), *map(dense, DENSE_SIZES)),
    "3": (*map(gcn, STACK_SIZES), *map(stack, STACK_SIZES)),
    "5": (BASELINE, gcn(15), REFINED),
}

#: The paper's mIoU on VOC 2012 val, ResNet-152, in per cent.
PAPER_MIOU = {
    "1x1": 69.0, "GCN 3": 70.1, "GCN 5": 71.1, "GCN 7": 72.8, "GCN 9": 73.4, "GCN 11": 73.7, "GCN 13": 74.0, "GCN 15": 74.5,
    "dense 3": 69.8, "dense 5": 70.4, "dense 7": 69.6, "dense 9": 68.8,
    "stack 5": 71.8, "stack 7": 71.3, "stack 9": 69.5, "stack 11": 67.5, "GCN 15 + BR": 74.7,
}  # fmt: skip
#: Table 5: pixel accuracy within 7 px of a boundary and inside, in per cent.
PAPER_BOUNDARY = {"1x1": (71.3, 93.9), "GCN 15": (71.5, 95.0), "GCN 15 + BR": (73.4, 95.1)}
