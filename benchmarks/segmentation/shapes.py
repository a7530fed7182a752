"""The built-in data set: large objects whose class is told only by a small mark at one end.

Every image holds one to three long objects (ellipses, rectangles, bars, at any angle) of one grey body each, the same for all
classes. A disc of colour near one end of the object gives the class of every pixel of it; the discs of the other classes are
elsewhere in the same image. So what a pixel is can be known only from a place up to 0.8 of the image away, and to which object it
belongs only from thin gaps and edges. Image and labels are a pure function of (seed, split, index): nothing is stored.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLASSES = ("background", "red", "yellow", "green", "blue", "magenta")
MARKS = np.array([(225, 50, 45), (215, 205, 40), (55, 180, 60), (55, 80, 220), (205, 60, 200)], dtype=np.float32)
#: Standard deviation of the noise on every pixel and colour, of 255.
NOISE = 14.0
#: Lengths as parts of the image's size: radius of the mark and its distance to the end, free space between two objects.
MARK_RADIUS, MARK_INSET, GAP = 8 / 256, 5 / 256, 8 / 256
SPLITS = {"train": (0, 4000), "val": (1, 128)}

Image = NDArray[np.uint8]
Plane = NDArray[np.float32]


@dataclass(frozen=True)
class ShapesDataset:
    """Images [H, W, 3] uint8 with labels [H, W] uint8, drawn when asked for.

    Args:
        split: "train" (4000 images) or "val" (128).
        size: height and width in pixels.
        seed: of the whole data set.

    Example:
        >>> image, labels = ShapesDataset("val")[0]
        >>> image.shape, labels.shape, int(labels.max()) < len(CLASSES)
        ((256, 256, 3), (256, 256), True)
    """

    split: str
    size: int = 256
    seed: int = 0

    def __len__(self) -> int:
        return SPLITS[self.split][1]

    def __getitem__(self, index: int) -> tuple[Image, Image]:
        if not 0 <= index < len(self):
            raise IndexError(f"index: expected 0 ... {len(self) - 1}, got {index}")
        return draw(np.random.default_rng((self.seed, SPLITS[self.split][0], index)), self.size)


def draw(random: np.random.Generator, size: int) -> tuple[Image, Image]:
    """Draw one image and its labels."""
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32)
    coarse = ys[::4, ::4], xs[::4, ::4]
    labels = np.zeros((size, size), dtype=np.uint8)
    taken = np.zeros(coarse[0].shape, dtype=bool)
    canvas = np.broadcast_to(_background(random, size)[..., None], (size, size, 3)).copy()
    for mark in random.permutation(len(MARKS))[: random.integers(1, 4)]:
        for _ in range(20):
            body = Body.drawn(random, size)
            space = body.contains(*coarse, GAP * size)
            if body.mark_is_visible() and not (space & taken).any():
                break
        else:
            continue
        taken |= space
        inside = body.contains(ys, xs)
        labels[inside] = mark + 1
        canvas[inside] = random.uniform(120, 150)
        my, mx = body.mark()
        canvas[inside & ((ys - my) ** 2 + (xs - mx) ** 2 < (MARK_RADIUS * size) ** 2)] = MARKS[mark]
    canvas += random.standard_normal(canvas.shape, dtype=np.float32) * NOISE
    return canvas.clip(0, 255).astype(np.uint8), labels


@dataclass(frozen=True)
class Body:
    """Outline of an object in an image of ``size`` pixels, all lengths in pixels.

    Attributes:
        kind: ellipse, rectangle or bar.
        size: of the image.
        cy: row of the centre.
        cx: column of the centre.
        angle: of the long axis, in radians.
        length: half of the long axis.
        width: half of the short one.
        end: which end carries the mark, -1 or 1.
    """

    kind: str
    size: int
    cy: float
    cx: float
    angle: float
    length: float
    width: float
    end: int

    @classmethod
    def drawn(cls, random: np.random.Generator, size: int) -> "Body":
        """A body of random kind, place, angle and size."""
        kind = str(random.choice(("ellipse", "rectangle", "bar")))
        length = random.uniform(0.18, 0.44) * size
        width = random.uniform(0.05, 0.07) * size if kind == "bar" else random.uniform(0.35, 0.65) * length
        cy, cx = random.uniform(0.65 * length, size - 0.65 * length, 2)
        return cls(kind, size, cy, cx, random.uniform(0, np.pi), length, width, int(random.choice((-1, 1))))

    def contains(self, ys: Plane, xs: Plane, margin: float = 0.0) -> NDArray[np.bool_]:
        """Which pixels lie inside the outline widened by ``margin``."""
        c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        dy, dx = ys - np.float32(self.cy), xs - np.float32(self.cx)
        along, across = (dx * c + dy * s) / (self.length + margin), (dy * c - dx * s) / (self.width + margin)
        if self.kind == "ellipse":
            return np.asarray(along**2 + across**2 < 1)
        return (np.abs(along) < 1) & (np.abs(across) < 1)

    def mark(self) -> tuple[float, float]:
        """Row and column of the centre of the mark."""
        out = self.end * (self.length - (MARK_RADIUS + MARK_INSET) * self.size)
        return self.cy + out * np.sin(self.angle), self.cx + out * np.cos(self.angle)

    def mark_is_visible(self) -> bool:
        """Whether the whole mark is inside the image."""
        return all(MARK_RADIUS < at / self.size < 1 - MARK_RADIUS for at in self.mark())


def _background(random: np.random.Generator, size: int) -> NDArray[np.float32]:
    """A dark uneven ground: random values on a coarse grid, interpolated."""
    grid = random.uniform(30, 90, (9, 9)).astype(np.float32)
    at = np.linspace(0, 8, size, dtype=np.float32)
    low = np.minimum(at.astype(np.int64), 7)
    part = at - low
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
    ground: NDArray[np.float32] = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    return ground
