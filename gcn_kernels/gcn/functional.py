"""The operator as a function: check, cast, choose, call."""

import torch
from torch import Tensor

from gcn_kernels import reference
from gcn_kernels.core import backends
from gcn_kernels.core.checks import check_same, is_channels_last, tracing_state, untraced
from gcn_kernels.core.operator import autocast
from gcn_kernels.gcn import choice, problem
from gcn_kernels.gcn.spec import GCN, TRITON_GCN


def fused_gcn(
    x: Tensor,
    w_l1: Tensor,
    w_l2: Tensor,
    w_r1: Tensor,
    w_r2: Tensor,
    b_l1: Tensor | None = None,
    b_l2: Tensor | None = None,
    b_r1: Tensor | None = None,
    b_r2: Tensor | None = None,
    *,
    backend: str = "auto",
    algo: str = "auto",
) -> Tensor:
    """Global convolution: two large separable convolutions over the same map, summed.

    Equal to (see :func:`gcn_kernels.reference.gcn`)::

        u_l = conv2d(x, w_l1, b_l1)      # k x 1        u_r = conv2d(x, w_r1, b_r1)      # 1 x k
        y   = conv2d(u_l, w_l2, b_l2)    # 1 x k    +         conv2d(u_r, w_r2, b_r2)    # k x 1

    with stride 1 and zero padding that keeps the size, computed as one operator with its own backward pass.
    On a GPU, float32 is computed as PyTorch's switch for convolutions says (``torch.backends.cudnn.conv.fp32_precision``).

    Args:
        x: map, [N, C, H, W] or [C, H, W], any strides. N may be 0.
        w_l1: [M_l, C, k1, 1]
        w_l2: [O, M_l, 1, k2]
        w_r1: [M_r, C, 1, k3]
        w_r2: [O, M_r, k4, 1]; every k is odd and may exceed the map.
        b_l1: [M_l] or None. Added before the second convolution pads with zeros, as in the paper's network.
        b_l2: [O] or None.
        b_r1: [M_r] or None.
        b_r2: [O] or None.
        backend: ``"auto"``, or one of ``"cpu"``, ``"cuda"``, ``"triton"``, ``"torch"``, which then runs or raises.
        algo: algorithm of the CPU kernels, ``"auto"`` (the faster one for each problem and pass), ``"direct"`` or ``"fft"``.
            With ``backend="auto"`` too, a block is left to PyTorch's convolutions where these are predicted to be the faster
            choice (see :meth:`gcn_kernels.FusedGCN.plan`); graphs of ``torch.compile`` hold the operator.

    Returns:
        [N, O, H, W] (or [O, H, W]) in the dtype of ``x``, channels_last where ``conv2d`` would give that.

    Raises:
        TypeError: an argument is not a dense tensor of float32, float64, bfloat16 or float16.
        ValueError: sizes that do not form a block; an unknown backend or algorithm.
        RuntimeError: mixed dtypes (outside autocast) or devices; a backend that cannot run here.

    Example:
        >>> x = torch.randn(1, 256, 32, 32)
        >>> w = [torch.randn(s) * 0.01 for s in [(21, 256, 15, 1), (21, 21, 1, 15), (21, 256, 1, 15), (21, 21, 15, 1)]]
        >>> fused_gcn(x, *w).shape
        torch.Size([1, 21, 32, 32])

    Source: Peng, Zhang, Yu, Luo, Sun, *Large Kernel Matters*, CVPR 2017, section 3.1 and figure 2 B.
    """
    weights, biases = (w_l1, w_l2, w_r1, w_r2), (b_l1, b_l2, b_r1, b_r2)
    known = choice.recall(x, weights, biases) if backend == algo == "auto" else None
    if known:
        return choice.convolutions(x, weights, biases)
    if known is None:
        if tracing_state():
            untraced(problem.check, x, weights, biases)
        else:
            problem.check(x, weights, biases)
    device_type = x.device.type
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        with torch.autocast(device_type, enabled=False):
            dtype = torch.get_autocast_dtype(device_type)
            cast_weights = tuple(autocast(dtype, w) for w in weights)
            cast_biases = tuple(None if b is None else autocast(dtype, b) for b in biases)
            return _run(autocast(dtype, x), cast_weights, cast_biases, backend, algo)
    return _run(x, weights, biases, backend, algo, checked=known is not None)


def _run(
    x: Tensor,
    weights: tuple[Tensor, ...],
    biases: tuple[Tensor | None, ...],
    backend: str,
    algo: str,
    *,
    checked: bool = False,
) -> Tensor:
    if not checked:
        check_same(x, (*problem.WEIGHTS, *problem.BIASES), (*weights, *biases))
    chosen = backends.choose_dense(backend, algo, x)
    if chosen == "cpu" and backend == algo == "auto" and not checked and choice.choose(x, weights, biases):
        chosen = "torch"
    if chosen == "torch":
        return reference.gcn(x, *weights, *biases)
    batch = x if x.dim() == 4 else x.unsqueeze(0)
    # The sum of two convolutions takes the layout of its left operand, or NCHW where the result's memory would be both.
    channels_last = untraced(_gives_channels_last, batch, weights) if tracing_state() else _gives_channels_last(batch, weights)
    tensors, tf32 = (batch, *weights, *biases), backends.allow_tf32()
    if chosen == "triton":
        y = TRITON_GCN(tensors, (channels_last, tf32))
    else:
        y = GCN(tensors, (channels_last, not _trains(weights), tf32, algo))
    return y if x.dim() == 4 else y.squeeze(0)


def _gives_channels_last(batch: Tensor, weights: tuple[Tensor, ...]) -> bool:
    out_channels, (height, width) = weights[1].shape[0], batch.shape[2:]
    both = out_channels == 1 or (height == 1 and width == 1)
    return not both and any(is_channels_last(t) for t in (batch, weights[0], weights[1]))


def _trains(weights: tuple[Tensor, ...]) -> bool:
    """Whether the weights are being trained and will be others in the next call. What torch.jit traces holds no trace of that."""
    if not torch.is_grad_enabled() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    return any(w.requires_grad for w in weights)
