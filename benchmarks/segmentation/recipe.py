"""How a network is trained: the paper's settings as defaults, and those for the built-in data set.

What the paper does not state is marked *ours*.
"""

import argparse
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Settings of one training run. Lengths are pixels; ``batch`` is per process and step of accumulation.

    Attributes:
        data: "shapes" (built in), "voc" or "cityscapes".
        root: folder of the data set.
        size: height and width of training crops.
        encoder: "patch", "resnet18" ... "resnet152", "resnet50-gcn", or "timm:NAME".
        weights: state dict of the encoder to start from (torchvision's names).
        head: "gcn", "1x1", "dense" or "stack".
        kernel: odd k of all four heads.
        middle: maps of the "stack" head, 0 for as many as the stage has.
        refine: boundary refinement.
        backend: of the GCN.
        steps: optimizer steps (ours).
        batch: images per process and micro-batch.
        accumulate: micro-batches per step.
        optimizer: "sgd" or "adamw".
        lr: peak learning rate (ours).
        warmup: steps until the peak (ours).
        power: of the polynomial decay (ours).
        momentum: of SGD.
        weight_decay: of all weights.
        flip: mirror half of the images.
        scales: smallest and largest random scale.
        batch_norm: "local", "synced" over processes, or "frozen".
        amp: "none", "bf16" or "fp16".
        channels_last: memory format.
        ema: decay of the averaged weights, 0 for none.
        seed: of everything random.
        workers: processes that load data.
        checkpoint_every: steps between checkpoints: what a killed run loses at most.
        evaluate_every: steps between evaluations, 0 for the end only.
        evaluate_images: validation images then, 0 for all; the last evaluation takes all.
    """

    data: str = "voc"
    root: str = ""
    size: int = 512
    encoder: str = "resnet152"
    weights: str = ""
    head: str = "gcn"
    kernel: int = 15
    middle: int = 0
    refine: bool = True
    backend: str = "auto"
    steps: int = 320_000
    batch: int = 1
    accumulate: int = 1
    optimizer: str = "sgd"
    lr: float = 2.5e-5
    warmup: int = 0
    power: float = 0.9
    momentum: float = 0.99
    weight_decay: float = 5e-4
    flip: bool = True
    scales: tuple[float, float] = (1.0, 1.0)
    batch_norm: str = "frozen"
    amp: str = "none"
    channels_last: bool = False
    ema: float = 0.0
    seed: int = 0
    workers: int = 0
    checkpoint_every: int = 1000
    evaluate_every: int = 10_000
    evaluate_images: int = 0


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
    for field in fields(Recipe):
        name = f"--{field.name.replace('_', '-')}"
        if field.name == "data":
            parser.add_argument(name, default="shapes", choices=sorted(PRESETS), help="data set and its preset")
        elif isinstance(field.default, bool):
            parser.add_argument(name, default=None, action=argparse.BooleanOptionalAction)
        elif isinstance(field.default, tuple):
            parser.add_argument(name, default=None, type=float, nargs=len(field.default))
        else:
            parser.add_argument(name, default=None, type=type(field.default))


def from_arguments(options: argparse.Namespace) -> Recipe:
    """The preset of the data set with what was given on the command line."""
    given = {f.name: getattr(options, f.name) for f in fields(Recipe) if getattr(options, f.name) is not None}
    return from_dict(to_dict(PRESETS[options.data]) | given)


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, for a checkpoint."""
    return asdict(recipe)


def from_dict(values: dict[str, Any]) -> Recipe:
    """The recipe of a checkpoint."""
    settings: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return Recipe(**settings)
