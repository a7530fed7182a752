"""Pictures: predictions laid over images, and the valid receptive field of one score."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segmentation.datasets import IGNORE
from segmentation.extras import require

Image = NDArray[np.uint8]


def colours(count: int) -> Image:
    """``count`` colours far from each other, black first: the bits of the index spread over red, green and blue."""
    index = np.arange(count)
    palette = np.zeros((count, 3), dtype=np.uint8)
    for level in range(3):
        for channel in range(3):
            palette[:, channel] |= ((index >> (3 * level + channel) & 1) << (7 - level)).astype(np.uint8)
    return palette


def overlay(image: Image, labels: Image, classes: int, strength: float = 0.6) -> Image:
    """``labels`` [H, W] as colours over ``image`` [H, W, 3]; class 0 and pixels without a label stay clear."""
    palette = np.vstack([colours(classes), np.zeros((256 - classes, 3), dtype=np.uint8)])
    clear = (labels == 0) | (labels == IGNORE)
    mixed = (1 - strength) * image + strength * palette[labels]
    return np.where(clear[..., None], image, mixed.astype(np.uint8))


def grid(rows: Sequence[Sequence[Image]], gap: int = 4) -> Image:
    """Images of one size in rows, on white."""
    height, width = rows[0][0].shape[:2]
    count = max(len(row) for row in rows)
    canvas = np.full(((height + gap) * len(rows) - gap, (width + gap) * count - gap, 3), 255, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            canvas[i * (height + gap) :, j * (width + gap) :][:height, :width] = image
    return canvas


def save(image: Image, path: Path) -> None:
    """Write ``image`` [H, W, 3] to a file, in the format that its ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    require("PIL.Image", "pillow", "writing pictures").fromarray(image).save(path)


def valid_receptive_field(
    network: Callable[[Tensor], Tensor], x: Tensor, row: int, column: int, *, patch: int = 16, step: int = 8, batch: int = 16
) -> NDArray[np.float32]:
    """How much the score at one point changes when a patch of the image is hidden.

    Args:
        network: [N, 3, H, W] -> scores [N, O, H, W].
        x: one image [3, H, W], normalised; a hidden patch is 0, the mean colour.
        row: of the point.
        column: of the point.
        patch: height and width of the hidden patch, in pixels.
        step: pixels between patches.
        batch: images at once.

    Returns:
        [ceil(H / step), ceil(W / step)]: change of the score of the class that wins at the point, relative to the largest.

    Source: after Zhou et al., *Object Detectors Emerge in Deep Scene CNNs*, ICLR 2015, which the paper's figure follows.
    """
    height, width = x.shape[1:]
    with torch.inference_mode():
        scores = network(x[None])[0, :, row, column]
        winner = int(scores.argmax())
        places = [(top, left) for top in range(0, height, step) for left in range(0, width, step)]
        changes = []
        for start in range(0, len(places), batch):
            part = places[start : start + batch]
            hidden = x[None].repeat(len(part), 1, 1, 1)
            for one, (top, left) in zip(hidden, part, strict=True):
                middle = top + step // 2, left + step // 2
                rows, columns = (slice(max(0, m - patch // 2), m + patch // 2) for m in middle)
                one[:, rows, columns] = 0
            changes.append((network(hidden)[:, winner, row, column] - scores[winner]).abs())
    field = torch.cat(changes).reshape(-(-height // step), -(-width // step))
    return (field / field.max().clamp(min=1e-12)).cpu().numpy().astype(np.float32)


def heat_over(image: Image, field: NDArray[np.float32], row: int, column: int) -> Image:
    """A receptive field as red light over the darkened image, the point as a white cross."""
    height, width = image.shape[:2]
    light = torch.nn.functional.interpolate(torch.from_numpy(field)[None, None], size=(height, width), mode="bilinear")[0, 0]
    strength = light.clamp(0, 1).numpy()[..., None]
    mixed = image * (0.35 + 0.25 * (1 - strength)) + np.array([255, 60, 20]) * 0.6 * strength
    result: Image = mixed.clip(0, 255).astype(np.uint8)
    for offset in range(-5, 6):
        for y, x in ((row + offset, column), (row, column + offset)):
            if 0 <= y < height and 0 <= x < width:
                result[y, x] = 255
    return result
