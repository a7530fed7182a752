"""Results that wait: what a model's own forward computes is recognised as it runs, and fused.

While the forward of a converted module runs, a :class:`Scope` sees every call of a PyTorch function that the forward makes. A
convolution that could be a part of a block is not computed yet: the forward gets a :class:`Pending` tensor, which remembers the
convolution (an *expression*). A second convolution and the sum extend the expression. Where a rule recognises the whole of it
(:data:`RULES`), the fused operator computes it.

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

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from gcn_kernels.core.checks import DTYPES
from gcn_kernels.swap.expression import Convolution, Expression, Modes, Padding, Step, Sum, ZeroAdded, modes_for
from gcn_kernels.swap.pending import METADATA, NESTED, Pending, aside, at_home, pending, values_in
from gcn_kernels.swap.rules import RULES

_PLAIN = (Tensor, nn.Parameter)
_ONES = (1, (1, 1), [1, 1])

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


class Scope(TorchFunctionMode):
    """The time in which the forward of a converted module runs.

    Args:
        backend: of the fused operators.
        trial: only see what would be fused, on meta tensors.

    Attributes:
        fused: how many sums have been fused.
    """

    def __init__(self, backend: str, trial: bool = False) -> None:
        super().__init__()
        self.backend, self.trial = backend, trial
        self.fused = 0
        self.paused = 0
        self.waiting: list[Any] = []
        self.taken: list[Any] = []

    @staticmethod
    def current() -> "Scope | None":
        """The scope that is running in this thread."""
        if not torch._C._len_torch_function_stack():
            return None
        return next((m for m in reversed(_modes()) if isinstance(m, Scope)), None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let ``func`` wait if a rule may need it; compute what waits before anything else runs."""
        kwargs = kwargs or {}
        if (extend := EXTEND.get(func)) is not None and not self.paused:
            if (waits := extend(self, *args, **kwargs)) is not None:
                return waits
        elif func in METADATA or (func in PURE and "out" not in kwargs and not any(type(a) is Pending for a in args)):
            return func(*args, **kwargs)
        if not self.waiting and not self.taken:
            return func(*args, **kwargs)
        self.settle()
        if self.taken and _may_write(func, kwargs):
            self.take_back()
        return func(*values_in(args, func), **values_in(kwargs, func))

    def settle(self) -> None:
        """Compute everything that waits and that somebody still has."""
        waiting, self.waiting = self.waiting, []
        held = [t for ref in waiting if (t := ref()) is not None]
        # Sums first: what a fused operator takes needs no value of its own unless it is asked for.
        for t in sorted(held, key=lambda t: isinstance(t.__dict__["node"], Step)):
            node = t.__dict__["node"]
            if node.fused:
                self.taken.append(node.tensor)
            else:
                node.value()

    def take_back(self) -> None:
        """Compute what a fused operator has taken and somebody still has, while that is possible."""
        taken, self.taken = self.taken, []
        for ref in taken:
            if (t := ref()) is not None and (node := t.__dict__["node"]).intact:
                node.value()

    def release(self, result: Any) -> Any:
        """``result`` of a forward that has returned, with ordinary tensors in it; what else is alive gets its value."""
        for ref in self.waiting:
            t = ref()
            if t is not None and isinstance(node := t.__dict__["node"], Sum):
                node.value(exact=True)
        released = _released(result)
        self.settle()
        self.take_back()
        return released

    def wait(self, node: Expression, size: Any, dtype: torch.dtype, inputs: Sequence[Tensor | None]) -> Tensor:
        """The pending tensor for ``node``."""
        t = pending(node, size, dtype, inputs)
        self.waiting.append(node.tensor)
        return t


def scope_of(module: nn.Module, children: Sequence[str] | None, backend: str) -> Scope | None:
    """A scope for a call of ``module``, or None where its forward has to run plainly or inside a scope that is there.

    Args:
        module: what is called.
        children: names of its children that hold the convolutions; all of them if None.
        backend: of the fused operators.
    """
    if torch._C._is_tracing() or _hooks_on_all_modules() or torch._C._len_torch_dispatch_stack():
        return None
    if torch._C._len_torch_function_stack() and any(type(m) is not DeviceContext for m in _modes()):
        return None
    return None if hooked_inside(module, children) else Scope(backend)


def _modes() -> list[TorchFunctionMode]:
    stack: list[TorchFunctionMode] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return stack


def _hooks_on_all_modules() -> bool:
    hooks: bool = nn_module._has_any_global_hook()  # type: ignore[no-untyped-call]
    return hooks


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
        return container if node.fused and isinstance(node, Step) and value.requires_grad else value
    if kind is tuple or kind is list:
        return kind([_released(item) for item in container]) if any(type(item) in NESTED for item in container) else container
    if kind is dict:
        for key, item in container.items():
            if type(item) in NESTED:
                container[key] = _released(item)
    return container


def _may_write(func: Any, kwargs: Any) -> bool:
    """Whether ``func`` is called as one that changes a tensor."""
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") if not name.endswith("__") else name.startswith("__i") or name in ("__setitem__", "__set__")
    return in_place or "out" in kwargs or bool(kwargs.get("inplace"))


def _source(input: Any) -> Tensor | Step | None:
    """What a step that reads ``input`` continues, or None where nothing waits for it."""
    if type(input) is Pending:
        node = input.__dict__["node"]
        return node if node.result is None and isinstance(node, Step) and at_home(input) else None
    return input if type(input) is Tensor else None


