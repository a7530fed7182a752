"""Fused modules whose convolutions are their children, which nothing can tell from the operator as long as they are plain."""

import operator
from functools import cache
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
    """What works through ``conv``, so that it has to be called itself, or None for an ``nn.Conv2d`` of whatever form."""
    kind = type(conv)
    if kind is not nn.Conv2d and not _computes_as_conv2d(kind):
        return f"is a {kind.__name__}"
    if "forward" in conv.__dict__ or "_conv_forward" in conv.__dict__:
        return "has a forward of its own"
    if conv._forward_hooks or conv._forward_pre_hooks or conv._backward_hooks or conv._backward_pre_hooks:
        return "has a hook"
    return None


def special_or_not_dense(conv: nn.Module) -> str | None:
    """What ``conv`` is beside an ``nn.Conv2d`` of whatever kernel with stride 1, dilation 1 and groups 1, or None."""
    if (reason := special(conv)) is not None:
        return reason
    described: Any = conv
    if described.stride != (1, 1) or described.dilation != (1, 1) or described.groups != 1:
        return f"has stride {described.stride}, dilation {described.dilation}, groups {described.groups}"
    return None


class Convolutions(nn.Module):
    """Base of modules that run the convolutions which are their children as one operator.

    The convolutions run themselves, one after the other, as soon as something works through one of them, and for tracers that
    want to see them.

    Attributes:
        backend: of the operator.
    """

    #: Modules of earlier versions were saved without it.
    backend: str = "auto"

    def forward(self, x: Tensor) -> Tensor:
        """Apply the module to ``x`` [N, C, H, W] or [C, H, W]."""
        return self._convolutions(x) if wants_convolutions(x) or self._why_not_fused() is not None else self._fused(x)

    def extra_repr(self) -> str:
        reason = self._why_not_fused()
        return self._options() if reason is None else f"runs its convolutions: {reason}"

    def _why_not_fused(self) -> str | None:
        """Why the convolutions run themselves, or None while they are plain."""
        return hooks_on_all() or self._special_child()

    def _convolutions(self, x: Tensor) -> Tensor:
        """What the module computes, by its children; ``torch.jit.script`` compiles this."""
        raise NotImplementedError

    def _fused(self, x: Tensor) -> Tensor:
        """The same by the operator."""
        raise NotImplementedError

    def _special_child(self) -> str | None:
        """Which child is no plain convolution, and what it is; or None."""
        raise NotImplementedError

    def _options(self) -> str:
        """What ``print`` says of a module that runs fused."""
        return f"backend={self.backend!r}"

    def __prepare_scriptable__(self) -> nn.Module:
        return scriptable(self, "_convolutions")


def scriptable(module: nn.Module, plain: str) -> nn.Module:
    """``module`` as ``torch.jit.script`` can compile it: with the method of the name ``plain`` as its forward."""
    kind: Any = type(module)
    twin: nn.Module = object.__new__(_with_forward(kind, plain))
    twin.__dict__.update(module.__dict__)
    return twin


@cache
def _with_forward(kind: Any, plain: str) -> type[nn.Module]:
    return type(kind.__name__, (nn.Module,), {"forward": getattr(kind, plain), "__module__": kind.__module__})


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
