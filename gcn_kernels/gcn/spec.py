"""The specification of the global convolution: its operators, the shapes of their results, their definition.

There are two pairs: ``gcn`` and ``gcn_backward``, compiled, and ``triton_gcn`` and ``triton_gcn_backward``. The middle maps u_l
and u_r are what the backward pass needs besides the inputs: 2M channels next to C.
"""

import torch
from torch import Tensor

from gcn_kernels import reference
from gcn_kernels.core.operator import Operator

#: On a CPU the middle maps are kept in the type that the arithmetic is done in.
ACCUMULATE = {
    torch.float64: torch.float64,
    torch.float32: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}
_WEIGHTS = "Tensor w_l1, Tensor w_l2, Tensor w_r1, Tensor w_r2"
_FORWARD = f"Tensor x, {_WEIGHTS}, Tensor? b_l1, Tensor? b_l2, Tensor? b_r1, Tensor? b_r2, bool channels_last"
_BACKWARD = f"Tensor dy, Tensor x, Tensor u_l, Tensor u_r, {_WEIGHTS}, Tensor? b_l1, Tensor? b_r1, int wanted"
_MAPS = "(Tensor, Tensor, Tensor)"
_GRADIENTS = "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
_VECTORS = {"b_l1": ("w_l1", 0), "b_l2": ("w_l2", 0), "b_r1": ("w_r1", 0), "b_r2": ("w_r2", 0)}


def _fake(
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


GCN = Operator(
    schema=f"gcn_kernels::gcn({_FORWARD}, bool cache_weights, bool allow_tf32, str algo) -> {_MAPS}",
    backward_schema=f"gcn_kernels::gcn_backward({_BACKWARD}, bool allow_tf32, str algo) -> {_GRADIENTS}",
    results=("y", "u_l", "u_r"),
    definition=reference.gcn,
    fake=_fake,
    vectors=_VECTORS,
    backends=("cpu", "cuda"),
)

#: Declared, with their shapes, by :mod:`gcn_kernels.triton`.
TRITON_GCN = Operator(
    schema=f"gcn_kernels::triton_gcn({_FORWARD}, bool allow_tf32) -> {_MAPS}",
    backward_schema=f"gcn_kernels::triton_gcn_backward({_BACKWARD}, bool allow_tf32) -> {_GRADIENTS}",
    results=("y", "u_l", "u_r"),
    definition=reference.gcn,
    vectors=_VECTORS,
    backends=("triton",),
)
