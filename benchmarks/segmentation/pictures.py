"""Pictures: predictions laid over images, the valid receptive field of one score, and figures made of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segmentation.extras import progress_bar, require
from segmentation.palettes import Image, Palette

#: Pixels that one call of a network may take while a receptive field is measured: 16 images of 256 x 256.
PIXELS = 16 * 256 * 256
#: Cells of the grid of a receptive field along the longer side of the image, unless its step is given.
CELLS = 32
#: Of matplotlib: from dark blue to yellow, readable in grey and by colour-blind eyes.
HEAT = "viridis"
_DPI = 100


class Panel(NamedTuple):
    """One image of a figure, and what is written above it."""

    title: str
    image: Image


def overlay(image: Image, labels: Image, palette: Palette, strength: float = 0.6) -> Image:
    """``labels`` [H, W] as colours over ``image`` [H, W, 3]; the background and pixels without a label stay clear."""
    clear = labels >= len(palette.colours)
    if palette.background is not None:
        clear |= labels == palette.background
    mixed = (1 - strength) * image + strength * palette.colours[np.where(clear, 0, labels)]
    return np.where(clear[..., None], image, mixed.astype(np.uint8))


def valid_receptive_field(
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    row: int,
    column: int,
    *,
    step: int = 0,
    patch: int = 0,
    progress: bool = False,
) -> NDArray[np.float32]:
    """How much the score at one point changes when a patch of the image is hidden.

    Args:
        network: [N, 3, H, W] -> scores [N, O, H, W].
        x: one image [3, H, W], normalised; a hidden patch is 0, the mean colour.
        row: of the point.
        column: of the point.
        step: pixels between patches; 0 for a multiple of 8 that makes about :data:`CELLS` of them along the longer side.
        patch: height and width of the hidden patch, in pixels; 0 for two steps.
        progress: show a bar.

    Returns:
        [ceil(H / step), ceil(W / step)]: change of the score of the class that wins at the point, relative to the largest.

    Source: after Zhou et al., *Object Detectors Emerge in Deep Scene CNNs*, ICLR 2015, which the paper's figure follows.
    """
    height, width = x.shape[1:]
    step = step or 8 * max(1, -(-max(height, width) // (8 * CELLS)))
    patch = patch or 2 * step
    batch = max(1, PIXELS // (height * width))
    with torch.inference_mode():
        scores = network(x[None])[0, :, row, column]
        winner = int(scores.argmax())
        places = [(top, left) for top in range(0, height, step) for left in range(0, width, step)]
        changes = []
        starts = range(0, len(places), batch)
        for start in progress_bar(starts, disable=not progress, desc="receptive field", leave=False, mininterval=0.5):
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
    """A receptive field in the colours :data:`HEAT` over the image in grey; the point is a white cross with a black edge."""
    height, width = image.shape[:2]
    light = torch.nn.functional.interpolate(torch.from_numpy(field)[None, None], size=(height, width), mode="bilinear")[0, 0]
    colours = require("matplotlib").colormaps[HEAT](light.clamp(0, 1).numpy())[..., :3] * 255
    grey = image.mean(-1, keepdims=True)
    result: Image = (0.35 * grey + 0.65 * colours).clip(0, 255).astype(np.uint8)
    arm = max(5, min(height, width) // 40)
    for edge, value in ((1, 0), (0, 255)):
        for half_y, half_x in ((arm + edge, edge), (edge, arm + edge)):
            ys = slice(max(0, row - half_y), row + half_y + 1)
            xs = slice(max(0, column - half_x), column + half_x + 1)
            result[ys, xs] = value
    return result


def save_figure(
    path: Path,
    rows: Sequence[Sequence[Panel]],
    legend: Sequence[tuple[str, Sequence[int]]] = (),
    heat: str = "",
    title: str = "",
) -> None:
    """Write panels in rows, with their titles, as RGB in the format that the ending of ``path`` says.

    Args:
        path: of the file.
        rows: the same number of panels in each; an image is never shrunk.
        legend: names and colours of classes.
        heat: what the colours of receptive fields in the last column mean; "" where there are none.
        title: of the whole figure.
    """
    figure_module = require("matplotlib.figure")
    height, width = rows[0][0].image.shape[:2]
    columns = len(rows[0])
    scale = -(-180 // width)
    titled = sum(any(panel.title for panel in row) for row in rows)
    inches = (
        columns * width * scale / _DPI + (0.9 if heat else 0.1),
        len(rows) * height * scale / _DPI + 0.35 * titled + 0.05 * len(rows),
    )
    entries = max(1, int(inches[0] / (0.35 + 0.085 * max((len(name) for name, _ in legend), default=1))))
    below = 0.25 * -(-len(legend) // entries) + 0.15 if legend else 0.0
    size = inches[0], inches[1] + below + (0.35 if title else 0)
    figure = figure_module.Figure(figsize=size, dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for i, row in enumerate(rows):
        for axis, panel in zip(axes[i], row, strict=True):
            axis.imshow(panel.image, interpolation="nearest")
            axis.set_title(panel.title, fontsize="medium")
            axis.set_axis_off()
    if heat:
        scale_of = require("matplotlib.cm").ScalarMappable(cmap=HEAT)
        figure.colorbar(scale_of, ax=axes[:, -1], label=heat, aspect=20 * len(rows), pad=0.02)
    if legend:
        patch: Any = require("matplotlib.patches").Patch
        handles = [patch(facecolor=np.array(colour) / 255, edgecolor="0.3", label=name) for name, colour in legend]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(entries, len(legend)), frameon=False, fontsize="small"
        )
    if title:
        figure.suptitle(title)
    canvas = require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    path.parent.mkdir(parents=True, exist_ok=True)
    require("PIL.Image").fromarray(np.ascontiguousarray(pixels)).save(path)


def legend_of(labels: Sequence[Image], classes: Sequence[str], palette: Palette) -> list[tuple[str, Sequence[int]]]:
    """Names and colours of the classes that occur in ``labels`` and are drawn."""
    present = sorted({int(v) for one in labels for v in np.unique(one) if v < len(classes) and v != palette.background})
    return [(classes[v], palette.colours[v].tolist()) for v in present]
