"""Mean IoU, pixel accuracy, and the accuracies near and away from boundaries (table 5), over a whole data set."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segmentation.datasets import IGNORE
from segmentation.extras import require

#: Pixels: table 5 calls a pixel boundary if another label is at most this far away, in rows and in columns.
BOUNDARY = 7


def near_boundary(labels: Tensor, distance: int = BOUNDARY) -> Tensor:
    """Which pixels of ``labels`` [N, H, W] have another label within ``distance`` rows and columns, [N, H, W] bool."""
    values = labels[:, None].float()
    window = 2 * distance + 1
    highest = F.max_pool2d(values, window, 1, distance)
    lowest = -F.max_pool2d(-values, window, 1, distance)
    return (highest != lowest)[:, 0]


class SegmentationMetrics:
    """Counts over all images that were added, summed over the processes of a run.

    Args:
        classes: number of classes.
        device: of the counts.

    Raises:
        ImportError: torchmetrics is not installed.

    Example:
        >>> metrics = SegmentationMetrics(3)
        >>> labels = torch.tensor([[[0, 1], [2, 255]]])
        >>> metrics.add(labels.clamp(max=2), labels)
        >>> metrics.result()["miou"]
        1.0
    """

    def __init__(self, classes: int, device: torch.device | str = "cpu") -> None:
        library = require("torchmetrics.classification")
        options: dict[str, Any] = {"num_classes": classes, "ignore_index": IGNORE, "validate_args": False}
        self.iou = library.MulticlassJaccardIndex(average="none", **options).to(device)
        self.accuracies = {
            name: library.MulticlassAccuracy(average="micro", **options).to(device) for name in ("pixel", "boundary", "internal")
        }
        self.classes = classes

    def add(self, predictions: Tensor, labels: Tensor) -> None:
        """Count ``predictions`` against ``labels``, both [N, H, W]; label 255 counts nowhere."""
        near = near_boundary(labels)
        self.iou.update(predictions, labels)
        self.accuracies["pixel"].update(predictions, labels)
        self.accuracies["boundary"].update(predictions, labels.masked_fill(~near, IGNORE))
        self.accuracies["internal"].update(predictions, labels.masked_fill(near, IGNORE))

    def result(self) -> dict[str, Any]:
        """``miou``, ``pixel``, ``boundary``, ``internal`` ``iou`` by class, in 0 ... 1; None for a class that never occurs."""
        matrix = self.iou.confmat
        iou = self.iou.compute()
        seen = (matrix.sum(0) + matrix.sum(1)) > 0
        result: dict[str, Any] = {name: float(a.compute()) for name, a in self.accuracies.items()}
        return {
            "miou": float(iou[seen].mean()),
            **result,
            "iou": [float(v) if s else None for v, s in zip(iou, seen, strict=True)],
        }
