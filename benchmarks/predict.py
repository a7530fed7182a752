"""Segment pictures with a trained network: classes as colours over the picture, a legend, and the share of each class.

    python benchmarks/predict.py street.jpg --checkpoint runs/city                  # writes street-segmented.png
    python benchmarks/predict.py photos/*.jpg --checkpoint runs/voc --out segmented # one file for each, into a folder

A large picture is segmented in windows of the size that the network was trained on, whose scores are fused.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from segmentation import extras, pictures
from segmentation.checkpoint import Trained, load_trained
from segmentation.datasets import read_image
from segmentation.palettes import Image, Palette, palette_of
from segmentation.process import Parser
from segmentation.samples import to_tensor
from segmentation.settings import PART, at_least, number
from segmentation.testing import WholeImage
from torch import Tensor

#: A picture is segmented as a whole up to this many times the size that the network was trained on.
WHOLE = 2


def places(images: Sequence[Path], out: Path | None) -> dict[Path, Path]:
    """Where the result of each image goes.

    Args:
        images: the files to segment.
        out: a file ending in .png for one image, or a folder; None for a file beside where the script runs, or for several
            images a folder ``segmented`` there.

    Raises:
        ValueError: two images would share a file, or one file is meant for several.

    Example:
        >>> places([Path("a/x.jpg")], None)
        {PosixPath('a/x.jpg'): PosixPath('x-segmented.png')}
    """
    if out is not None and out.suffix == ".png":
        if len(images) > 1:
            raise ValueError(f"--out {out}: expected a folder for {len(images)} images, got the name of one file")
        return {images[0]: out}
    folder = out or Path() if len(images) == 1 else out or Path("segmented")
    found = {image: folder / f"{image.stem}-segmented.png" for image in images}
    if len(set(found.values())) < len(found):
        raise ValueError("two of the images have the same name: expected different ones, or one call for each")
    return found


def segment(trained: Trained, image: Image, testing: WholeImage, device: torch.device) -> Image:
    """The class of every pixel, [H, W] uint8, with a bar where it takes several windows."""
    x = to_tensor(image)[None].to(device)
    count = testing.calls(*x.shape[2:])
    with extras.progress_bar(total=count, disable=count < 3, desc="windows", leave=False, mininterval=0.2) as bar:

        def network(part: Tensor) -> Tensor:
            scores: Tensor = trained.network(part)
            bar.update()
            return scores

        with torch.inference_mode():
            best: Image = testing.probabilities(network, x)[0].argmax(0).to(torch.uint8).cpu().numpy()
    return best


def draw(path: Path, image: Image, labels: Image, classes: Sequence[str], palette: Palette, title: str) -> str:
    """Write the picture, and return the share of every class in words, largest first."""
    shares = np.bincount(labels.reshape(-1), minlength=len(classes)) / labels.size
    order = [int(c) for c in np.argsort(-shares, kind="stable") if shares[c] > 0]
    legend = [(f"{classes[c]} {100 * shares[c]:.1f} %", palette.colours[c].tolist()) for c in order if c != palette.background]
    panels = [pictures.Panel(title, image), pictures.Panel("segmentation", pictures.overlay(image, labels, palette))]
    pictures.save_figure(path, [panels], legend)
    return ", ".join(f"{classes[c]} {100 * shares[c]:.1f} %" for c in order)


def main(arguments: list[str] | None = None) -> None:
    """Segment the images that the command line names."""
    parser = Parser(__doc__ or "")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="picture files")
    parser.add_argument("--checkpoint", required=True, type=Path, help="folder of a run of train_seg.py, or its last.pt")
    parser.add_argument(
        "--out", type=Path, help="a .png for one image, or a folder (default: IMAGE-segmented.png; for several in segmented/)"
    )
    parser.add_argument(
        "--window",
        type=number(int, at_least(0)),
        metavar="N",
        help=f"size of windows, 0 for the picture as a whole (default: the training size, for pictures over {WHOLE} times that)",
    )
    parser.add_argument(
        "--overlap",
        type=number(float, PART),
        default=0.25,
        metavar="X",
        help="part of a window that the next repeats (default: 0.25)",
    )
    parser.add_argument("--flip", action="store_true", help="also segment the mirrored picture, and take the mean")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    parser.add_argument("--threads", type=number(int, at_least(1)), metavar="N", help="CPU threads (default: PyTorch's)")
    parser.add_argument("--force", action="store_true", help="overwrite existing files")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no GPU that this PyTorch can use")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        extras.check(("matplotlib", "PIL", "tqdm"))
        goals = places(list(dict.fromkeys(options.images)), options.out)
        _check_files(goals, options.force)
        trained = load_trained(options.checkpoint, device)
    except (FileNotFoundError, ImportError, ValueError) as error:
        parser.error(str(error))
    _run(parser, options, goals, trained, device)


def _check_files(goals: dict[Path, Path], force: bool) -> None:
    for image, goal in goals.items():
        if not image.is_file():
            raise ValueError(f"{image}: {'a folder; name its files' if image.is_dir() else 'no such file'}")
        if goal.parent.exists() and not goal.parent.is_dir():
            raise ValueError(f"--out {goal.parent}: expected a folder, or a name ending in .png")
        if goal.exists() and not force:
            raise ValueError(f"{goal}: exists; --force overwrites it")


def _run(parser: Parser, options: argparse.Namespace, goals: dict[Path, Path], trained: Trained, device: torch.device) -> None:
    palette = palette_of(trained.recipe.data, len(trained.classes))
    for path, goal in goals.items():
        try:
            image = read_image(path)
        except OSError as error:
            parser.error(f"{path}: expected a picture: {error}")
        height, width = image.shape[:2]
        large = max(height, width) > WHOLE * trained.recipe.size
        window = (trained.recipe.size if large else 0) if options.window is None else options.window
        labels = segment(trained, image, WholeImage((1.0,), options.flip, window, options.overlap), device)
        shares = draw(goal, image, labels, trained.classes, palette, path.name)
        print(f"{path} ({width} x {height}): {shares}\n  -> {goal}", flush=True)


if __name__ == "__main__":
    main()
