"""The swap itself: one assignment to ``__class__``.

A swapped module is the same object, with the same ``__dict__``: parameters, buffers, children, hooks and mode are not touched.
Only its class becomes a subclass of the class it had, whose ``forward`` runs the forward of that class inside a
:class:`gcn_kernels.swap.scope.Scope` (of a convolution that stands alone, see :mod:`gcn_kernels.swap.direct`). Undoing the swap
assigns the original class again. Nothing is stored on the instance, so copies, ``state_dict`` and optimizers see no difference,
and a pickle names the original class and the description of the swap, from which the subclass is made again.
"""

import functools
import types
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from gcn_kernels.swap import direct, straight_line
from gcn_kernels.swap.graph import GraphScope
from gcn_kernels.swap.scope import Scope, hooked_inside, scope_of


class Fusion(NamedTuple):
    """A swap as pickles from before describe it: the paths of the convolutions, the name of the input, the backend."""

    roles: tuple[str, str, str, str]
    input_name: str
    backend: str


class Watched(NamedTuple):
    """How a module runs: the names of its children that hold convolutions (None: all), the backend, what is fused and folded.

    ``alone`` says that the module is itself a depthwise convolution (:mod:`gcn_kernels.swap.direct`), which the operator computes
    from the ``smallest`` maps on.
    """

    children: tuple[str, ...] | None
    backend: str
    families: tuple[str, ...] = ("gcn",)
    alone: bool = False
    smallest: direct.Smallest = direct.Smallest()


class Swapped:
    """First base of every generated class: it knows the original class, and how to copy, pickle and script itself."""

    _gcn_original: ClassVar[type[nn.Module]]
    _gcn_how: ClassVar[Watched]

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        _, _, *state = reduced
        return (_blank, (type(self)._gcn_original, type(self)._gcn_how), *state)

    def __prepare_scriptable__(self) -> nn.Module:
        """``torch.jit.script`` compiles the module as it was before the swap."""
        original = type(self)._gcn_original
        twin: nn.Module = object.__new__(original)
        twin.__dict__.update(self.__dict__)
        return twin


def swap_out(module: nn.Module) -> None:
    """Give ``module`` the class it had before the swap."""
    module.__class__ = type(module)._gcn_original  # type: ignore[attr-defined]


def is_swapped(module: nn.Module) -> bool:
    """Whether ``module`` is of a generated class."""
    return "_gcn_how" in vars(type(module))


@cache
def fused_class(original: Any, how: Watched) -> type[nn.Module]:
    """The subclass of ``original`` that runs as ``how`` says; equal arguments give the same class."""

    def forward(self: Any, *inputs: Any, **named: Any) -> Any:
        if torch.compiler.is_compiling():
            # An exported program is for others, who may not have the operators; and export shows no mode the sums.
            if torch.compiler.is_exporting():
                return original.forward(self, *inputs, **named)
            with GraphScope(how.backend, how.families):
                return original.forward(self, *inputs, **named)
        if (y := straight_line.run(self, original, inputs, named, how.backend)) is not None:
            return y
        scope = scope_of(self, how.children, how.backend, how.families, noted=not straight_line.is_known(self))
        if scope is not None:
            with scope:
                result = original.forward(self, *inputs, **named)
            if scope.notes is None:
                straight_line.give_up(self)
                return scope.release(result)
            learnt = straight_line.learn(self, original, scope, result)
            result = scope.release(result)
            learnt(result)
            return result
        outer = Scope.current()
        if outer is None:
            return original.forward(self, *inputs, **named)
        with outer.inside(how.families, pause=hooked_inside(self, how.children)):
            return original.forward(self, *inputs, **named)

    made: list[type[nn.Module]] = []
    body: dict[str, Any]
    if how.alone and direct.is_plain(original):
        body = {**direct.methods(original, how.backend, how.families, how.smallest, made)}
    else:
        # Tracers read the signature of the forward that this one stands before.
        body = {"forward": functools.update_wrapper(forward, original.forward)}
    body |= {"_gcn_original": original, "_gcn_how": how, "__module__": original.__module__, "__doc__": original.__doc__}
    made.append(types.new_class(f"Fused{original.__name__}", (Swapped, original), exec_body=lambda space: space.update(body)))
    return made[0]


def _blank(original: Any, how: Any) -> nn.Module:
    """An empty instance of the generated class, for copy and pickle to fill."""
    if isinstance(how, Fusion):
        how = Watched(tuple(dict.fromkeys(path.split(".")[0] for path in how.roles)), how.backend)
    elif not isinstance(how, Watched):
        how = Watched(None, "auto")
    blank: nn.Module = object.__new__(fused_class(original, how))
    return blank
