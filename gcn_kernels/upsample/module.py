"""The doubling as a module."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcn_kernels.core import backends
from gcn_kernels.core.children import scriptable, wants_convolutions
from gcn_kernels.upsample.functional import fused_upsample

#: What the operator computes, as ``nn.ConvTranspose2d`` has it.
FORM = {
    "kernel_size": (4, 4),
    "stride": (2, 2),
    "padding": (1, 1),
    "output_padding": (0, 0),
    "dilation": (1, 1),
    "groups": 1,
    "padding_mode": "zeros",
}


class FusedUpsample(nn.ConvTranspose2d):
    """An ``nn.ConvTranspose2d`` with a 4 x 4 kernel, stride 2 and padding 1 that runs as :func:`gcn_kernels.fused_upsample`.

    Parameters, their names and their initial values are those of ``nn.ConvTranspose2d``. With another ``stride``, ``padding`` or
    the like set, it runs as that class; ``print`` says so. torch.fx and ``torch.jit.script`` see a transposed convolution.

    Args:
        in_channels: channels C of the input.
        out_channels: channels O of the output.
        bias: whether there is a bias; the paper's network has none.
        backend: see :func:`gcn_kernels.fused_upsample`.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        [N, C, H, W] -> [N, O, 2H, 2W], or the first rows and columns of that.

    Raises:
        ValueError: an unknown backend.

    Example:
        >>> FusedUpsample(21, 21)(torch.zeros(1, 21, 16, 16)).shape
        torch.Size([1, 21, 32, 32])
    """

    #: Modules of earlier versions were saved without it.
    backend: str = "auto"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bias: bool = False,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if backend not in backends.BACKENDS:
            raise ValueError(f"backend: expected one of {', '.join(backends.BACKENDS)}, got {backend!r}")
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1, bias=bias, device=device, dtype=dtype)
        self.backend = backend

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Double ``x``; ``output_size``: (H', W') of the result, see :func:`gcn_kernels.fused_upsample`."""
        if self._changed() is not None:
            return super().forward(x, None if output_size is None else list(output_size))
        if wants_convolutions(x):
            return self._convolution(x, None if output_size is None else list(output_size))
        return fused_upsample(x, self.weight, self.bias, size=output_size, backend=self.backend)

    def extra_repr(self) -> str:
        reason = self._changed()
        options: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return options if reason is None else f"{options}, runs as nn.ConvTranspose2d: {reason}"

    def _changed(self) -> str | None:
        """What makes this another transposed convolution than one that doubles a map, or None."""
        for name, value in FORM.items():
            if (now := getattr(self, name)) != value:
                return f"{name} is {now!r}"
        return None

    def _convolution(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The same by PyTorch; ``torch.jit.script`` compiles this."""
        y = F.conv_transpose2d(x, self.weight, self.bias, 2, 1)
        return y if output_size is None else y[..., : output_size[0], : output_size[1]]

    def __prepare_scriptable__(self) -> nn.Module:
        return scriptable(self, "_convolution")
