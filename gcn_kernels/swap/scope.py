"""Results that wait: what a model's own forward computes is recognised as it runs, and fused.

While the forward of a converted module runs, a :class:`Scope` sees every call of a PyTorch function that the forward makes. A
convolution that could be a part of a block is not computed yet: the forward gets a :class:`Pending` tensor, which remembers the
convolution (an *expression*). A second convolution and the sum extend the expression. Where a rule recognises the whole of it
(:data:`gcn_kernels.swap.rules.RULES`), the fused operator computes it.

Why the forward cannot tell:

* Between the first convolution and the sum nothing else happens. Any other call of PyTorch, whatever it does, first computes
  everything that waits (:meth:`Scope.settle`), in the order of the calls and in the modes they were made in.
* A pending tensor that anything touches is the plain convolution's result from then on. When the forward returns, whatever of
  it is still alive is computed, and the result handed out is an ordinary tensor.
* Autograd sees a pending tensor as the result of its convolution (:class:`_Recorded`), so that C++ code that never asks
  Python, such as a custom ``autograd.Function``, differentiates through it.
* What changes unseen in between, through memory shared with NumPy, say, is noticed by version and address: an error, not a
  number.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from gcn_kernels.swap.expression import Expression, Fused, Step, Sum
from gcn_kernels.swap.pending import METADATA, NESTED, Pending, holds, pending, values_in
from gcn_kernels.swap.steps import EXTEND, in_order

#: What parametrizations make a weight with: functions of their arguments alone, which change nothing, so what waits may go on.
PURE = frozenset(
    {torch._weight_norm, torch.mv, torch.vdot, torch.matmul, torch.exp, F.softplus}
    | {
        Tensor.mul,
        Tensor.div,
        Tensor.sub,
        Tensor.exp,
        Tensor.matmul,
        Tensor.clone,
        Tensor.permute,
        Tensor.flatten,
        Tensor.reshape,
    }
    | {Tensor.__rsub__, Tensor.__rtruediv__}
)


#: Functions of PyTorch in a run that is four convolutions and their sum.
CALLS = 5
#: Functions of PyTorch in a run that can be repeated unwatched, and which they may be besides those in :data:`EXTEND`.
MOST_CALLS = 64
_OPTIONS = (bool, int, float, str, type(None))
REPEATABLE = frozenset(
    {Tensor.clone, Tensor.mul, Tensor.sub, Tensor.__mul__, Tensor.__rmul__, Tensor.sigmoid, Tensor.relu, Tensor.tanh}
    | {torch.mul, torch.sub, torch.sigmoid, torch.tanh, F.relu, F.gelu, F.silu}
)


class Call:
    """A call of a function of PyTorch, as far as noting it holds no result.

    Attributes:
        func: the function.
        options: arguments given by their names.
        node: the expression that waits in the place of its result, or None.
    """

    __slots__ = ("func", "node", "options")

    def __init__(self, func: Any, options: dict[str, Any]) -> None:
        self.func, self.options = func, options
        self.node: Expression | None = None


class Scope(TorchFunctionMode):
    """The time in which the forward of a converted module runs.

    Args:
        backend: of the fused operators.
        families: of what is fused, of :data:`gcn_kernels.swap.rules.FAMILIES`; with :data:`gcn_kernels.swap.rules.BATCHNORM`,
            normalisations in eval mode are folded.
        trial: only see what would be fused, on meta tensors.
        noted: whether the calls are to be noted.

    Attributes:
        notes: of the calls of PyTorch's functions, as long as they could be repeated unwatched; None after that.
        fused: the calls of fused operators that are noted, each with the expression, if one waited, that it gives the result of.
    """

    def __init__(self, backend: str, families: Iterable[str] = ("gcn",), trial: bool = False, noted: bool = False) -> None:
        super().__init__()
        self.backend, self.families, self.trial = backend, frozenset(families), trial
        self.fused: list[tuple[Fused, Expression | None]] = []
        self.notes: list[Call] | None = [] if noted or trial else None
        self.paused = 0
        self.waiting: list[Any] = []
        self.taken: list[Any] = []

    @contextlib.contextmanager
    def inside(self, families: Sequence[str], pause: bool) -> Iterator[None]:
        """The time in which a converted module below runs, which fuses ``families`` too, or nothing where ``pause`` says so."""
        before = self.families
        self.families = self.families.union(families)
        if pause:
            self.settle()
        self.paused += pause
        try:
            yield
        finally:
            self.families = before
            self.paused -= pause

    @staticmethod
    def current() -> "Scope | None":
        """The scope that is running in this thread."""
        if not torch._C._len_torch_function_stack():
            return None
        return next((m for m in reversed(_modes()) if isinstance(m, Scope)), None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let ``func`` wait if a rule may need it; compute what waits before anything else runs."""
        args, kwargs = in_order(func, args, kwargs or {})
        if self.notes is not None and func is not Tensor.dim:
            self._note(func, kwargs)
        if (extend := EXTEND.get(func)) is not None and not self.paused:
            if (waits := extend(self, *args, **kwargs)) is not None:
                return waits
        elif func in METADATA or (func in PURE and "out" not in kwargs and not any(type(a) is Pending for a in args)):
            return func(*args, **kwargs)
        if not self.waiting and not self.taken:
            return func(*args, **kwargs)
        self.settle((args, kwargs))
        if self.taken and may_write(func, kwargs):
            self.take_back()
        args, kwargs = values_in(args, func), values_in(kwargs, func)
        if extend is not None and not self.paused and (waits := extend(self, *args, **kwargs)) is not None:
            return waits
        return func(*args, **kwargs)

    def _note(self, func: Any, kwargs: Any) -> None:
        assert self.notes is not None
        self.notes.append(Call(func, kwargs))
        repeatable = (func in EXTEND or func in REPEATABLE) and len(self.notes) <= MOST_CALLS
        if not self.trial and not (repeatable and all(type(option) in _OPTIONS for option in kwargs.values())):
            # Too much to remember, which would keep results alive.
            self.notes, self.fused = None, []

    def settle(self, needed: Any = ()) -> None:
        """Compute everything that waits and that somebody still has, beginning with what ``needed`` holds."""
        waiting, self.waiting = self.waiting, []
        held = [t for ref in waiting if (t := ref()) is not None]
        if not held:
            return
        # The longest first: what a fused operator takes needs no value of its own unless it is asked for.
        first = [t for t in held if holds(needed, t)]
        sums = [t for t in held if isinstance(t.__dict__["node"], Sum)]
        for t in (*first[::-1], *sums[::-1], *held[::-1]):
            node = t.__dict__["node"]
            if not node.fused:
                node.value()
        self.taken += [t.__dict__["node"].tensor for t in held if t.__dict__["node"].fused]

    def run(self, block: Fused, end: Expression | None) -> Tensor:
        """The result of a fused operator."""
        if self.notes is not None:
            self.fused.append((block, end))
        return block.call()

    def take_back(self) -> None:
        """Compute what a fused operator has taken and somebody still has, while that is possible."""
        taken, self.taken = self.taken, []
        for ref in taken:
            if (t := ref()) is not None and (node := t.__dict__["node"]).intact:
                node.value()

    def whole(self, result: Any) -> Fused | None:
        """The block that ``result`` of the forward is, if all that ran are its four convolutions and their sum."""
        if self.notes is None or len(self.notes) != CALLS or type(result) is not Pending:
            return None
        node = result.__dict__["node"]
        return node.block if isinstance(node, Sum) and node.result is None and node.block.family == "gcn" else None

    def release(self, result: Any) -> Any:
        """``result`` of a forward that has returned, with ordinary tensors in it; what else is alive gets its value."""
        held = [t for ref in self.waiting if (t := ref()) is not None]
        for t in sorted(held, key=lambda t: isinstance(t.__dict__["node"], Step)):
            if isinstance(node := t.__dict__["node"], Sum):
                node.value(exact=True)
            elif not node.fused:
                node.value()
        released = _released(result)
        self.settle()
        self.take_back()
        return released

    def wait(self, node: Expression, size: Any, dtype: torch.dtype, inputs: Sequence[Tensor | None]) -> Tensor:
        """The pending tensor for ``node``."""
        t = pending(node, size, dtype, inputs)
        self.waiting.append(node.tensor)
        if self.notes:
            self.notes[-1].node = node
        return t


