"""Evaluate a trained network: mean IoU, pixel accuracy, boundary (7 px) and internal accuracy, and pictures.

python benchmarks/eval_seg.py runs/k15                                          # as it was trained
python benchmarks/eval_seg.py runs/voc --scales 0.75 1 1.25 --flip              # multi-scale
python benchmarks/eval_seg.py runs/city --window 1024                           # four windows, scores fused
python benchmarks/eval_seg.py runs/k15 --pictures 8 --field                     # predictions and receptive fields
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from segmentation import pictures
from segmentation.build import build_network
from segmentation.datasets import MissingData, Task, load_task
from segmentation.process import Process, start_process
from segmentation.recipe import from_dict
from segmentation.samples import to_tensor
from segmentation.testing import WholeImage
from segmentation.training import evaluate, load_checkpoint
from torch import nn


def load_run(folder: Path, process: Process, root: str | None = None) -> tuple[nn.Module, Task]:
    """The network of a run and its data.

    Args:
        folder: of the run.
        process: where the network goes.
        root: folder of the data set, if it is not where it was.

    Raises:
        FileNotFoundError: the folder holds no checkpoint, or the data set is missing.
    """
    state = load_checkpoint(folder / "last.pt")
    recipe = from_dict(state["recipe"] | {"weights": ""})
    network = build_network(recipe, len(state["classes"])).to(process.device)
    network.load_state_dict(state["tested"])
    return network.eval(), load_task(recipe.data, root or recipe.root or None, recipe.size)


def draw(folder: Path, network: nn.Module, task: Task, process: Process, testing: WholeImage, count: int, field: bool) -> None:
    """Write pictures of the first validation images: image, truth, prediction, and the receptive field of one point."""
    classes = len(task.classes)
    for index in range(min(count, len(task.val))):
        image, labels = task.val[index]
        x = to_tensor(image)[None].to(process.device)
        with torch.inference_mode():
            predicted = testing.probabilities(network, x).argmax(1)[0].cpu().numpy().astype(np.uint8)
        row = [image, pictures.overlay(image, labels, classes), pictures.overlay(image, predicted, classes)]
        if field:
            y, x_at = inner_point(labels)
            row.append(pictures.heat_over(image, pictures.valid_receptive_field(network, x[0], y, x_at), y, x_at))
        pictures.save(pictures.grid([row]), folder / "pictures" / f"{index:04d}.png")


def inner_point(labels: np.ndarray) -> tuple[int, int]:
    """A pixel of the largest object: the one nearest to the object's centre; the centre of the image if there is none."""
    values, counts = np.unique(labels[(labels > 0) & (labels < 255)], return_counts=True)
    if not len(values):
        return labels.shape[0] // 2, labels.shape[1] // 2
    ys, xs = np.nonzero(labels == values[counts.argmax()])
    nearest = ((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2).argmin()
    return int(ys[nearest]), int(xs[nearest])


def main(arguments: list[str] | None = None) -> None:
    """Evaluate as the command line says; print a table and write ``evaluation.json`` into the run's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--root", help="folder of the data set, if it is not where it was")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0])
    parser.add_argument("--flip", action="store_true", help="also test the mirrored image")
    parser.add_argument("--window", type=int, default=0, help="size of sliding windows in pixels, 0 for whole images")
    parser.add_argument("--overlap", type=float, default=2 / 3, help="least part of a window that the next one repeats")
    parser.add_argument("--limit", type=int, default=0, help="only the first images")
    parser.add_argument("--pictures", type=int, default=0, help="draw predictions over the first images")
    parser.add_argument("--field", action="store_true", help="and the valid receptive field of a point in each")
    options = parser.parse_args(arguments)
    process = start_process()
    try:
        network, task = load_run(options.run, process, options.root)
    except (FileNotFoundError, MissingData) as error:
        parser.error(str(error))
    testing = WholeImage(options.scales, options.flip, options.window, options.overlap)
    result = evaluate(network, task.val, len(task.classes), process, testing, limit=options.limit, progress=True)
    if process.rank == 0:
        width = max(len(name) for name in (*task.classes, "pixel accuracy"))
        for name, value in zip(task.classes, result["iou"], strict=True):
            print(f"{name:{width}}  {value:.4f}")
        for name, key in (("mIoU", "miou"), ("pixel accuracy", "pixel"), ("boundary", "boundary"), ("internal", "internal")):
            print(f"{name:{width}}  {result[key]:.4f}")
        (options.run / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
        draw(options.run, network, task, process, testing, options.pictures, options.field)
    if process.size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
