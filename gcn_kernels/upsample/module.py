"""The doubling as a module."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gcn_kernels.core import backends
from gcn_kernels.upsample.functional import fused_upsample


class FusedUpsample(nn.ConvTranspose2d):
    """An ``nn.ConvTranspose2d`` with a 4 x 4 kernel, stride 2 and padding 1 that runs as :func:`gcn_kernels.fused_upsample`.

    Parameters, their names and their initial values are those of ``nn.ConvTranspose2d``.

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
        return fused_upsample(x, self.weight, self.bias, size=output_size, backend=self.backend)
