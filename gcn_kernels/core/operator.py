"""Shapes (fake kernels) and derivatives of the operators, shared by every pair of them and every device.

There are two pairs: ``gcn`` and ``gcn_backward``, compiled, and ``triton_gcn`` and ``triton_gcn_backward``. A forward
operator takes the nine tensors of the block and then options, and returns y and the two middle maps; its backward operator
takes dy, the tensors that are saved, a mask of the gradients that are wanted, and the last of the same options.

The middle maps are what the backward pass needs besides the inputs: 2M channels next to C. To autograd they are an opaque
cache, so the backward operator is treated as a function of (dy, x, weights, biases) and its own derivative is taken through
the definition in :mod:`gcn_kernels.reference`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from gcn_kernels import reference

#: On a CPU the middle maps are kept in the type that the arithmetic is done in.
ACCUMULATE = {
    torch.float64: torch.float64,
    torch.float32: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}


def _gcn_fake(
    x: Tensor,
    w_l1: Tensor,
    w_l2: Tensor,
    w_r1: Tensor,
    w_r2: Tensor,
    b_l1: Tensor | None,
    b_l2: Tensor | None,
    b_r1: Tensor | None,
    b_r2: Tensor | None,
    channels_last: bool,
    cache_weights: bool,
    allow_tf32: bool,
    algo: str,
) -> tuple[Tensor, Tensor, Tensor]:
    n, _, h, w = x.shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    y = torch.empty((n, w_l2.shape[0], h, w), dtype=x.dtype, device=x.device, memory_format=layout)
    return y, _middle_fake(x, w_l1), _middle_fake(x, w_r1)


def _middle_fake(x: Tensor, first_weight: Tensor) -> Tensor:
    """A middle map in the form that the kernels of ``x``'s device keep it in."""
    (n, _, h, w), mid = x.shape, first_weight.shape[0]
    if x.device.type == "cuda":
        # [N, H, W, M], M rounded up to whole octets: every pixel is 16-byte pieces for the tensor cores' loads. In x's type,
        # which PyTorch's own convolutions round u to as well.
        return x.new_empty((n, h, w, (mid + 7) // 8 * 8))
    return x.new_empty((n, mid, h, w), dtype=ACCUMULATE[x.dtype])


def _gcn_backward_fake(
    dy: Tensor,
    x: Tensor,
    u_l: Tensor,
    u_r: Tensor,
    w_l1: Tensor,
    w_l2: Tensor,
    w_r1: Tensor,
    w_r2: Tensor,
    b_l1: Tensor | None,
    b_r1: Tensor | None,
    wanted: int,
    allow_tf32: bool,
    algo: str,
) -> tuple[Tensor, ...]:
    like = [torch.empty_like(t) for t in (x, w_l1, w_l2, w_r1, w_r2)]
    like += [w.new_empty(w.shape[0]) for w in (w_l1, w_l2, w_r1, w_r2)]
    return tuple(t if wanted >> i & 1 else x.new_empty(0) for i, t in enumerate(like))


@dataclass(frozen=True)
class Operators:
    """A forward operator of the namespace ``gcn_kernels`` and its backward operator.

    Attributes:
        forward: name of the forward operator.
        backward: name of the backward operator.
        forward_only: how many of the forward operator's options, the first ones, its backward operator does not take.
    """

    forward: str
    backward: str
    forward_only: int


COMPILED = Operators("gcn", "gcn_backward", forward_only=2)
TRITON = Operators("triton_gcn", "triton_gcn_backward", forward_only=1)


def _save_for_backward(operators: Operators, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, w_l1, w_l2, w_r1, w_r2, b_l1, _, b_r1, _, *options = inputs
    _, u_l, u_r = output
    ctx.mark_non_differentiable(u_l, u_r)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, u_l, u_r, w_l1, w_l2, w_r1, w_r2)
    # The backward kernels read no value of a bias, so one that an optimizer changes before the backward pass is no error,
    # as with conv2d. Only the derivative of the backward pass needs the values, see _biases_of().
    ctx.biases = b_l1, b_r1
    ctx.bias_versions = _versions(ctx.biases)
    ctx.options = options[operators.forward_only :]


def _versions(tensors: Sequence[Tensor | None]) -> list[int | None]:
    """How often each tensor was changed in place; None for those that keep no count (inference tensors)."""
    return [None if t is None or t.is_inference() else t._version for t in tensors]


def _biases_of(ctx: Any) -> tuple[Tensor | None, Tensor | None]:
    """b_l1 and b_r1 as arguments of the backward operator; its own derivative needs them as they were."""
    biases: tuple[Tensor | None, Tensor | None] = ctx.biases
    if torch.is_grad_enabled() and _versions(biases) != ctx.bias_versions:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: b_l1 or b_r1 was "
            "changed between the forward pass and a backward pass with create_graph=True, whose own derivative needs their "
            "values; change them after the last backward pass, or use clones"
        )
    return biases


def _backward(
    operators: Operators, ctx: Any, dy: Tensor | None, du_l: None = None, du_r: None = None
) -> tuple[Tensor | None, ...]:
    wanted = sum(1 << i for i, needed in enumerate(ctx.needs_input_grad[:9]) if needed)
    no_options = (None,) * (operators.forward_only + len(ctx.options))
    if dy is None or not wanted:
        return (None,) * 9 + no_options
    backward = getattr(torch.ops.gcn_kernels, operators.backward).default
    grads = backward(dy, *ctx.saved_tensors, *_biases_of(ctx), wanted, *ctx.options)
    return (*(g if wanted >> i & 1 else None for i, g in enumerate(grads)), *no_options)


class _Recorded(torch.autograd.Function):
    """The operator for eager autograd: the same formula as the registered one, reached in half the time.

    The dispatcher's way to a Python autograd formula costs about 80 us a call, as much as a small block's convolutions.
    The operators come last, so that the inputs keep their places.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *inputs, operators = arguments
        with torch._C._AutoDispatchBelowAutograd():
            output = getattr(torch.ops.gcn_kernels, operators.forward).default(*inputs)
        ctx.operators = operators
        _save_for_backward(operators, ctx, tuple(inputs), output)
        y: Tensor = output[0]
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return (*_backward(ctx.operators, ctx, *grads), None)


def gcn(tensors: Sequence[Tensor | None], channels_last: bool, allow_tf32: bool, algo: str) -> Tensor:
    """Call ``gcn_kernels::gcn`` and return y, recording a gradient where one is needed.

    Args:
        tensors: x [N, C, H, W], the four weights and the four biases.
        channels_last: the layout of y.
        allow_tf32: whether a GPU may round the factors of float32 products to tf32, in the backward pass too.
        algo: algorithm of the kernels.
    """
    # A weight that is being trained will be another one in the next call. What torch.jit traces holds no trace of that.
    recorded = records(tensors)
    training = recorded and not _is_jit_tracing() and any(t is not None and t.requires_grad for t in tensors[1:5])
    return _call(COMPILED, tensors, (channels_last, not training, allow_tf32, algo), recorded)


def triton_gcn(tensors: Sequence[Tensor | None], channels_last: bool, allow_tf32: bool) -> Tensor:
    """Call ``gcn_kernels::triton_gcn`` and return y, recording a gradient where one is needed.

    Args:
        tensors: x [N, C, H, W], the four weights and the four biases.
        channels_last: the layout of y.
        allow_tf32: whether products of float32 may round their factors to tf32.
    """
    return _call(TRITON, tensors, (channels_last, allow_tf32), records(tensors))


def _call(operators: Operators, tensors: Sequence[Tensor | None], options: tuple[object, ...], records: bool) -> Tensor:
    # A graph that outlives this call holds the operator itself.
    eager = not _is_jit_tracing() and not torch.compiler.is_compiling()
    if eager and records:
        y: Tensor = _Recorded.apply(*tensors, *options, operators)  # type: ignore[no-untyped-call]
        return y
    operator = getattr(torch.ops.gcn_kernels, operators.forward).default
    if eager and not torch.is_inference_mode_enabled():
        # There is nothing to record: not even the question is asked, which the dispatcher asks in Python (13 us).
        with torch._C._AutoDispatchBelowAutograd():
            y = operator(*tensors, *options)[0]
    else:
        y = operator(*tensors, *options)[0]
    return y


def records(tensors: Sequence[Tensor | None]) -> bool:
    """Whether autograd records what is done with ``tensors``."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _is_jit_tracing() -> bool:
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    dy, x, _, _, w_l1, w_l2, w_r1, w_r2, b_l1, b_r1, wanted, *options = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(dy, x, w_l1, w_l2, w_r1, w_r2, b_l1, b_r1)
    ctx.wanted = wanted
    ctx.options = options


def _alias(t: Tensor) -> Tensor:
    """A differentiable stand-in for ``t`` that is a graph node of its own.

    Differentiating with respect to it does not run on into how dy, say, came from x: that is the caller's part of the
    chain rule.
    """
    return t.view_as(t) if t.requires_grad else t.detach().requires_grad_()


def _double_backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
    """Differentiate the gradients through the definition; the result can itself be differentiated."""
    keep_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        saved_dy, *tensors, saved_b_l1, saved_b_r1 = ctx.saved_tensors
        dy = _alias(saved_dy)
        x, w_l1, w_l2, w_r1, w_r2 = (_alias(t) for t in tensors)
        b_l1, b_r1 = (_alias(w.new_zeros(w.shape[0]) if b is None else b) for w, b in ((w_l1, saved_b_l1), (w_r1, saved_b_r1)))
        b_l2, b_r2 = (_alias(w.new_zeros(w.shape[0])) for w in (w_l2, w_r2))
        variables = (x, w_l1, w_l2, w_r1, w_r2, b_l1, b_l2, b_r1, b_r2)
        wanted = [ctx.wanted >> i & 1 and g is not None for i, g in enumerate(grad_outputs)]
        if not any(wanted):
            return (None,) * (11 + len(ctx.options))
        first = torch.autograd.grad(reference.gcn(*variables), list(compress(variables, wanted)), dy, create_graph=True)
        d_dy, d_x, *d_parameters = torch.autograd.grad(
            first,
            (dy, x, w_l1, w_l2, w_r1, w_r2, b_l1, b_r1),
            list(compress(grad_outputs, wanted)),
            create_graph=keep_graph,
            allow_unused=True,
        )
    *d_weights, d_b_l1, d_b_r1 = d_parameters
    d_biases = (None if b is None else d for b, d in ((saved_b_l1, d_b_l1), (saved_b_r1, d_b_r1)))
    return (d_dy, d_x, None, None, *d_weights, *d_biases, None, *(None for _ in ctx.options))


def register() -> None:
    """Attach fake kernels and autograd to the operators that the library ``_C`` declares."""
    torch.library.register_fake("gcn_kernels::gcn", _gcn_fake)
    torch.library.register_fake("gcn_kernels::gcn_backward", _gcn_backward_fake)
    register_autograd(COMPILED)


def register_autograd(operators: Operators) -> None:
    """Attach both derivatives to a pair of operators."""
    torch.library.register_autograd(
        f"gcn_kernels::{operators.forward}",
        partial(_backward, operators),
        setup_context=partial(_save_for_backward, operators),
    )
    torch.library.register_autograd(
        f"gcn_kernels::{operators.backward}", _double_backward, setup_context=_save_for_double_backward
    )
