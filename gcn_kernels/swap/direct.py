"""Depthwise convolutions that stand alone: the convolution itself is swapped, and there is nothing to watch.

``nn.Conv2d`` computes its result in one method, of the map and of the weight and bias that its forward has read. In a swapped
convolution that method calls the operator, or PyTorch where the operator does not take what it is given, where PyTorch is faster,
or where something else than PyTorch's own ``conv2d`` would run. All that happens around it (hooks, parametrizations, sharding)
goes on as before.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcn_kernels.core.checks import is_channels_last, tracing_state
from gcn_kernels.swap import rules
from gcn_kernels.swap.expression import autocast_dtype
from gcn_kernels.swap.find import hooked
from gcn_kernels.swap.graph import GraphScope
from gcn_kernels.swap.scope import Scope, watched
from gcn_kernels.swap.steps import go_together, keeps_size_depthwise, takes

#: What was seen, whatever has been put in its place since.
_conv2d, _conv_forward, _forward = F.conv2d, nn.Conv2d._conv_forward, nn.Conv2d.forward


class Smallest(NamedTuple):
    """Numbers of pixels from which the operator is to compute a map on a CPU, in each way; None where PyTorch always does.

    Of channels_last without a gradient to record nothing has to be known: PyTorch's float32 kernels take 0.5 to 1 of its time.
    """

    inference: int | None = 0
    training: int | None = 0
    training_channels_last: int | None = 0


def is_plain(original: type[nn.Module]) -> bool:
    """Whether modules of this class compute their result as ``nn.Conv2d`` does."""
    return issubclass(original, nn.Conv2d) and original.forward is _forward and original._conv_forward is _conv_forward


def conv_forward(original: Any, backend: str, families: tuple[str, ...], smallest: Smallest) -> Callable[..., Tensor]:
    """The method ``_conv_forward`` of a swapped convolution.

    Args:
        original: its class, for which :func:`is_plain` holds.
        backend: of the operator.
        families: what is fused.
        smallest: from which maps on the operator runs.
    """

    def forward(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        plain: Callable[..., Tensor] = original._conv_forward
        if torch.compiler.is_compiling():
            if torch.compiler.is_exporting():
                return plain(self, input, weight, bias)
            with GraphScope(backend, families):
                return plain(self, input, weight, bias)
        if (outer := Scope.current()) is not None:
            with outer.inside(families, pause=hooked(self) is not None):
                return plain(self, input, weight, bias)
        # What watches sees what is asked of the map, too.
        if type(input) is not Tensor or watched() or pytorch_is_faster(input, smallest):
            return plain(self, input, weight, bias)
        replaced = plain is not _conv_forward or F.conv2d is not _conv2d
        if replaced or not takes(input):
            return plain(self, input, weight, bias)
        dilation = _dilation(self, input, weight, bias)
        if dilation is None:
            return plain(self, input, weight, bias)
        return rules.fused_strips(input, [[(weight, bias, dilation)]], backend=backend)

    return functools.update_wrapper(forward, original._conv_forward)


def _dilation(conv: Any, x: Tensor, weight: Tensor, bias: Any) -> tuple[int, int] | None:
    """(dh, dw) of a convolution of ``x`` that the operator takes, or None."""
    if conv.padding_mode != "zeros" or not go_together(x, weight, bias, autocast_dtype(x)) or x.shape[1] != weight.shape[0]:
        return None
    if x.stride(1) != 1 and is_channels_last(weight):
        return None  # which gives PyTorch's result this layout
    return keeps_size_depthwise(weight, conv.stride, conv.padding, conv.dilation, conv.groups)


def pytorch_is_faster(x: Tensor, smallest: Smallest) -> bool:
    """Whether PyTorch computes a depthwise convolution of ``x`` faster on a CPU."""
    if x.dim() != 4 or x.device.type != "cpu" or x.dtype.itemsize < 4 or torch.is_autocast_enabled("cpu"):
        return False
    training, channels_last = torch.is_grad_enabled(), x.stride(1) == 1
    if channels_last and not training:
        return x.dtype is torch.float32
    least = smallest.inference if not training else smallest.training_channels_last if channels_last else smallest.training
    if least is None:
        return True
    return least > 0 and not tracing_state() and x.numel() < least * x.shape[1]
