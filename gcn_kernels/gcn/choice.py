"""The choice between the CPU's kernels and PyTorch's own convolutions, remembered for each form of arguments.

Which is faster depends on nothing but the form of the arguments: shapes, dtypes, devices, layouts, and whether a gradient is
recorded. Whether they form a block at all does so too. Both are therefore found out once for each form: between convolutions that
push it out of the caches, Python takes tens of microseconds for the checks alone, which a small block would feel.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from gcn_kernels.core import backends, operator

#: Forms are forgotten all at once when there are this many.
MOST_FORMS = 1024
_remembered: dict[tuple[object, ...], bool] = {}


def recall(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> bool | None:
    """Whether PyTorch's convolutions are the choice for arguments of a form that was remembered; None for any other.

    Nothing is recalled where a graph is made, which holds the operator itself and so stays right for other sizes; under
    autocast, where the dtype of the arguments is not that of the computation; and under transforms of ``torch.func``.
    """
    if torch.compiler.is_compiling() or type(x) is not Tensor:
        return None
    if torch._C._get_tracing_state() is not None or torch.is_autocast_enabled("cpu"):
        return None
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return None
    try:
        return _remembered.get(_form(x, weights, biases))
    except AttributeError:  # something that is no tensor, which the checks will name
        return None


def choose(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> bool:
    """Whether PyTorch's convolutions are predicted to be the faster choice for checked arguments, which is remembered."""
    graph = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    if graph or type(x) is not Tensor or x.device.type != "cpu" or x.numel() == 0:
        return False
    form = _form(x, weights, biases)
    if form not in _remembered:
        if len(_remembered) >= MOST_FORMS:
            _remembered.clear()
        _remembered[form] = prefers_torch(x, weights, operator.records((x, *weights, *biases)))
    return _remembered[form]


def convolutions(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    """The definition (:func:`gcn_kernels.reference.gcn`) for a form that was recalled: the branches are summed in place."""
    w_l1, w_l2, w_r1, w_r2 = weights
    b_l1, b_l2, b_r1, b_r2 = biases
    left = conv2d(conv2d(x, w_l1, b_l1, padding=(w_l1.shape[2] // 2, 0)), w_l2, b_l2, padding=(0, w_l2.shape[3] // 2))
    right = conv2d(conv2d(x, w_r1, b_r1, padding=(0, w_r1.shape[3] // 2)), w_r2, b_r2, padding=(w_r2.shape[2] // 2, 0))
    # No convolution keeps its result for its backward pass. A subclass of Tensor may not know how to add in place.
    return left.add_(right) if type(left) is Tensor else left + right


def prefers_torch(x: Tensor, weights: Sequence[Tensor], training: bool) -> bool:
    """Ask the cost model about ``x`` [N, C, H, W] or [C, H, W], for inference or for a training step."""
    batch = x if x.dim() == 4 else x.unsqueeze(0)
    channels_last = any(t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous() for t in (batch, weights[0]))
    sizes = backends.block_sizes(batch.shape, weights)
    dtype = str(x.dtype).removeprefix("torch.")
    return bool(torch.ops.gcn_kernels.cpu_prefers_torch(sizes, dtype, channels_last, training))


def _form(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> tuple[object, ...]:
    tensors = (x, *weights, *biases)
    return (
        operator.records(tensors),
        x.stride(),
        weights[0].stride(),
        *[None if t is None else (t.shape, t.dtype, t.device, t.layout) for t in tensors],
    )
