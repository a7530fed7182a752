"""From images and labels to batches: order and augmentation are pure functions of (seed, position).

Position p of a run is image ``order(p // n)[p % n]``, augmented by a generator seeded with p. Which process draws it, how many
images make a step, and whether the run was interrupted change nothing.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import data

from segmentation.datasets import IGNORE, Dataset
from segmentation.recipe import Recipe

#: Mean and standard deviation of ImageNet's colours, of 255; published encoders expect them.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """[H, W, 3] uint8 -> [3, H, W] float32, mean subtracted."""
    pixels = (image.astype(np.float32) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


class Samples(data.Dataset[tuple[Tensor, Tensor]]):
    """Augmented training samples by position."""

    def __init__(self, dataset: Dataset, recipe: Recipe) -> None:
        self.dataset, self.recipe = dataset, recipe
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng((self.recipe.seed, epoch)).permutation(len(self.dataset))

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        epoch, index = divmod(position, len(self.dataset))
        image, labels = self.dataset[int(self._order(epoch)[index])]
        random = np.random.default_rng((self.recipe.seed, 1, position))
        x, y = to_tensor(image), torch.from_numpy(np.ascontiguousarray(labels)).long()
        if self.recipe.scales != (1.0, 1.0):
            x, y = _rescaled(x, y, float(random.uniform(*self.recipe.scales)))
        x, y = _cropped(x, y, self.recipe.size, random)
        if self.recipe.flip and random.random() < 0.5:
            x, y = x.flip(-1), y.flip(-1)
        return x, y


def _rescaled(x: Tensor, y: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    size = [max(1, round(s * scale)) for s in x.shape[1:]]
    x = torch.nn.functional.interpolate(x[None], size=size, mode="bilinear", align_corners=False)[0]
    y = torch.nn.functional.interpolate(y[None, None].float(), size=size, mode="nearest")[0, 0].long()
    return x, y


def _cropped(x: Tensor, y: Tensor, size: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A random crop of size x size; smaller images are padded with the mean colour and no label."""
    missing = [max(0, size - s) for s in y.shape]
    if any(missing):
        x = torch.nn.functional.pad(x, (0, missing[1], 0, missing[0]))
        y = torch.nn.functional.pad(y, (0, missing[1], 0, missing[0]), value=IGNORE)
    top, left = (int(random.integers(0, s - size + 1)) for s in y.shape)
    return x[:, top : top + size, left : left + size], y[top : top + size, left : left + size]


class Positions(data.Sampler[int]):
    """Positions of one process from a step on: every process takes its part of each global micro-batch."""

    def __init__(self, recipe: Recipe, start: int, rank: int, processes: int) -> None:
        self.recipe, self.start, self.rank, self.processes = recipe, start, rank, processes

    def __iter__(self) -> Iterator[int]:
        batch, accumulate = self.recipe.batch, self.recipe.accumulate
        for micro in range(self.start * accumulate, self.recipe.steps * accumulate):
            first = (micro * self.processes + self.rank) * batch
            yield from range(first, first + batch)


def loader(dataset: Dataset, recipe: Recipe, start: int, rank: int, processes: int) -> data.DataLoader[Any]:
    """Micro-batches of one process from step ``start`` to the end of the recipe."""
    sampler = Positions(recipe, start, rank, processes)
    return data.DataLoader(Samples(dataset, recipe), batch_size=recipe.batch, sampler=sampler, num_workers=recipe.workers)
