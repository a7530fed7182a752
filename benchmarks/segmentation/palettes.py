"""Colours of the classes, as each data set draws them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segmentation.shapes import MARKS

Image = NDArray[np.uint8]

#: In the order of the 19 classes that Cityscapes scores, as its own tools draw them.
CITYSCAPES = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
    (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip


class Palette(NamedTuple):
    """A colour for each class, [classes, 3], and the class that stays clear, None where every class is a thing to see."""

    colours: Image
    background: int | None


def voc_colours(count: int) -> Image:
    """PASCAL VOC's colours, black first: the bits of the index spread over red, green and blue."""
    index = np.arange(count)
    palette = np.zeros((count, 3), dtype=np.uint8)
    for level in range(3):
        for channel in range(3):
            palette[:, channel] |= ((index >> (3 * level + channel) & 1) << (7 - level)).astype(np.uint8)
    return palette


def palette_of(data: str, classes: int) -> Palette:
    """The palette of a data set.

    Args:
        data: "shapes" (a class has the colour that is its name), "cityscapes", or "voc".
        classes: how many classes there are.

    Example:
        >>> palette_of("cityscapes", 19).colours[0].tolist(), palette_of("cityscapes", 19).background
        ([128, 64, 128], None)
    """
    if data == "cityscapes":
        return Palette(np.array(CITYSCAPES[:classes], dtype=np.uint8), None)
    if data == "shapes":
        return Palette(np.vstack([np.zeros(3), MARKS]).astype(np.uint8)[:classes], 0)
    return Palette(voc_colours(classes), 0)
