"""Depthwise strips as a module."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from gcn_kernels.core import backends
from gcn_kernels.core.checks import whole_numbers
from gcn_kernels.core.children import Convolutions, special
from gcn_kernels.core.children import channels as checked
from gcn_kernels.reference import Step
from gcn_kernels.strips.functional import fused_strips
from gcn_kernels.strips.problem import dilation_pair

#: k, (kh, kw), or (kh, kw, dilation) with a dilation d or (dh, dw).
KernelSize = int | Sequence[Any]


class FusedStrips(Convolutions):
    """Chains of depthwise convolutions with long kernels, summed, as one operator (see :func:`gcn_kernels.fused_strips`).

    The convolutions stay ordinary ``nn.Conv2d`` children: ``stem`` and ``branches[b][i]``. As soon as something works through one
    of them (a hook, pruning, the old weight or spectral norm, sharding, quantisation, an adapter, another module in its place,
    other stride, padding or groups), they run themselves, one after the other; ``print`` shows which it is. The same goes for
    tracers that want to see convolutions: torch.fx, ONNX export.

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
        channels = checked("channels", channels)
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

    def _convolutions(self, x: Tensor) -> Tensor:
        if self.stem is not None:
            x = self.stem(x)
        total: Tensor | None = x if self.skip else None
        for branch in self.branches:
            y = x
            for conv in branch:  # type: ignore[attr-defined]
                y = conv(y)
            total = y if total is None else total + y
        assert total is not None
        return total

    def _fused(self, x: Tensor) -> Tensor:
        stem, branches = self._children()
        steps = [[_step(conv) for conv in branch] for branch in branches]
        return fused_strips(x, steps, stem=None if stem is None else _step(stem), skip=self.skip, backend=self.backend)

    def _special_child(self) -> str | None:
        stem, branches = self._children()
        if stem is not None and (reason := _special(stem)) is not None:
            return f"stem {reason}"
        for b, branch in enumerate(branches):
            for i, conv in enumerate(branch):
                if (reason := _special(conv)) is not None:
                    return f"branches[{b}][{i}] {reason}"
        return None

    def _children(self) -> tuple[Any, list[list[Any]]]:
        """The stem, or None, and the convolutions of each branch; not by attributes, for which a module takes a microsecond."""
        children = self._modules
        branches: Any = children["branches"]
        return children.get("stem"), [list(branch._modules.values()) for branch in branches._modules.values()]

    def _options(self) -> str:
        return f"skip={self.skip}, backend={self.backend!r}"

    def _hold(self, branches: Sequence[Sequence[nn.Conv2d]], stem: nn.Conv2d | None, skip: bool, backend: str) -> None:
        if backend not in backends.BACKENDS:
            raise ValueError(f"backend: expected one of {', '.join(backends.BACKENDS)}, got {backend!r}")
        self.stem = stem
        self.branches = nn.ModuleList(nn.ModuleList(branch) for branch in branches)
        self.skip = bool(skip)
        self.backend = backend


def _step(conv: nn.Conv2d) -> Step:
    own, (dh, dw) = conv._parameters, conv.dilation
    if (weight := own.get("weight")) is not None and "bias" in own:
        return weight, own["bias"], (dh, dw)
    return conv.weight, conv.bias, (dh, dw)  # something else has taken the place of the parameters


def _kernel(name: str, size: KernelSize) -> tuple[tuple[int, int], tuple[int, int]]:
    """(kh, kw) and (dh, dw)."""
    given: tuple[Any, ...] = tuple(size) if isinstance(size, Sequence) else (size, size)
    kernel = whole_numbers(given[:2])
    if len(given) not in (2, 3) or len(kernel) != 2 or not all(k > 0 and k % 2 == 1 for k in kernel):
        raise ValueError(f"{name}: expected an odd k, (kh, kw) or (kh, kw, dilation), got {size!r}")
    return (kernel[0], kernel[1]), dilation_pair(name, given[2] if len(given) == 3 else 1)


def _special(conv: nn.Module) -> str | None:
    """What ``conv`` is beside a plain step, or None."""
    return special(conv) or _flaw(cast(nn.Conv2d, conv))


def _flaw(conv: nn.Conv2d) -> str | None:
    """Why a convolution is no step, or None for a depthwise one with stride 1 that keeps the size."""
    if conv.stride != (1, 1) or not conv.groups == conv.in_channels == conv.out_channels:
        return f"has stride {conv.stride} and groups {conv.groups} for {conv.in_channels} -> {conv.out_channels} channels"
    kernel, dilation = conv.kernel_size, conv.dilation
    if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
        return f"has kernel {kernel}"
    same = dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2)
    if conv.padding not in (same, "same"):
        return f"has padding {conv.padding}"
    return None if conv.padding_mode == "zeros" or same == (0, 0) else f"has padding_mode {conv.padding_mode!r}"


def _check_conv(name: str, conv: nn.Conv2d, first: nn.Conv2d) -> None:
    """Raise unless ``conv`` is a plain depthwise convolution, of as many channels as ``first``, that keeps the size."""
    if not isinstance(conv, nn.Conv2d) or type(conv).forward is not nn.Conv2d.forward:
        raise TypeError(f"{name}: expected an nn.Conv2d with its own forward, got {type(conv).__name__}")
    if _flaw(conv) is not None:
        raise ValueError(
            f"{name}: expected a depthwise Conv2d (groups = in_channels = out_channels) with odd kernel, stride 1 and zero "
            f"padding dilation * (k // 2), got {conv}"
        )
    if conv.in_channels != first.in_channels:
        raise ValueError(f"{name}: expected {first.in_channels} channels as in the first convolution, got {conv.in_channels}")
