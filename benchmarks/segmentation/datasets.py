"""Data sets by their folders: PASCAL VOC 2012 with SBD, Cityscapes, and the built-in one that needs none.

Every data set gives pairs of uint8 arrays: image [H, W, 3] and labels [H, W], 255 where there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

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
#: Where SBD is, beside ``VOCdevkit``.
SBD = "benchmark_RELEASE/dataset"
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
        annotations: which training labels these are, where there is a choice.
    """

    classes: Sequence[str]
    train: Dataset
    val: Dataset
    annotations: str = ""


class MissingData(FileNotFoundError):
    """A data set is not in its folder; the message says what is missing and where to get it."""


def _need(path: Path, what: str, where: str) -> Path:
    if not path.exists():
        raise MissingData(f"{what} not found: expected {path}. Get it from {where} and unpack it there.")
    return path


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as [H, W, 3], turned as its camera says."""
    image = require("PIL.ImageOps").exif_transpose(require("PIL.Image").open(path))
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


@dataclass(frozen=True)
class Relabelled:
    """A data set of which one label counts nowhere."""

    dataset: Dataset
    ignored: int

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Pair:
        image, labels = self.dataset[index]
        return image, np.where(labels == self.ignored, np.uint8(IGNORE), labels)


@dataclass(frozen=True)
class Files:
    """Pairs of an image file and a label file; label values go through ``table`` ([256] uint8)."""

    pairs: tuple[tuple[Path, Path], ...]
    table: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        image, labels = self.pairs[index]
        return read_image(image), self.table[_read_labels(labels)]


def _read_labels(path: Path) -> NDArray[np.uint8]:
    if path.suffix != ".mat":
        return np.asarray(require("PIL.Image").open(path), dtype=np.uint8)
    contents = require("scipy.io").loadmat(str(path))
    return np.asarray(contents["GTcls"]["Segmentation"][0, 0], dtype=np.uint8)


def has_sbd(root: Path) -> bool:
    """Whether the folder of VOC holds SBD too."""
    return (root / SBD).exists()


def voc(root: Path, annotations: str = "auto") -> Task:
    """PASCAL VOC 2012: 1,449 validation images, 21 classes; 10,582 training images with the annotations of SBD, 1,464 without.

    Args:
        root: folder with ``VOCdevkit/VOC2012``.
        annotations: "sbd", from ``benchmark_RELEASE/dataset`` beside it; "aug", the same annotations as the folder
            ``SegmentationClassAug`` in ``VOC2012``; "voc", its own alone; or "auto", the first of these that is there.

    Raises:
        MissingData: they are not there.
    """
    folder = _need(root / "VOCdevkit" / "VOC2012", "PASCAL VOC 2012", "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/")
    sbd, aug = root / SBD, folder / "SegmentationClassAug"
    if annotations == "auto":
        annotations = "sbd" if has_sbd(root) else "aug" if aug.exists() else "voc"
    lists = folder / "ImageSets" / "Segmentation"
    val, train = _lines(lists / "val.txt"), _lines(lists / "train.txt")
    table = np.arange(256, dtype=np.uint8)

    def pairs(names: list[str], labels: str = "SegmentationClass") -> tuple[tuple[Path, Path], ...]:
        return tuple((folder / "JPEGImages" / f"{n}.jpg", folder / labels / f"{n}.png") for n in names)

    chosen = pairs(train)
    if annotations == "sbd":
        _need(sbd, "SBD", "http://home.bharathh.info/pubs/codes/SBD/download.html")
        more = sorted({*_lines(sbd / "train.txt"), *_lines(sbd / "val.txt")} - {*train, *val})
        chosen += tuple((sbd / "img" / f"{n}.jpg", sbd / "cls" / f"{n}.mat") for n in more)
    if annotations == "aug":
        _need(aug, "SegmentationClassAug", "whoever gave you VOC with augmented annotations (one .png per image)")
        chosen = pairs(sorted({p.stem for p in aug.glob("*.png")} - set(val)), "SegmentationClassAug")
    return Task(VOC_CLASSES, Files(chosen, table), Files(pairs(val), table), annotations)


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


def load_task(name: str, root: str | None, size: int, *, annotations: str = "auto", ignored: int = IGNORE) -> Task:
    """The task that ``name`` ("shapes", "voc" or "cityscapes") stands for.

    Args:
        name: of the data set.
        root: its folder.
        size: of the images of "shapes".
        annotations: see :func:`voc`.
        ignored: a label that counts nowhere, beside 255.

    Raises:
        ValueError: an unknown name, or no folder for a data set that has one.
        MissingData: the folder does not hold it.
    """
    task = _load(name, root, size, annotations)
    if ignored == IGNORE:
        return task
    return replace(task, train=Relabelled(task.train, ignored), val=Relabelled(task.val, ignored))


def _load(name: str, root: str | None, size: int, annotations: str) -> Task:
    if name == "shapes":
        return built_in(size)
    if name not in ("voc", "cityscapes"):
        raise ValueError(f"data: expected shapes, voc or cityscapes, got {name!r}")
    if root is None:
        raise ValueError(f"data {name!r} needs its folder: pass --root")
    return voc(Path(root), annotations) if name == "voc" else cityscapes(Path(root))


def _lines(path: Path) -> list[str]:
    return _need(path, f"the list {path.name}", "the same archive").read_text().split()
