"""The same values behind other strides."""

from collections.abc import Callable

import torch
from torch import Tensor


def contiguous(t: Tensor) -> Tensor:
    return t.contiguous()


def channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t


def transposed(t: Tensor) -> Tensor:
    """Dense, with the dimensions in reverse order in memory."""
    backwards = tuple(reversed(range(t.dim())))
    return t.permute(backwards).contiguous().permute(backwards)


def sliced(t: Tensor) -> Tensor:
    """Every second element of a larger tensor, from the second on; what lies between is nan."""
    larger = t.new_full([2 * size + 1 for size in t.shape], torch.nan)
    view = larger[tuple(slice(1, None, 2) for _ in t.shape)]
    return view.copy_(t)


def window(t: Tensor) -> Tensor:
    """A crop of a channels_last map surrounded by nan."""
    if t.dim() != 4:
        return sliced(t)
    n, c, h, w = t.shape
    larger = t.new_full((n, c + 3, h + 2, w + 5), torch.nan).contiguous(memory_format=torch.channels_last)
    view = larger[:, 1 : c + 1, 1 : h + 1, 2 : w + 2]
    return view.copy_(t)


def expanded(t: Tensor) -> Tensor:
    """The first entry of the first dimension, repeated with stride 0: the one view here that changes values."""
    return t[:1].expand_as(t)


#: Views that fill their memory and share none of it: gradients come back with the same strides.
DENSE: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": contiguous,
    "channels_last": channels_last,
    "transposed": transposed,
}
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {**DENSE, "sliced": sliced, "window": window, "expanded": expanded}