def scope_of(
    module: nn.Module,
    children: Sequence[str] | None,
    backend: str,
    families: Iterable[str] = ("gcn",),
    noted: bool = False,
) -> Scope | None:
    """A scope for a call of ``module``, or None where its forward has to run plainly or inside a scope that is there.

    Args:
        module: what is called.
        children: names of its children that hold the convolutions; all of them if None.
        backend: of the fused operators.
        families: of what is fused.
        noted: whether the calls are to be noted.
    """
    if watched() or torch._C._len_torch_dispatch_stack():
        return None
    return None if hooked_inside(module, children) else Scope(backend, families, noted=noted)


def watched() -> bool:
    """Whether something sees every call of a module or of a function of PyTorch; a default device does not matter."""
    if observed():
        return True
    return bool(torch._C._len_torch_function_stack()) and any(type(m) is not DeviceContext for m in _modes())


def _modes() -> list[TorchFunctionMode]:
    stack: list[TorchFunctionMode] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return stack


def observed() -> bool:
    """Whether something sees every module that is called: ``torch.jit.trace``, or hooks on all modules."""
    observed: bool = torch._C._is_tracing() or nn_module._has_any_global_hook()  # type: ignore[no-untyped-call]
    return observed


def hooked_inside(module: nn.Module, children: Sequence[str] | None) -> bool:
    """Whether a call of a module below ``module`` fires a hook, which could keep a result or take a weight away."""
    below = module._modules
    for child in below.values() if children is None else [below.get(name) for name in children]:
        if child is not None and _hooked(child):
            return True
    return False


def _hooked(module: nn.Module) -> bool:
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return True
    return any(child is not None and _hooked(child) for child in module._modules.values())


def _released(container: Any) -> Any:
    kind = type(container)
    if kind is Pending:
        node = container.__dict__["node"]
        value: Tensor = values_in(container)
        return container if node.fused and value.requires_grad else value
    if kind is tuple or kind is list:
        return kind([_released(item) for item in container]) if any(type(item) in NESTED for item in container) else container
    if kind is dict:
        for key, item in container.items():
            if type(item) in NESTED:
                container[key] = _released(item)
    return container


def may_write(func: Any, kwargs: Any) -> bool:
    """Whether ``func`` is called as one that changes a tensor."""
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") if not name.endswith("__") else name.startswith("__i") or name in ("__setitem__", "__set__")
    return in_place or "out" in kwargs or bool(kwargs.get("inplace"))
