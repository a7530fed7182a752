"""The doubling as a module."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcn_kernels.core import backends
from gcn_kernels.core.checks import untraced
from gcn_kernels.core.children import scriptable, wants_convolutions
from gcn_kernels.upsample.functional import fused_upsample
from gcn_kernels.upsample.spec import SIZES


class FusedUpsample(nn.ConvTranspose2d):
    """An ``nn.ConvTranspose2d`` with stride 2 that doubles a map and runs as :func:`gcn_kernels.fused_upsample`.

    Parameters, their names and their initial values are those of ``nn.ConvTranspose2d``. With another ``stride``, ``padding`` or
    the like set, it runs as that class; ``print`` says so. torch.fx and ``torch.jit.script`` see a transposed convolution.

    Args:
        in_channels: channels C of the input.
        out_channels: channels O of the output.
        kernel_size: 4 (padding 1; the paper's), 3 (padding 1, output_padding 1) or 2 (padding 0).
        groups: 1, or C, where O is C: each channel is doubled by itself.
        bias: whether there is a bias; the paper's network has none.
        backend: see :func:`gcn_kernels.fused_upsample`.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        [N, C, H, W] -> [N, O, 2H, 2W], or the first rows and columns of that.

    Raises:
        ValueError: another kernel size or number of groups; an unknown backend.

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
        kernel_size: int = 4,
        groups: int = 1,
        bias: bool = False,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if kernel_size not in SIZES:
            raise ValueError(f"kernel_size: expected one of {', '.join(map(str, SIZES))}, got {kernel_size!r}")
        if groups != 1 and not groups == in_channels == out_channels:
            expected = f"1, or as many as there are channels in and out ({in_channels} and {out_channels})"
            raise ValueError(f"groups: expected {expected}, got {groups!r}")
        if backend not in backends.BACKENDS:
            raise ValueError(f"backend: expected one of {', '.join(backends.BACKENDS)}, got {backend!r}")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=2,
            padding=int(kernel_size > 2),
            output_padding=int(kernel_size == 3),
            groups=groups,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        self.backend = backend

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None, add: Tensor | None = None) -> Tensor:
        """Double ``x``.

        Args:
            x: [N, C, H, W] or [C, H, W].
            output_size: (H', W') of the result.
            add: lateral map of the size of the result, which is added.

        Returns:
            See :func:`gcn_kernels.fused_upsample`.
        """
        if untraced(self._changed) is None:
            if wants_convolutions(x):
                return self._convolution(x, None if output_size is None else list(output_size), add)
            weight = self.weight  # once: a parametrized one may become another with every reading
            if untraced(self._has_kernel, weight):
                return fused_upsample(x, weight, self.bias, add=add, size=output_size, groups=self.groups, backend=self.backend)
        size = output_size if add is None else add.shape[-2:]
        y = super().forward(x, None if size is None else list(size))
        return y if add is None else add + y

    def extra_repr(self) -> str:
        reason = self._changed()
        options: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return options if reason is None else f"{options}, runs as nn.ConvTranspose2d: {reason}"

    def _changed(self) -> str | None:
        """What makes this another transposed convolution than one that doubles a map, or None."""
        kernel = self.kernel_size[0] if self.kernel_size[0] in SIZES else SIZES[-1]
        form = {
            "kernel_size": (kernel, kernel),
            "stride": (2, 2),
            "padding": (int(kernel > 2),) * 2,
            "output_padding": (int(kernel == 3),) * 2,
            "dilation": (1, 1),
            "groups": self.groups if self.groups == self.in_channels == self.out_channels else 1,
            "padding_mode": "zeros",
        }
        for name, value in form.items():
            if (now := getattr(self, name)) != value:
                return f"{name} is {now!r}"
        return None

    def _has_kernel(self, weight: Tensor) -> bool:
        """Whether ``weight`` has the size that this was made with."""
        return tuple(weight.shape[2:]) == self.kernel_size

    def _convolution(self, x: Tensor, output_size: list[int] | None = None, add: Tensor | None = None) -> Tensor:
        """The same by PyTorch; ``torch.jit.script`` compiles this."""
        assert isinstance(self.padding, tuple)
        y = F.conv_transpose2d(x, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups)
        if add is not None:
            return add + y[..., : add.shape[-2], : add.shape[-1]]
        return y if output_size is None else y[..., : output_size[0], : output_size[1]]

    def __prepare_scriptable__(self) -> nn.Module:
        return scriptable(self, "_convolution")
