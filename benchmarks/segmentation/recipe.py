"""How a network is trained: the paper's settings as defaults, and those for the built-in data set.

What the paper does not state is marked *ours*.
"""

import argparse
from dataclasses import asdict, dataclass, fields
from typing import Any

from gcn_kernels.core import backends
from gcn_kernels.models.heads import HEADS
from gcn_kernels.models.resnet import DEPTHS
from segmentation.settings import NOT_NEGATIVE, ODD, PART, POSITIVE, Rule, add_option, at_least, check, one_of, setting

_ENCODERS = ("patch", *(f"resnet{depth}" for depth in DEPTHS), "resnet50-gcn")
ENCODER = Rule(
    f"{', '.join(_ENCODERS)} or timm:NAME", lambda v: v in _ENCODERS or (v.startswith("timm:") and v != "timm:")
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """Settings of one training run; every field says what it is. Lengths are pixels.

    Raises:
        ValueError: a value that a field does not take.

    Example:
        >>> Recipe(kernel=25).steps
        320000
    """

    data: str = setting("voc", "data set, and its preset of the other options", one_of("shapes", "voc", "cityscapes"))
    root: str = setting("", "folder of the data set", free=True)
    annotations: str = setting(
        "auto",
        "training labels of VOC: with SBD, with SegmentationClassAug, its own alone; auto takes the first that is there",
        one_of("auto", "sbd", "aug", "voc"),
    )
    size: int = setting(512, "height and width of training crops", at_least(1))
    encoder: str = setting("resnet152", f"one of {ENCODER.expected} (timm's with four maps at 1/4 to 1/32)", ENCODER)
    weights: str = setting("", "state dict of the encoder to start from, with torchvision's names")
    head: str = setting("gcn", "head on each stage: what the paper compares", one_of(*HEADS))
    kernel: int = setting(15, "odd k of all four heads", ODD)
    middle: int = setting(0, "maps of the head stack, 0 for as many as the stage has", at_least(0))
    refine: bool = setting(True, "boundary refinement")
    backend: str = setting("auto", "of the GCN, see gcn_kernels.fused_gcn", one_of(*backends.BACKENDS))
    steps: int = setting(320_000, "optimizer steps (ours); a run can be extended by a larger number", at_least(1))
    batch: int = setting(1, "images per process and micro-batch", at_least(1))
    accumulate: int = setting(1, "micro-batches per step", at_least(1))
    optimizer: str = setting("sgd", "how weights are changed", one_of("sgd", "adamw"))
    lr: float = setting(2.5e-5, "peak learning rate (ours)", POSITIVE)
    warmup: int = setting(0, "steps until the peak (ours)", at_least(0))
    power: float = setting(0.9, "of the polynomial decay (ours)", NOT_NEGATIVE)
    momentum: float = setting(0.99, "of SGD", PART)
    weight_decay: float = setting(5e-4, "of all weights", NOT_NEGATIVE)
    class_weights: tuple[float, ...] = setting((), "weight of each class in the loss, one number per class", NOT_NEGATIVE)
    ignore_index: int = setting(
        255, "a label that counts nowhere, beside 255", Rule("a whole number from 0 to 255", lambda v: 0 <= v <= 255)
    )
    flip: bool = setting(True, "mirror half of the images")
    scales: tuple[float, float] = setting((1.0, 1.0), "smallest and largest random scale", POSITIVE)
    batch_norm: str = setting(
        "frozen", "statistics of each process, of all of them, or as they are in the weights", one_of("local", "synced", "frozen")
    )
    amp: str = setting("none", "mixed precision of the forward pass", one_of("none", "bf16", "fp16"))
    channels_last: bool = setting(False, "memory format channels_last")
    ema: float = setting(0.0, "decay of the averaged weights that are tested, 0 for none", PART)
    seed: int = setting(0, "of everything random", at_least(0))
    workers: int = setting(0, "processes that load data", at_least(0), free=True)
    checkpoint_every: int = setting(1000, "steps between checkpoints: what a killed run loses at most", at_least(1), free=True)
    evaluate_every: int = setting(10_000, "steps between evaluations, 0 for the end only", at_least(0), free=True)
    evaluate_images: int = setting(0, "validation images then, 0 for all; the last evaluation takes all", at_least(0), free=True)

    def __post_init__(self) -> None:
        check(self)
        if self.scales[0] > self.scales[1]:
            raise ValueError(f"--scales: expected the smallest and the largest scale, got {self.scales[0]} {self.scales[1]}")
        if self.batch_norm == "local" and self.batch == 1 and self.size <= 32:
            raise ValueError("--batch: expected at least 2 with --batch-norm local and --size 32 or less: res-5 is one pixel")
        if self.head == "stack" and self.kernel < 3:
            raise ValueError(f"--kernel: expected at least 3 with --head stack, got {self.kernel}")


PRESETS = {
    "voc": Recipe(workers=4),
    "cityscapes": Recipe(data="cityscapes", size=800, kernel=25, workers=4),
    "shapes": Recipe(
        data="shapes", size=256, encoder="patch", steps=2400, batch=4, optimizer="adamw", lr=3e-3, warmup=50,
        weight_decay=1e-4, batch_norm="local", channels_last=True, checkpoint_every=50, evaluate_every=600, evaluate_images=40,
    ),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One option for every field of :class:`Recipe`; the default of each comes from the preset."""
    usual = ["shapes", *(name for name in PRESETS if name != "shapes")]
    group = parser.add_argument_group("recipe", "How the network is trained. Defaults depend on --data.")
    for field in fields(Recipe):
        values = [(name, getattr(PRESETS[name], field.name)) for name in usual]
        add_option(group, field, values[:1] if field.name == "data" else values)


def from_arguments(options: argparse.Namespace) -> Recipe:
    """The preset of the data set with what was given on the command line.

    Raises:
        ValueError: options that do not go together.
    """
    given = {f.name: getattr(options, f.name) for f in fields(Recipe) if getattr(options, f.name) is not None}
    return from_dict(to_dict(PRESETS[given.get("data", "shapes")]) | given)


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, for a checkpoint."""
    return asdict(recipe)


def from_dict(values: dict[str, Any]) -> Recipe:
    """The recipe of a checkpoint.

    Raises:
        ValueError: it has settings that this version does not know, or does not take.
    """
    if unknown := sorted(set(values) - {f.name for f in fields(Recipe)}):
        raise ValueError(f"a recipe of another version: {', '.join(unknown)} unknown")
    settings: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return Recipe(**settings)
