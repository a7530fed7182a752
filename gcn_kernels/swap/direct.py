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
from gcn_kernels.swap.scope import Scope, observed, watched
from gcn_kernels.swap.steps import go_together, keeps_size_depthwise, takes

#: What was seen, whatever has been put in its place since.
_conv2d, _conv_forward, _forward = F.conv2d, nn.Conv2d._conv_forward, nn.Conv2d.forward
_getattr: Any = nn.Module.__getattr__
# What every call asks, by names of their own and in functions that parse no arguments: between the work of other layers, which
# pushes Python out of the caches, each question takes microseconds, ten of them ``torch.is_autocast_enabled("cpu")``, and a
# convolution of a small map thirty.
_in_dynamo, _function_modes = torch.compiler.is_dynamo_compiling, torch._C._len_torch_function_stack
_grad_enabled, _any_autocast = torch.is_grad_enabled, torch._C._is_any_autocast_enabled


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


def methods(
    original: Any, backend: str, families: tuple[str, ...], smallest: Smallest, made: list[type[nn.Module]]
) -> dict[str, Callable[..., Tensor]]:
    """The methods of a swapped convolution by their names.

    Args:
        original: its class, for which :func:`is_plain` holds.
        backend: of the operator.
        families: what is fused.
        smallest: from which maps on the operator runs if the backend is ``"auto"``; any other was asked for, and runs.
        made: holds the class of swapped convolutions, once it is made.
    """
    may_choose = backend == "auto"

    def conv_forward(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        plain: Callable[..., Tensor] = original._conv_forward
        if _in_dynamo():
            if torch.compiler.is_exporting():
                return plain(self, input, weight, bias)
            with GraphScope(backend, families):
                return plain(self, input, weight, bias)
        if _function_modes() or tracing_state():
            if (outer := Scope.current()) is not None:
                with outer.inside(families, pause=hooked(self) is not None):
                    return plain(self, input, weight, bias)
            if watched():  # by what sees what is asked of the map, too
                return plain(self, input, weight, bias)
        if type(input) is not Tensor or (may_choose and pytorch_is_faster(input, smallest)):
            return plain(self, input, weight, bias)
        if observed() or torch.compiler.is_compiling():
            return plain(self, input, weight, bias)
        replaced = plain is not _conv_forward or F.conv2d is not _conv2d
        if replaced or not takes(input):
            return plain(self, input, weight, bias)
        dilation = _dilation(self, input, weight, bias)
        if dilation is None:
            return plain(self, input, weight, bias)
        return rules.fused_strips(input, [[(weight, bias, dilation)]], backend=backend)

    def forward(self: Any, input: Tensor) -> Tensor:
        # nn.Module finds a weight by an exception, in the time that all the questions above take. So that a convolution which
        # PyTorch computes takes no longer than before the swap, weight and bias are taken where that way ends.
        if type(input) is Tensor and type(self) in made and original.forward is _forward:
            own = self._parameters
            if "weight" in own and "bias" in own:
                y: Tensor = self._conv_forward(input, own["weight"], own["bias"])
                return y
        y = original.forward(self, input)
        return y

    found: dict[str, Callable[..., Tensor]] = {"_conv_forward": functools.update_wrapper(conv_forward, original._conv_forward)}
    if _reads_as_modules_do(original):
        found["forward"] = functools.update_wrapper(forward, original.forward)
    return found


def _reads_as_modules_do(original: Any) -> bool:
    """Whether nothing of this class stands before the weight and bias among a module's parameters."""
    named = hasattr(original, "weight") or hasattr(original, "bias")
    return not named and original.__getattr__ is _getattr and original.__getattribute__ is object.__getattribute__


def _dilation(conv: Any, x: Tensor, weight: Tensor, bias: Any) -> tuple[int, int] | None:
    """(dh, dw) of a convolution of ``x`` that the operator takes, or None."""
    if conv.padding_mode != "zeros" or not go_together(x, weight, bias, autocast_dtype(x)) or x.shape[1] != weight.shape[0]:
        return None
    if x.stride(1) != 1 and is_channels_last(weight):
        return None  # which gives PyTorch's result this layout
    return keeps_size_depthwise(weight, conv.stride, conv.padding, conv.dilation, conv.groups)


def pytorch_is_faster(x: Tensor, smallest: Smallest) -> bool:
    """Whether PyTorch computes a depthwise convolution of ``x`` faster on a CPU; elsewhere the backend ``"auto"`` is PyTorch."""
    strides = x.stride()
    if len(strides) != 4 or (_any_autocast() and torch.is_autocast_enabled("cpu")):
        return False
    channels_last = strides[1] == 1
    if not _grad_enabled():
        if channels_last:
            return x.dtype is torch.float32
        least = smallest.inference
    else:
        least = smallest.training_channels_last if channels_last else smallest.training
    if x.dtype.itemsize < 4:  # not timed
        return False
    return least is None or (least > 0 and x.numel() < least * x.shape[1])
