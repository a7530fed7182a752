"""The swap itself: one assignment to ``__class__``.

A swapped block is the same object, with the same ``__dict__``: parameters, buffers, children, hooks and mode are not touched.
Only its class becomes a subclass of the class it had, whose ``forward`` runs fused. Undoing the swap assigns the original class
again. Nothing is stored on the instance, so copies, ``state_dict`` and optimizers see no difference, and a pickle names the
original class and the description of the swap, from which the subclass is made again.
"""

import types
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from gcn_kernels.gcn.functional import fused_gcn
from gcn_kernels.swap.find import Roles

torch.fx.wrap("fused_gcn")


class Fusion(NamedTuple):
    """How a block runs fused: the paths of its convolutions, the name of its input, the backend."""

    roles: Roles
    input_name: str
    backend: str


class Swapped:
    """First base of every generated class: it knows the original class, and how to copy and pickle itself."""

    _gcn_original: ClassVar[type[nn.Module]]
    _gcn_how: ClassVar[Any]

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        _, _, *state = reduced
        return (_blank, (type(self)._gcn_original, type(self)._gcn_how), *state)


class FusedForward(Swapped):
    """``forward`` of a swapped block: one call of :func:`gcn_kernels.fused_gcn` on the parameters of its convolutions."""

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run fused; with a hook on a convolution, or other inputs than one map, run the block's own forward."""
        how: Fusion = self._gcn_how
        if len(inputs) == 1 and not named:
            x = inputs[0]
        elif not inputs and len(named) == 1 and how.input_name in named:
            x = named[how.input_name]
        else:
            return super().forward(*inputs, **named)  # type: ignore[misc]
        weights: list[Tensor] = []
        biases: list[Tensor | None] = []
        for path in how.roles:
            conv: Any = self
            for name in path.split("."):
                conv = getattr(conv, name)
                if conv._forward_hooks or conv._forward_pre_hooks or conv._backward_hooks or conv._backward_pre_hooks:
                    return super().forward(*inputs, **named)  # type: ignore[misc]
            weights.append(conv.weight)
            biases.append(conv.bias)
        return fused_gcn(x, *weights, *biases, backend=how.backend)


def swap_in(module: nn.Module, how: Any) -> None:
    """Make ``module`` run as ``how`` says: a :class:`Fusion`, or another description with a ``make_forward`` method."""
    original: Any = type(module)
    module.__class__ = fused_class(original, how)


def swap_out(module: nn.Module) -> None:
    """Give ``module`` the class it had before :func:`swap_in`."""
    module.__class__ = type(module)._gcn_original  # type: ignore[attr-defined]


def is_swapped(module: nn.Module) -> bool:
    """Whether ``module`` is of a generated class."""
    return "_gcn_how" in vars(type(module))


@cache
def fused_class(original: type[nn.Module], how: Any) -> type[nn.Module]:
    """The subclass of ``original`` that runs as ``how`` says; equal arguments give the same class."""
    base, body = (FusedForward, {}) if isinstance(how, Fusion) else (Swapped, {"forward": how.make_forward(original)})
    body |= {"_gcn_original": original, "_gcn_how": how, "__module__": original.__module__, "__doc__": original.__doc__}
    return types.new_class(f"Fused{original.__name__}", (base, original), exec_body=lambda namespace: namespace.update(body))


def _blank(original: Any, how: Any) -> nn.Module:
    """An empty instance of the generated class, for copy and pickle to fill."""
    cls = fused_class(original, how)
    return cls.__new__(cls)
