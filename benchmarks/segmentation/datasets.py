"""Data sets by their folders: PASCAL VOC 2012 with SBD, Cityscapes, and the built-in one that needs none.

Every data set gives pairs of uint8 arrays: image [H, W, 3] and labels [H, W], 255 where there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segmentation import shapes
from segmentation.extras import require

IGNORE = 255
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
#: Label id in Cityscapes' files -> class name; every other id is not scored.
CITYSCAPES_CLASSES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light", 20: "traffic sign",
    21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train",
    32: "motorcycle", 33: "bicycle",
}  # fmt: skip


class Dataset(Protocol):
    """What training and testing need of a data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pair: ...


@dataclass(frozen=True)
class Task:
    """A data set split into training and validation images.

    Attributes:
        classes: their names; labels are indices into it.
        train: training images.
        val: validation images.
    """

    classes: Sequence[str]
    train: Dataset
    val: Dataset


class MissingData(FileNotFoundError):
    """A data set is not in its folder; the message says what is missing and where to get it."""


def _need(path: Path, what: str, where: str) -> Path:
    if not path.exists():
        raise MissingData(f"{what} not found: expected {path}. Get it from {where} and unpack it there.")
    return path


def _open(path: Path) -> Any:
    return np.asarray(require("PIL.Image", "pillow", "reading image files").open(path))


@dataclass(frozen=True)
class Files:
    """Pairs of an image file and a label file; label values go through ``table`` ([256] uint8)."""

    pairs: tuple[tuple[Path, Path], ...]
    table: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        image, labels = self.pairs[index]
        return _open(image)[..., :3], self.table[_read_labels(labels)]


def _read_labels(path: Path) -> NDArray[np.uint8]:
    if path.suffix != ".mat":
        return np.asarray(_open(path), dtype=np.uint8)
    contents = require("scipy.io", "scipy", "reading the label files of SBD (.mat)").loadmat(str(path))
    return np.asarray(contents["GTcls"]["Segmentation"][0, 0], dtype=np.uint8)


def voc(root: Path) -> Task:
    """PASCAL VOC 2012 with the annotations of SBD: 10,582 training and 1,449 validation images, 21 classes.

    Args:
        root: folder with ``VOCdevkit/VOC2012`` and ``benchmark_RELEASE/dataset``.

    Raises:
        MissingData: one of the two is not there.
    """
    folder = _need(root / "VOCdevkit" / "VOC2012", "PASCAL VOC 2012", "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/")
    extra = _need(root / "benchmark_RELEASE" / "dataset", "SBD", "http://home.bharathh.info/pubs/codes/SBD/download.html")
    lists = folder / "ImageSets" / "Segmentation"
    val = _lines(lists / "val.txt")
    train = _lines(lists / "train.txt")
    more = sorted({*_lines(extra / "train.txt"), *_lines(extra / "val.txt")} - {*train, *val})
    table = np.arange(256, dtype=np.uint8)

    def pairs(names: list[str]) -> list[tuple[Path, Path]]:
        return [(folder / "JPEGImages" / f"{n}.jpg", folder / "SegmentationClass" / f"{n}.png") for n in names]

    from_sbd = [(extra / "img" / f"{n}.jpg", extra / "cls" / f"{n}.mat") for n in more]
    return Task(VOC_CLASSES, Files((*pairs(train), *from_sbd), table), Files(tuple(pairs(val)), table))


def cityscapes(root: Path) -> Task:
    """Cityscapes, fine annotations: 2,975 training and 500 validation images of 1024 x 2048, 19 classes.

    Args:
        root: folder with ``leftImg8bit`` and ``gtFine``.

    Raises:
        MissingData: one of the two is not there.
    """
    site = "https://www.cityscapes-dataset.com (leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip)"
    images = _need(root / "leftImg8bit", "Cityscapes' images", site)
    labels = _need(root / "gtFine", "Cityscapes' labels", site)
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[list(CITYSCAPES_CLASSES)] = np.arange(len(CITYSCAPES_CLASSES))

    def split(name: str) -> Files:
        suffix = "_leftImg8bit.png"
        found = sorted((images / name).glob(f"*/*{suffix}"))
        if not found:
            raise MissingData(f"no images in {images / name}: expected <city>/*{suffix}. Get them from {site}.")
        pairs = [(p, labels / name / p.parent.name / p.name.replace(suffix, "_gtFine_labelIds.png")) for p in found]
        return Files(tuple(pairs), table)

    return Task(tuple(CITYSCAPES_CLASSES.values()), split("train"), split("val"))


def built_in(size: int) -> Task:
    """The procedurally drawn data set at ``size`` x ``size`` pixels: 4000 training and 128 validation images, 6 classes."""
    return Task(shapes.CLASSES, shapes.ShapesDataset("train", size), shapes.ShapesDataset("val", size))


def load_task(name: str, root: str | None, size: int) -> Task:
    """The task that ``name`` ("shapes", "voc" or "cityscapes") stands for.

    Raises:
        ValueError: an unknown name, or no folder for a data set that has one.
        MissingData: the folder does not hold it.
    """
    if name == "shapes":
        return built_in(size)
    if name not in ("voc", "cityscapes"):
        raise ValueError(f"data: expected shapes, voc or cityscapes, got {name!r}")
    if root is None:
        raise ValueError(f"data {name!r} needs its folder: pass --root")
    return voc(Path(root)) if name == "voc" else cityscapes(Path(root))


def _lines(path: Path) -> list[str]:
    return _need(path, f"the list {path.name}", "the same archive").read_text().split()
