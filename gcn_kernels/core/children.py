"""Whether the convolutions inside of a fused module are plain, so that nothing can tell whether they run or the operator does."""

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module


def wants_convolutions(x: Tensor) -> bool:
    """Whether ``x`` comes from a tracer that has to see convolutions, or has no data to run on."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()
    if isinstance(x, torch.fx.Proxy):
        return True
    if isinstance(x, Tensor) and x.is_meta:
        return True
    return torch._C._is_tracing() and torch.onnx.is_in_onnx_export()


def hooks_on_all() -> str | None:
    """What is said where a hook is set on all modules, or None."""
    forward = nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks
    backward = nn_module._global_backward_hooks or nn_module._global_backward_pre_hooks
    return "a hook is set on all modules" if forward or backward else None


def special(conv: nn.Module) -> str | None:
    """What ``conv`` does beside an ``nn.Conv2d`` of whatever kernel with stride 1, dilation 1 and groups 1, or None."""
    kind = type(conv)
    if kind is not nn.Conv2d and not _computes_as_conv2d(kind):
        return f"is a {kind.__name__}"
    if "forward" in conv.__dict__ or "_conv_forward" in conv.__dict__:
        return "has a forward of its own"
    if conv._forward_hooks or conv._forward_pre_hooks or conv._backward_hooks or conv._backward_pre_hooks:
        return "has a hook"
    described: Any = conv
    if described.stride != (1, 1) or described.dilation != (1, 1) or described.groups != 1:
        return f"has stride {described.stride}, dilation {described.dilation}, groups {described.groups}"
    return None


def channels(name: str, value: int) -> int:
    """``value`` as an int of at least 1; NumPy's integers are taken too.

    Raises:
        ValueError: anything else.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name}: expected an int of at least 1, got {value!r}")
    return number


def _computes_as_conv2d(kind: type[nn.Module]) -> bool:
    """Whether a class computes exactly as ``nn.Conv2d`` from its weight and bias, as that of a parametrized one does."""
    return (
        issubclass(kind, nn.Conv2d)
        and kind.forward is nn.Conv2d.forward
        and kind._conv_forward is nn.Conv2d._conv_forward
        and kind.__call__ is nn.Module.__call__
    )
