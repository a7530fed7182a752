"""Shapes (fake kernels) and derivatives of the compiled operators, shared by every device they are registered for.

``gcn`` returns the two middle maps beside its result. They are what the backward pass needs besides the inputs: 2M channels
next to C. To autograd they are an opaque cache, so ``gcn_backward`` is treated as a function of (dy, x, weights, biases)
and its own derivative is taken through the definition in :mod:`gcn_kernels.reference`.
"""

from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from gcn_kernels import reference

#: The middle maps are kept in the type that the arithmetic is done in.
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
    algo: str,
) -> tuple[Tensor, Tensor, Tensor]:
    n, _, h, w = x.shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    y = torch.empty((n, w_l2.shape[0], h, w), dtype=x.dtype, device=x.device, memory_format=layout)
    middle = ACCUMULATE[x.dtype]
    return (
        y,
        x.new_empty((n, w_l1.shape[0], h, w), dtype=middle),
        x.new_empty((n, w_r1.shape[0], h, w), dtype=middle),
    )


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
    algo: str,
) -> tuple[Tensor, ...]:
    like = [torch.empty_like(t) for t in (x, w_l1, w_l2, w_r1, w_r2)]
    like += [w.new_empty(w.shape[0]) for w in (w_l1, w_l2, w_r1, w_r2)]
    return tuple(t if wanted >> i & 1 else x.new_empty(0) for i, t in enumerate(like))


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, w_l1, w_l2, w_r1, w_r2, b_l1, _, b_r1, *_, algo = inputs
    _, u_l, u_r = output
    ctx.mark_non_differentiable(u_l, u_r)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, u_l, u_r, w_l1, w_l2, w_r1, w_r2, b_l1, b_r1)
    ctx.algo = algo


def _backward(ctx: Any, dy: Tensor | None, du_l: None = None, du_r: None = None) -> tuple[Tensor | None, ...]:
    wanted = sum(1 << i for i, needed in enumerate(ctx.needs_input_grad[:9]) if needed)
    if dy is None or not wanted:
        return (None,) * 12
    grads = torch.ops.gcn_kernels.gcn_backward.default(dy, *ctx.saved_tensors, wanted, ctx.algo)
    return (*(g if wanted >> i & 1 else None for i, g in enumerate(grads)), None, None, None)


class _Recorded(torch.autograd.Function):
    """The operator for eager autograd: the same formula as the registered one, reached in half the time.

    The dispatcher's way to a Python autograd formula costs about 80 us a call, as much as a small block's convolutions.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            output = torch.ops.gcn_kernels.gcn.default(*inputs)
        _save_for_backward(ctx, inputs, output)
        y: Tensor = output[0]
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return _backward(ctx, *grads)


def gcn(tensors: Sequence[Tensor | None], channels_last: bool, algo: str) -> Tensor:
    """Call ``gcn_kernels::gcn`` and return y, recording a gradient where one is needed.

    Args:
        tensors: x [N, C, H, W], the four weights and the four biases.
        channels_last: the layout of y.
        algo: algorithm of the kernels.
    """
    recording = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    # A graph that outlives this call holds the operator itself, and one that torch.jit traces no trace of the grad mode.
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    eager = not traced and not torch.compiler.is_compiling()
    # A weight that is being trained will be another one in the next call.
    training = recording and not traced and any(t is not None and t.requires_grad for t in tensors[1:5])
    inputs = (*tensors, channels_last, not training, algo)
    if recording and eager:
        y: Tensor = _Recorded.apply(*inputs)  # type: ignore[no-untyped-call]
    else:
        y = torch.ops.gcn_kernels.gcn.default(*inputs)[0]
    return y


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    dy, x, _, _, w_l1, w_l2, w_r1, w_r2, b_l1, b_r1, wanted, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(dy, x, w_l1, w_l2, w_r1, w_r2, b_l1, b_r1)
    ctx.wanted = wanted


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
            return (None,) * 12
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
    return (d_dy, d_x, None, None, *d_weights, *d_biases, None, None)


def register() -> None:
    """Attach fake kernels and autograd to the operators that the library ``_C`` declares."""
    torch.library.register_fake("gcn_kernels::gcn", _gcn_fake)
    torch.library.register_fake("gcn_kernels::gcn_backward", _gcn_backward_fake)
    torch.library.register_autograd("gcn_kernels::gcn", _backward, setup_context=_save_for_backward)
    torch.library.register_autograd("gcn_kernels::gcn_backward", _double_backward, setup_context=_save_for_double_backward)
