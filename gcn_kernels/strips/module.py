"""Depthwise strips as a module."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from gcn_kernels.core import backends
from gcn_kernels.reference import Step
from gcn_kernels.strips.functional import fused_strips
from gcn_kernels.strips.problem import dilation_pair

#: k, (kh, kw), or (kh, kw, dilation) with a dilation d or (dh, dw).
KernelSize = int | Sequence[Any]


class FusedStrips(nn.Module):
    """Chains of depthwise convolutions with long kernels, summed, as one operator (see :func:`gcn_kernels.fused_strips`).

    The convolutions stay ordinary ``nn.Conv2d`` children: ``stem`` and ``branches[b][i]``.

    Args:
        channels: C of the input and the output.
        branches: for each branch the kernel sizes of its steps: k, (kh, kw) or (kh, kw, dilation), all odd.
        stem: kernel size of a convolution before all branches, or None.
        skip: whether the branches' input is added to their sum.
        bias: whether the convolutions have a bias.
        backend: see :func:`gcn_kernels.fused_strips`.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        [N, C, H, W] -> [N, C, H, W], or [C, H, W] -> [C, H, W].

    Raises:
        ValueError: channels below 1, no branches, an even or non-positive kernel size, an unknown backend.

    Example:
        The multi-scale convolutional attention of SegNeXt, without its 1x1 convolution:

        >>> pairs = [[(1, k), (k, 1)] for k in (7, 11, 21)]
        >>> FusedStrips(64, pairs, stem=(5, 5), skip=True)(torch.randn(1, 64, 32, 32)).shape
        torch.Size([1, 64, 32, 32])
    """

    stem: nn.Conv2d | None

    def __init__(
        self,
        channels: int,
        branches: Sequence[Sequence[KernelSize]],
        *,
        stem: KernelSize | None = None,
        skip: bool = False,
        bias: bool = True,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels: expected an int of at least 1, got {channels!r}")
        if not branches or not all(branches):
            raise ValueError("branches: expected at least one branch, and at least one kernel size in each")

        def conv(name: str, size: KernelSize) -> nn.Conv2d:
            (kh, kw), (dh, dw) = _kernel(name, size)
            options: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype, "dilation": (dh, dw)}
            padding = dh * (kh // 2), dw * (kw // 2)
            return nn.Conv2d(channels, channels, (kh, kw), padding=padding, groups=channels, **options)

        chains = [[conv(f"branches[{b}][{i}]", size) for i, size in enumerate(branch)] for b, branch in enumerate(branches)]
        self._hold(chains, None if stem is None else conv("stem", stem), skip, backend)

    @classmethod
    def from_convs(
        cls,
        branches: Sequence[Sequence[nn.Conv2d]],
        stem: nn.Conv2d | None = None,
        skip: bool = False,
        *,
        backend: str = "auto",
    ) -> "FusedStrips":
        """Build the module around existing convolutions, which it shares (the very same parameters).

        Args:
            branches: chains of depthwise convolutions.
            stem: one before all branches, or None.
            skip: whether the branches' input is added to their sum.
            backend: see :func:`gcn_kernels.fused_strips`.

        Raises:
            TypeError: something else than an ``nn.Conv2d``.
            ValueError: a convolution that is not depthwise with stride 1, odd kernel and zero padding that keeps the size.

        Example:
            >>> row = nn.Conv2d(8, 8, (1, 11), padding=(0, 5), groups=8)
            >>> column = nn.Conv2d(8, 8, (11, 1), padding=(5, 0), groups=8)
            >>> FusedStrips.from_convs([[row, column]]).branches[0][1] is column
            True
        """
        if not branches or not all(branches):
            raise ValueError("branches: expected at least one branch, and at least one convolution in each")
        named = [("stem", stem)] if stem is not None else []
        named += [(f"branches[{b}][{i}]", conv) for b, branch in enumerate(branches) for i, conv in enumerate(branch)]
        for name, conv in named:
            _check_conv(name, conv, named[0][1])
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        module._hold(branches, stem, skip, backend)
        module.train(named[0][1].training)
        return module

    def forward(self, x: Tensor) -> Tensor:
        """Apply the strips to ``x`` [N, C, H, W] or [C, H, W]."""
        branches = [[_step(cast(nn.Conv2d, conv)) for conv in cast(nn.ModuleList, branch)] for branch in self.branches]
        stem = None if self.stem is None else _step(self.stem)
        return fused_strips(x, branches, stem=stem, skip=self.skip, backend=self.backend)

    def extra_repr(self) -> str:
        return f"skip={self.skip}, backend={self.backend!r}"

    def _hold(self, branches: Sequence[Sequence[nn.Conv2d]], stem: nn.Conv2d | None, skip: bool, backend: str) -> None:
        if backend not in backends.BACKENDS:
            raise ValueError(f"backend: expected one of {', '.join(backends.BACKENDS)}, got {backend!r}")
        self.stem = stem
        self.branches = nn.ModuleList(nn.ModuleList(branch) for branch in branches)
        self.skip = bool(skip)
        self.backend = backend


def _step(conv: nn.Conv2d) -> Step:
    dh, dw = conv.dilation
    return conv.weight, conv.bias, (dh, dw)


def _kernel(name: str, size: KernelSize) -> tuple[tuple[int, int], tuple[int, int]]:
    """(kh, kw) and (dh, dw)."""
    given: tuple[Any, ...] = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(given) not in (2, 3) or not all(isinstance(k, int) and k > 0 and k % 2 == 1 for k in given[:2]):
        raise ValueError(f"{name}: expected an odd k, (kh, kw) or (kh, kw, dilation), got {size!r}")
    return (given[0], given[1]), dilation_pair(name, given[2] if len(given) == 3 else 1)


def _check_conv(name: str, conv: nn.Conv2d, first: nn.Conv2d) -> None:
    """Raise unless ``conv`` is a plain depthwise convolution, of as many channels as ``first``, that keeps the size."""
    if not isinstance(conv, nn.Conv2d) or type(conv).forward is not nn.Conv2d.forward:
        raise TypeError(f"{name}: expected an nn.Conv2d with its own forward, got {type(conv).__name__}")
    padding = tuple(d * (k // 2) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    odd = all(k % 2 == 1 for k in conv.kernel_size)
    zero_padded = conv.padding_mode == "zeros" or padding == (0, 0)
    if not (depthwise and odd and zero_padded) or conv.stride != (1, 1) or conv.padding not in (padding, "same"):
        raise ValueError(
            f"{name}: expected a depthwise Conv2d (groups = in_channels = out_channels) with odd kernel, stride 1 and zero "
            f"padding dilation * (k // 2), got {conv}"
        )
    if conv.in_channels != first.in_channels:
        raise ValueError(f"{name}: expected {first.in_channels} channels as in the first convolution, got {conv.in_channels}")
