"""Evaluate a trained network: mean IoU, pixel accuracy, boundary (7 px) and internal accuracy, and pictures.

python benchmarks/eval_seg.py runs/k15                                          # as it was trained
python benchmarks/eval_seg.py runs/voc --scales 0.75 1 1.25 --flip              # multi-scale
python benchmarks/eval_seg.py runs/city --window 1024                           # four windows, scores fused
python benchmarks/eval_seg.py runs/k15 --pictures 8 --field                     # predictions and receptive fields
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from segmentation import extras, pictures
from segmentation.checkpoint import load_trained
from segmentation.datasets import Task
from segmentation.palettes import Palette, palette_of
from segmentation.pictures import Panel
from segmentation.process import Parser, Process, start_process
from segmentation.samples import to_tensor
from segmentation.settings import PART, POSITIVE, at_least, number
from segmentation.testing import WholeImage
from segmentation.training import evaluate, task_of
from torch import nn

#: What the colours of a receptive field mean.
HEAT = "change of the score if hidden"


def load_run(folder: Path, process: Process, root: str | None = None) -> tuple[nn.Module, Task, Palette]:
    """The network of a run, its data and their colours.

    Args:
        folder: of the run.
        process: where the network goes.
        root: folder of the data set, if it is not where it was.

    Raises:
        FileNotFoundError: the folder holds no checkpoint, or the data set is missing.
        ValueError: the checkpoint is no one of ``train_seg.py``.
    """
    trained = load_trained(folder, process.device)
    return trained.network, task_of(trained.recipe, root), palette_of(trained.recipe.data, len(trained.classes))


def draw(
    folder: Path,
    network: nn.Module,
    task: Task,
    palette: Palette,
    process: Process,
    testing: WholeImage,
    count: int,
    step: int | None,
) -> None:
    """Write pictures of the first validation images: image, truth, prediction, and the receptive field of one point.

    Args:
        folder: of the run.
        network: what is tested.
        task: the data.
        palette: colours of its classes.
        process: this process.
        testing: scales, mirroring, windows of the prediction.
        count: number of images.
        step: of the receptive field, 0 for a grid that fits the image; None for no field.
    """
    for index in range(min(count, len(task.val))):
        image, labels = task.val[index]
        x = to_tensor(image)[None].to(process.device)
        with torch.inference_mode():
            predicted = testing.probabilities(network, x).argmax(1)[0].cpu().numpy().astype(np.uint8)
        row = [
            Panel("image", image),
            Panel("truth", pictures.overlay(image, labels, palette)),
            Panel("prediction", pictures.overlay(image, predicted, palette)),
        ]
        if step is not None:
            y, x_at = inner_point(labels, palette)
            field = pictures.valid_receptive_field(network, x[0], y, x_at, step=step, progress=True)
            row.append(Panel("receptive field of the cross", pictures.heat_over(image, field, y, x_at)))
        legend = pictures.legend_of([labels, predicted], task.classes, palette)
        pictures.save_figure(folder / "pictures" / f"{index:04d}.png", [row], legend, HEAT if step is not None else "")


def inner_point(labels: np.ndarray, palette: Palette) -> tuple[int, int]:
    """A pixel of the largest object: the one nearest to the object's centre; the centre of the image if there is none."""
    drawn = labels < len(palette.colours)
    if palette.background is not None:
        drawn &= labels != palette.background
    values, counts = np.unique(labels[drawn], return_counts=True)
    if not len(values):
        return labels.shape[0] // 2, labels.shape[1] // 2
    ys, xs = np.nonzero(labels == values[counts.argmax()])
    nearest = ((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2).argmin()
    return int(ys[nearest]), int(xs[nearest])


def table(classes: list[str], result: dict[str, Any]) -> str:
    """The result by class and as means; a class that occurs nowhere has no IoU."""
    lines = [(name, value) for name, value in zip(classes, result["iou"], strict=True)]
    names = {"miou": "mIoU", "pixel": "pixel accuracy", "boundary": "boundary", "internal": "internal"}
    lines += [(name, result[key]) for key, name in names.items()]
    width = max(len(name) for name, _ in lines)
    text = [f"{name:{width}}  {'-' if value is None else f'{value:.4f}'}" for name, value in lines]
    if None in result["iou"]:
        text.append("-: in no label and in no prediction; not in the mean")
    return "\n".join(text)


def main(arguments: list[str] | None = None) -> None:
    """Evaluate as the command line says; print a table and write ``evaluation.json`` into the run's folder."""
    parser = Parser(__doc__ or "")
    whole, some = number(int, at_least(0)), number(int, at_least(1))
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--root", help="folder of the data set, if it is not where it was")
    parser.add_argument(
        "--scales", type=number(float, POSITIVE), nargs="+", default=[1.0], metavar="X", help="sizes to test at (default: 1)"
    )
    parser.add_argument("--flip", action="store_true", help="also test the mirrored image")
    parser.add_argument(
        "--window", type=whole, default=0, metavar="N", help="size of sliding windows in pixels (default: 0, none)"
    )
    parser.add_argument(
        "--overlap",
        type=number(float, PART),
        default=2 / 3,
        metavar="X",
        help="least part of a window that the next one repeats (default: 2/3)",
    )
    parser.add_argument("--limit", type=whole, default=0, metavar="N", help="only the first images (default: 0, all)")
    parser.add_argument(
        "--pictures", type=whole, default=0, metavar="N", help="draw predictions over the first images (default: 0)"
    )
    parser.add_argument("--field", action="store_true", help="and the valid receptive field of a point in each; needs --pictures")
    parser.add_argument(
        "--field-step",
        type=some,
        metavar="N",
        help=f"pixels between the places that are hidden for it (default: about {pictures.CELLS} places along the image)",
    )
    options = parser.parse_args(arguments)
    if (options.field or options.field_step) and not options.pictures:
        parser.error("--field: needs --pictures N, the number of images to draw")
    if not options.run.is_dir():
        parser.error(f"{options.run}: expected the folder of a run of train_seg.py, there is none")
    process = start_process()
    try:
        extras.check(["torchmetrics", "tqdm", *(["matplotlib", "PIL"] if options.pictures else [])])
        network, task, palette = load_run(options.run, process, options.root)
    except (FileNotFoundError, ImportError, ValueError) as error:
        parser.error(str(error))
    testing = WholeImage(options.scales, options.flip, options.window, options.overlap)
    result = evaluate(network, task.val, len(task.classes), process, testing, limit=options.limit, progress=True)
    process.say(table(list(task.classes), result))
    if process.rank == 0:
        (options.run / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
        step = (options.field_step or 0) if options.field or options.field_step else None
        draw(options.run, network, task, palette, process, testing, options.pictures, step)
    if process.size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
