"""A tensor whose value waits until something asks for it."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gcn_kernels.swap.expression import Expression, Sum

aside = torch._C.DisableTorchFunctionSubclass

LEAVE_OUT = "leave this module out (convert_gcn(model, exclude=[...]))"

#: What can be answered from the size, type and place of a result that is not there yet.
_TENSOR: Any = Tensor
METADATA = frozenset(
    getattr(_TENSOR, name).__get__ for name in ("shape", "dtype", "device", "ndim", "layout", "is_cuda", "requires_grad")
) | {Tensor.size, Tensor.dim, Tensor.is_floating_point, Tensor.is_complex, Tensor.numel, Tensor.__len__}

#: What asks for the place of a tensor in the graph of another one, which a result that was fused away does not have.
_IN_THE_GRAPH = frozenset(
    {
        Tensor.retain_grad,
        Tensor.register_hook,
        Tensor.backward,
        _TENSOR.grad.__get__,
        torch.autograd.grad,
        torch.autograd.backward,
    }
)


class Pending(Tensor):
    """A tensor whose value is computed when something asks for it."""

    node: Expression

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in METADATA and type(args[0]) is cls and args[0].__dict__["node"].result is None:
            with aside():
                return func(*args, **(kwargs or {}))
        return func(*values_in(args, func), **values_in(kwargs or {}, func))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        # Only what comes past Python's functions arrives here. Autograd has had its say: values alone count.
        if func._schema.is_mutable and any(type(a) is cls for a in args):
            raise RuntimeError(f"{func} would change the result of a converted convolution from C++: {LEAVE_OUT}")
        return func(*_detached(args), **_detached(kwargs or {}))

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_value(self), name, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(_value(self), name)


def _value(t: Tensor, func: Any = None) -> Tensor:
    """The value of a pending tensor."""
    node = t.__dict__["node"]
    result: Tensor = node.value()
    with aside():
        changed = not t.is_inference() and t._version > 0
    if changed or (t.__dict__.get("moved") and not torch.is_grad_enabled()):
        raise RuntimeError(
            "the result of a converted convolution was changed in place and is used where autograd cannot be told (a custom "
            "autograd.Function, or without gradients after a sum in place): leave this module out (convert_gcn(model, "
            "exclude=[...])), or change a clone"
        )
    if not at_home(t):
        # A custom autograd.Function has returned it, which gave the tensor another place in the graph: the value goes there.
        if "joined" not in t.__dict__:
            with aside():
                t.__dict__["joined"] = _Joined.apply(t, result)  # type: ignore[no-untyped-call]
        joined: Tensor = t.__dict__["joined"]
        return joined
    if node.fused and func in _IN_THE_GRAPH and result.requires_grad:
        raise RuntimeError(
            f"{func.__name__} asks for the result of a convolution after the block that it is a part of was computed by one "
            "fused operator: ask before the sum, or leave the block out (convert_gcn(model, exclude=[...]))"
        )
    return result


def at_home(t: Tensor) -> bool:
    """Whether autograd still knows a pending tensor as what it was made for."""
    with aside():
        return t.grad_fn is t.__dict__["place"]


def values_in(container: Any, func: Any = None) -> Any:
    """``container`` with the value of every pending tensor in its place."""
    kind = type(container)
    if kind is Pending:
        return _value(container, func)
    if kind is tuple or kind is list:
        return kind([values_in(item, func) if type(item) in NESTED else item for item in container])
    if kind is dict:
        return {key: values_in(item, func) if type(item) in NESTED else item for key, item in container.items()}
    return container


def holds(container: Any, t: Tensor) -> bool:
    """Whether ``container`` has the very tensor ``t`` in it."""
    kind = type(container)
    if kind is tuple or kind is list:
        return any(item is t or holds(item, t) for item in container)
    return any(holds((item,), t) for item in container.values()) if kind is dict else False


NESTED = (Pending, tuple, list, dict)


def _detached(container: Any) -> Any:
    kind = type(container)
    if kind is Pending:
        return _value(container).detach()
    if kind is tuple or kind is list:
        return kind([_detached(item) for item in container])
    if kind is dict:
        return {key: _detached(item) for key, item in container.items()}
    return container


class _Recorded(torch.autograd.Function):
    """The place of a pending tensor in autograd's graph, for code that asks autograd in C++ instead of the tensor."""

    @staticmethod
    def forward(ctx: Any, node: Expression, size: Any, dtype: Any, *inputs: Any) -> Tensor:
        ctx.node = node
        return _make(node, size, dtype, inputs[0].device)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (dy,) = grads
        node, keep = ctx.node, torch.is_grad_enabled()
        if isinstance(node, Sum):
            return None, None, None, dy, dy
        wanted = [t for t, needed in zip(node.inputs, ctx.needs_input_grad[3:], strict=True) if needed]
        with torch.enable_grad():
            found = iter(torch.autograd.grad(node.compute(), wanted, dy, create_graph=keep))
        return None, None, None, *(next(found) if needed else None for needed in ctx.needs_input_grad[3:])


class _Joined(torch.autograd.Function):
    """A value at the place in the graph that its pending tensor has been given."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, value: Tensor) -> Tensor:
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


def _make(node: Expression, size: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    t: Tensor = torch.Tensor._make_wrapper_subclass(Pending, size, dtype=dtype, device=device)
    t.__dict__["node"] = node
    t.__dict__["place"] = None
    return t


def pending(node: Expression, size: Any, dtype: torch.dtype, inputs: Sequence[Tensor | None]) -> Tensor:
    """The tensor that stands for ``node``, a function of ``inputs``."""
    first = inputs[0]
    assert first is not None
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        with aside():
            t: Tensor = _Recorded.apply(node, size, dtype, *inputs)  # type: ignore[no-untyped-call]
            t.__dict__["place"] = t.grad_fn
    else:
        t = _make(node, size, dtype, first.device)
    node.size, node.tensor = size, weakref.ref(t)
    return t