def _padding(scope: Scope, input: Any, pad: Any, mode: str = "constant", value: Any = None) -> Tensor | None:
    """Zeros on both sides alike along one axis, as a convolution that follows may want them, or None."""
    source, pads = _source(input), tuple(pad)
    if source is None or isinstance(source, Padding) or mode != "constant" or value not in (None, 0) or len(pads) != 4:
        return None
    left, right, top, bottom = pads
    if left != right or top != bottom or left < 0 or top < 0 or (left > 0) == (top > 0):
        return None
    modes = modes_for(source if isinstance(source, Tensor) else source.x)
    if not (_takes(scope, source) if isinstance(source, Tensor) else modes == source.modes):
        return None
    n, c, h, w = input.shape if isinstance(source, Tensor) else source.size
    return scope.wait(Padding(source, modes, pads), (n, c, h + 2 * top, w + 2 * left), input.dtype, (input,))


def _convolution(
    scope: Scope,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> Tensor | None:
    """A convolution that waits, or None where it is not one that a rule could use."""
    if type(weight) not in _PLAIN or weight.dim() != 4 or groups != 1 or stride not in _ONES or dilation not in _ONES:
        return None
    source = _source(input)
    out, channels, kh, kw = weight.shape
    if source is None or (kh == 1) == (kw == 1) or not kh & kw & 1:
        return None
    padded = type(source) is Padding
    if padded:
        kept = source.pads == (kw // 2, kw // 2, kh // 2, kh // 2) and padding in (0, (0, 0), [0, 0])  # type: ignore[union-attr]
    else:
        kept = padding == "same" or (not isinstance(padding, (int, str)) and tuple(padding) == (kh // 2, kw // 2))
    axis, first = 0 if kw == 1 else 1, source.source if padded else source  # type: ignore[union-attr]
    if not kept or (isinstance(first, Convolution) and (first.axis == axis or not isinstance(first.before, Tensor))):
        return None
    x = source if isinstance(source, Tensor) else source.x
    modes = modes_for(x)
    if not (_takes(scope, x) if isinstance(source, Tensor) else modes == source.modes) or not _go_together(
        x, weight, bias, modes
    ):
        return None
    shape = input.shape if isinstance(source, Tensor) else source.size
    if shape[1] != channels:
        return None
    node = Convolution(source, modes, weight, bias, padding, axis)
    dtype = modes[2] if modes[2] is not None else x.dtype
    size = (shape[0], out, shape[2], shape[3])
    if padded:
        size = (shape[0], out, shape[2] - kh + 1, shape[3] - kw + 1)
    return scope.wait(node, size, dtype, (input, weight, bias))


def _takes(scope: Scope, x: Tensor) -> bool:
    """Whether a step that reads ``x`` may wait."""
    return (
        x.dim() == 4
        and x.dtype in DTYPES
        and x.layout is torch.strided
        and not x.is_neg()
        and x.shape[2] > 0
        and x.shape[3] > 0
        and (x.device.type != "meta" or scope.trial)
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch.autograd.forward_ad._current_level < 0
    )


def _go_together(x: Tensor, weight: Tensor, bias: Any, modes: Modes) -> bool:
    """Whether ``conv2d`` takes these together."""
    if bias is not None and (type(bias) not in _PLAIN or bias.shape != weight.shape[:1] or bias.device != x.device):
        return False
    if weight.device != x.device or weight.shape[0] == 0:
        return False
    if modes[2] is not None:
        return all(t is None or (t.dtype in DTYPES and t.dtype is not torch.float64) for t in (x, weight, bias))
    return weight.dtype is x.dtype and (bias is None or bias.dtype is x.dtype)


def _sum(scope: Scope, left: Any, right: Any, **options: Any) -> Tensor | None:
    """The sum of two expressions that a rule has a fused operator for, or None."""
    a, b = _step(left), _step(right)
    if a is None or options:
        return None
    if b is None:
        if type(right) is not int or right != 0 or type(a) is not Convolution or modes_for(a.x) != a.modes:
            return None
        return scope.wait(ZeroAdded(a, a.modes), a.size, left.dtype, (left,))
    if a.size != b.size or not (a.untouched and b.untouched):
        return None
    modes = modes_for(a.x)
    if a.modes != modes or b.modes != modes:
        return None
    for rule in RULES:
        if (fuse := rule(a, b, backend=scope.backend)) is not None:
            return scope.wait(Sum(a, b, fuse, scope), a.size, left.dtype, (left, right))
    return None


def _step(t: Any) -> Step | None:
    """The step that ``t`` waits for, or None."""
    node = t.__dict__["node"] if type(t) is Pending else None
    return node if isinstance(node, Step) and at_home(t) else None


def _sum_in_place(scope: Scope, left: Any, right: Any, **options: Any) -> Tensor | None:
    """``left += right``: whoever holds ``left`` holds the sum."""
    total = None if type(right) is int else _sum(scope, left, right, **options)
    if total is not None:
        # The statement gives the new tensor the name of the old one. Other names of the old one follow, but autograd knows
        # it by its old place.
        left.__dict__["node"].tensor = None
        left.__dict__["node"] = total.__dict__["node"]
        with aside():
            left.__dict__["moved"] = total.requires_grad
    return total


#: What makes an expression longer.
EXTEND: dict[Any, Callable[..., Tensor | None]] = {
    torch.conv2d: _convolution,
    torch.add: _sum,
    Tensor.add: _sum,
    Tensor.__add__: _sum,
    Tensor.__radd__: _sum,
    F.pad: _padding,
    Tensor.add_: _sum_in_place,
    Tensor.__iadd__: _sum_in_place,
}
