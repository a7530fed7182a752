"""The operator as a module that takes the place of a GCN block."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gcn_kernels.core import backends
from gcn_kernels.core.checks import tracing_state, untraced, whole_numbers
from gcn_kernels.core.children import Convolutions, channels, special_or_not_dense
from gcn_kernels.gcn.functional import fused_gcn

#: The children of a block, and the axis that each one's kernel lies along: 0 for k x 1 (H), 1 for 1 x k (W).
CHILDREN = {"conv_l1": 0, "conv_l2": 1, "conv_r1": 1, "conv_r2": 0}


class FusedGCN(Convolutions):
    """A Global Convolutional Network block (Peng et al. 2017, figure 2 B) that runs as one operator.

    The four convolutions stay ordinary ``nn.Conv2d`` children named ``conv_l1, conv_l2, conv_r1, conv_r2``: the
    state-dict keys, initialisation and parameters are those of the block written by hand. While they are plain, nothing can
    tell whether they run or the operator does, so the operator does. As soon as something works through one of them (a hook,
    pruning, the old weight or spectral norm, sharding, quantisation, an adapter, another module in its place, other stride,
    padding or dilation), the four run as they are, one after the other; ``print`` shows which it is. The same goes for
    tracers that want to see convolutions: torch.fx, ONNX export.

    Args:
        in_channels: channels C of the input.
        out_channels: channels O of the output; the number of classes in the paper.
        kernel_size: odd k, or (kh, kw): kh for the k x 1 convolutions, kw for the 1 x k ones.
        mid_channels: channels M between the convolutions; ``out_channels`` if None, as in the paper.
        bias: whether the four convolutions have a bias.
        backend: of the operator, see :func:`gcn_kernels.fused_gcn`.
        algo: of the operator, see :func:`gcn_kernels.fused_gcn`.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        [N, C, H, W] -> [N, O, H, W], or [C, H, W] -> [O, H, W].

    Raises:
        ValueError: channels below 1, an even or non-positive kernel size, an unknown backend or algorithm.

    Example:
        >>> block = FusedGCN(2048, 21, kernel_size=15)
        >>> block(torch.randn(1, 2048, 16, 16)).shape
        torch.Size([1, 21, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 15,
        *,
        mid_channels: int | None = None,
        bias: bool = True,
        backend: str = "auto",
        algo: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        kh, kw = _kernel_pair(kernel_size)
        in_channels = channels("in_channels", in_channels)
        out_channels = channels("out_channels", out_channels)
        mid_channels = out_channels if mid_channels is None else channels("mid_channels", mid_channels)
        self._set_algorithm(backend, algo)
        options: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        vertical: dict[str, Any] = {"kernel_size": (kh, 1), "padding": (kh // 2, 0), **options}
        horizontal: dict[str, Any] = {"kernel_size": (1, kw), "padding": (0, kw // 2), **options}
        self.conv_l1 = nn.Conv2d(in_channels, mid_channels, **vertical)
        self.conv_l2 = nn.Conv2d(mid_channels, out_channels, **horizontal)
        self.conv_r1 = nn.Conv2d(in_channels, mid_channels, **horizontal)
        self.conv_r2 = nn.Conv2d(mid_channels, out_channels, **vertical)

    @classmethod
    def from_convs(
        cls,
        l1: nn.Conv2d,
        l2: nn.Conv2d,
        r1: nn.Conv2d,
        r2: nn.Conv2d,
        *,
        backend: str = "auto",
        algo: str = "auto",
    ) -> "FusedGCN":
        """Build the module around four existing convolutions, which it shares (the very same parameters).

        Args:
            l1: k x 1 from C to M_l channels.
            l2: 1 x k from M_l to O channels.
            r1: 1 x k from C to M_r channels.
            r2: k x 1 from M_r to O channels.
            backend: see :func:`gcn_kernels.fused_gcn`.
            algo: see :func:`gcn_kernels.fused_gcn`.

        Raises:
            TypeError: something else than an ``nn.Conv2d``.
            ValueError: the convolutions do not form a block with stride 1, dilation 1, groups 1 and zero padding that
                keeps the size.

        Example:
            >>> convs = nn.Conv2d(8, 2, (3, 1), padding=(1, 0)), nn.Conv2d(2, 2, (1, 3), padding=(0, 1))
            >>> convs += nn.Conv2d(8, 2, (1, 3), padding=(0, 1)), nn.Conv2d(2, 2, (3, 1), padding=(1, 0))
            >>> FusedGCN.from_convs(*convs).conv_l1 is convs[0]
            True
        """
        for name, conv, axis in (("l1", l1, 0), ("l2", l2, 1), ("r1", r1, 1), ("r2", r2, 0)):
            _check_conv(name, conv, axis)
        if l1.in_channels != r1.in_channels or l2.out_channels != r2.out_channels:
            raise ValueError(
                "expected l1 and r1 to read the same channels and l2 and r2 to give the same, "
                f"got {l1.in_channels}, {r1.in_channels} and {l2.out_channels}, {r2.out_channels}"
            )
        if l1.out_channels != l2.in_channels or r1.out_channels != r2.in_channels:
            raise ValueError(
                "expected l1 to feed l2 and r1 to feed r2, "
                f"got {l1.out_channels} -> {l2.in_channels} and {r1.out_channels} -> {r2.in_channels} channels"
            )
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        module._set_algorithm(backend, algo)
        module.conv_l1, module.conv_l2, module.conv_r1, module.conv_r2 = l1, l2, r1, r2
        module.train(l1.training)
        return module

    def _convolutions(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv_l2(self.conv_l1(x)) + self.conv_r2(self.conv_r1(x))
        return y

    def _fused(self, x: Tensor) -> Tensor:
        if tracing_state():
            untraced(self._check_input, x)
        else:
            self._check_input(x)
        l1, l2, r1, r2 = self.conv_l1, self.conv_l2, self.conv_r1, self.conv_r2
        return fused_gcn(
            x,
            l1.weight,
            l2.weight,
            r1.weight,
            r2.weight,
            l1.bias,
            l2.bias,
            r1.bias,
            r2.bias,
            backend=self.backend,
            algo=self.algo,
        )

    @property
    def in_channels(self) -> int:
        """Channels C of the input."""
        return self.conv_l1.in_channels

    @property
    def mid_channels(self) -> int:
        """Channels M between the convolutions of the left branch."""
        return self.conv_l1.out_channels

    @property
    def out_channels(self) -> int:
        """Channels O of the output."""
        return self.conv_l2.out_channels

    @property
    def kernel_size(self) -> tuple[int, int]:
        """(kh, kw) of the left branch."""
        return self.conv_l1.kernel_size[0], self.conv_l2.kernel_size[1]

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros on each side of the map, (kh // 2, kw // 2): the block keeps its size."""
        kh, kw = self.kernel_size
        return kh // 2, kw // 2

    def reset_parameters(self) -> None:
        """Initialise the four convolutions anew, in their order."""
        for conv in (self.conv_l1, self.conv_l2, self.conv_r1, self.conv_r2):
            conv.reset_parameters()

    def _special_child(self) -> str | None:
        children: Any = self._modules
        for name, axis in CHILDREN.items():
            if (reason := _special(children[name], axis)) is not None:
                return f"{name} {reason}"
        return None

    def _check_input(self, x: Tensor) -> None:
        # What is not a tensor at all is for the operator to refuse. Reading the weight itself could run a parametrization.
        if not isinstance(x, Tensor) or (x.dim() in (3, 4) and x.shape[-3] == self.conv_l1.in_channels):
            return
        name, takes = type(self).__name__, self.conv_l1.in_channels
        if x.dim() not in (3, 4):
            raise ValueError(f"{name}: expected x [N, C, H, W] or [C, H, W] with C = {takes}, got shape {list(x.shape)}")
        raise ValueError(f"{name}: x has {x.shape[-3]} channels, this block takes {takes}; got x of shape {list(x.shape)}")

    def plan(self, size: Sequence[int], batch: int = 1, *, channels_last: bool = False) -> dict[str, Any]:
        """What would be done with this block on a map on a CPU, and the time that is predicted for it.

        Args:
            size: (H, W) of the map.
            batch: N.
            channels_last: whether the map or the weights are in that layout, in which PyTorch's convolutions take
                another time.

        Returns:
            ``{"forward": ..., "backward": ...}``: inference, and the backward pass of a training step. Each holds the
            ``algo`` that ``algo="auto"`` chooses: ``"direct"``, ``"fft"`` or, where PyTorch's own convolutions are predicted
            to be the faster choice, ``"torch"`` (with ``backend="auto"`` only; a training step chooses once for its forward
            and backward pass). Then the predicted ``direct_ms``, ``fft_ms`` (None where impossible) and ``torch_ms``, and
            for every convolution of the frequency-domain path its instruction
            set, transform length, blocks of a line, independent units of work, channel splits, time, and bytes of
            spectra and workspace; ``spectra_bytes`` is what the forward pass keeps of the weights between calls.
            Predictions hold for two cores of a 3.7 GHz Zen 4, those of a single convolution for one; elsewhere only their
            ratios mean something.

        Raises:
            ValueError: ``size`` is not two whole numbers of at least 1, or ``batch`` not one of at least 0.
            RuntimeError: the compiled library is not loaded; sizes whose products leave 64 bits.

        Example:
            >>> FusedGCN(512, 21, 63).plan((64, 64))["forward"]["algo"]
            'fft'
        """
        weights = [conv.weight for conv in (self.conv_l1, self.conv_l2, self.conv_r1, self.conv_r2)]
        return backends.cpu_plan(weights, size, batch, channels_last, self.backend)

    def _options(self) -> str:
        return f"backend={self.backend!r}, algo={self.algo!r}"

    def _set_algorithm(self, backend: str, algo: str) -> None:
        if backend not in backends.BACKENDS:
            raise ValueError(f"backend: expected one of {', '.join(backends.BACKENDS)}, got {backend!r}")
        if algo not in backends.ALGORITHMS:
            raise ValueError(f"algo: expected one of {', '.join(backends.ALGORITHMS)}, got {algo!r}")
        self.backend = backend
        self.algo = algo


def _special(conv: nn.Module, axis: int) -> str | None:
    """What ``conv`` does beside a plain convolution along ``axis`` that keeps the size, or None."""
    if (reason := special_or_not_dense(conv)) is not None:
        return reason
    assert isinstance(conv, nn.Conv2d)
    k, padding = conv.kernel_size[axis], conv.padding
    if conv.kernel_size[1 - axis] != 1 or k % 2 == 0:
        return f"has kernel {conv.kernel_size}"
    if padding != "same" and padding != ((k // 2, 0) if axis == 0 else (0, k // 2)):
        return f"has padding {padding}"
    if conv.padding_mode != "zeros" and k > 1:
        return f"has padding_mode {conv.padding_mode!r}"
    return None


def _kernel_pair(kernel_size: int | Sequence[int]) -> tuple[int, int]:
    pair = whole_numbers(kernel_size if isinstance(kernel_size, Sequence) else (kernel_size, kernel_size))
    if len(pair) != 2 or not all(k > 0 and k % 2 == 1 for k in pair):
        raise ValueError(f"kernel_size: expected an odd int or a pair (kh, kw) of odd ints, got {kernel_size!r}")
    return pair[0], pair[1]


def _check_conv(name: str, conv: nn.Conv2d, axis: int) -> None:
    """Raise unless ``conv`` is a plain convolution with its kernel along ``axis`` (0: H, 1: W) that keeps the size."""
    if not isinstance(conv, nn.Conv2d) or type(conv).forward is not nn.Conv2d.forward:
        raise TypeError(f"{name}: expected an nn.Conv2d with its own forward, got {type(conv).__name__}")
    k = conv.kernel_size[axis]
    kernel = (k, 1) if axis == 0 else (1, k)
    padding = (k // 2, 0) if axis == 0 else (0, k // 2)
    zero_padded = conv.padding_mode == "zeros" or k == 1
    plain = conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.groups == 1
    if conv.kernel_size != kernel or k % 2 == 0 or conv.padding not in (padding, "same") or not zero_padded or not plain:
        raise ValueError(
            f"{name}: expected a Conv2d with kernel {'k x 1' if axis == 0 else '1 x k'}, odd k, zero padding k // 2 along it, "
            f"stride 1, dilation 1 and groups 1, got {conv}"
        )
