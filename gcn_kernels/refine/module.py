"""Boundary refinement as a module."""

from typing import Any

import torch
from torch import Tensor, nn

from gcn_kernels.core import backends
from gcn_kernels.core.children import Convolutions, special_or_not_dense
from gcn_kernels.core.children import channels as checked
from gcn_kernels.refine.functional import fused_refine


class FusedRefine(Convolutions):
    """Boundary refinement (Peng et al. 2017, figure 2 C), ``x + conv2(relu(conv1(x)))``, that runs as one operator.

    Both convolutions stay ordinary ``nn.Conv2d`` children named ``conv1`` and ``conv2``: state-dict keys, initialisation and
    parameters are those of the module written by hand. As soon as something works through one of them (a hook, pruning, a
    wrapper, another module in its place), they run themselves; ``print`` shows which it is. The same goes for tracers that want
    to see convolutions: torch.fx, ONNX export.

    Args:
        channels: channels C of the input and the output; the number of classes in the paper.
        mid_channels: channels M between the convolutions; ``channels`` if None, as in the paper.
        bias: whether the convolutions have a bias.
        backend: see :func:`gcn_kernels.fused_refine`.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        [N, C, H, W] -> [N, C, H, W], or [C, H, W] -> [C, H, W].

    Raises:
        ValueError: channels below 1, an unknown backend.

    Example:
        >>> FusedRefine(21)(torch.zeros(1, 21, 16, 16)).shape
        torch.Size([1, 21, 16, 16])
    """

    def __init__(
        self,
        channels: int,
        *,
        mid_channels: int | None = None,
        bias: bool = True,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        channels = checked("channels", channels)
        mid_channels = channels if mid_channels is None else checked("mid_channels", mid_channels)
        if backend not in backends.BACKENDS:
            raise ValueError(f"backend: expected one of {', '.join(backends.BACKENDS)}, got {backend!r}")
        options: dict[str, Any] = {"padding": 1, "bias": bias, "device": device, "dtype": dtype}
        self.conv1 = nn.Conv2d(channels, mid_channels, 3, **options)
        self.conv2 = nn.Conv2d(mid_channels, channels, 3, **options)
        self.backend = backend

    def _convolutions(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.conv2(torch.relu(self.conv1(x)))
        return y

    def _fused(self, x: Tensor) -> Tensor:
        conv1, conv2 = self.conv1, self.conv2
        return fused_refine(x, conv1.weight, conv2.weight, conv1.bias, conv2.bias, backend=self.backend)

    def _special_child(self) -> str | None:
        children: Any = self._modules
        for name in ("conv1", "conv2"):
            if (reason := _special(children[name])) is not None:
                return f"{name} {reason}"
        return None


def _special(conv: nn.Module) -> str | None:
    """What ``conv`` does beside a plain 3 x 3 convolution that keeps the size, or None."""
    if (reason := special_or_not_dense(conv)) is not None:
        return reason
    assert isinstance(conv, nn.Conv2d)
    if conv.kernel_size != (3, 3):
        return f"has kernel {conv.kernel_size}"
    if conv.padding not in ((1, 1), "same"):
        return f"has padding {conv.padding}"
    return None if conv.padding_mode == "zeros" else f"has padding_mode {conv.padding_mode!r}"
