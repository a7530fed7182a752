"""Floating-point operations of the operators, for ``torch.utils.flop_counter``.

That module takes seconds to import, so its formulas are registered when somebody else has imported it.
"""

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch


def register_if_counted() -> None:
    """Register the formulas, once the counter is there to read them."""
    if "torch.utils.flop_counter" in sys.modules:
        _register()


def gcn_flops(x: Sequence[int], *weights: Sequence[int]) -> int:
    """Operations of the four convolutions that the block stands for, two to a multiplication with its sum.

    Args:
        x: shape [N, C, H, W].
        weights: shapes of ``w_l1, w_l2, w_r1, w_r2``.

    Example:
        >>> gcn_flops((1, 6, 9, 8), (3, 6, 5, 1), (3, 3, 1, 5), (3, 6, 1, 5), (3, 3, 5, 1))
        38880
    """
    pixels = x[0] * x[2] * x[3]
    return sum(2 * pixels * w[0] * w[1] * w[2] * w[3] for w in weights)


@cache
def _register() -> None:
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
    from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

    def forward(x: Any, w_l1: Any, w_l2: Any, w_r1: Any, w_r2: Any, *_: Any, **__: Any) -> int:
        return gcn_flops(x, w_l1, w_l2, w_r1, w_r2)

    def backward(*arguments: Any, **_: Any) -> int:
        _, x, _, _, w_l1, w_l2, w_r1, w_r2, _, _, wanted = arguments[:11]
        weights = (w_l1, w_l2, w_r1, w_r2)
        # Bits of wanted: x, the four weights, the four biases. The gradient of u_l is needed for x, w_l1 and b_l1.
        computed = [w for i, w in enumerate(weights) if wanted >> (i + 1) & 1]
        computed += [w for w, needed in ((w_l2, 0b000100011), (w_r2, 0b010001001)) if wanted & needed]
        computed += [w_l1, w_r1] if wanted & 1 else []
        return gcn_flops(x, *computed)

    operators: Any = torch.ops.gcn_kernels
    counted = []
    for name in ("gcn", "triton_gcn"):
        if hasattr(operators, name):
            counted += [getattr(operators, name), getattr(operators, f"{name}_backward")]
            register_flop_formula(counted[-2])(forward)
            register_flop_formula(counted[-1])(backward)
    # A counter that is counting already has a copy of the formulas.
    for mode in _get_current_dispatch_mode_stack():
        if isinstance(counter := getattr(mode, "counter", None), FlopCounterMode):
            counter.flop_registry.update({operator: flop_registry[operator] for operator in counted})
