"""The same match where a graph is made of the forward: under ``torch.compile`` and strict export.

Dynamo traces the mode below. Every convolution is traced as it is; where a sum completes a block, the operator is traced in its
place, and the convolutions that nobody reads any more fall out of the graph. What reads one of them still finds it there. Between
the first convolution and the sum nothing else may have been traced, as in :mod:`gcn_kernels.swap.scope`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gcn_kernels.core.checks import DTYPES
from gcn_kernels.gcn.functional import fused_gcn


class GraphScope(TorchFunctionMode):
    """The time in which the forward of a converted module is traced."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend = backend
        #: Of every convolution: its result, its axis, x, the parameters of the chain up to it, the modes.
        self.known: list[tuple[Any, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Trace ``func``, or the operator in the place of the sum that completes a block."""
        kwargs = kwargs or {}
        if func is torch.conv2d and len(args) == 7 and not kwargs:
            result = func(*args)
            self._note(result, *args)
            return result
        # A sum in place is left as it is: its target has other readers in the graph.
        if (func is Tensor.add or func is torch.add) and len(args) == 2 and not kwargs:
            left = self._find(args[0])
            if left is not None and type(args[1]) is int and args[1] == 0:
                result = func(*args)
                self.known.append((result, *left[1:]))
                return result
            right = self._find(args[1])
            if left is not None and right is not None and self._is_block(left, right):
                first, second = (left, right) if left[1] == 1 else (right, left)
                (w_l1, b_l1, w_l2, b_l2), (w_r1, b_r1, w_r2, b_r2) = first[3], second[3]
                self.known = []
                return fused_gcn(left[2], w_l1, w_l2, w_r1, w_r2, b_l1, b_l2, b_r1, b_r2, backend=self.backend)
        self.known = []
        return func(*args, **kwargs)

    def _find(self, t: Any) -> tuple[Any, ...] | None:
        for entry in self.known:
            if entry[0] is t:
                return entry
        return None

    def _note(
        self, result: Tensor, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any
    ) -> None:
        kh, kw = weight.shape[2], weight.shape[3]
        plain = stride == (1, 1) and dilation == (1, 1) and groups == 1 and (kh == 1) != (kw == 1) and kh % 2 == 1 and kw % 2 == 1
        if not plain or (padding != "same" and padding != (kh // 2, kw // 2)) or x.dim() != 4:
            return
        if type(x) is not Tensor or x.dtype not in DTYPES or x.is_meta or type(weight) not in (Tensor, nn.Parameter):
            return
        axis, modes = 0 if kw == 1 else 1, _modes(x)
        before = self._find(x)
        if before is None:
            self.known.append((result, axis, x, (weight, bias), modes))
        elif len(before[3]) == 2 and before[1] != axis and before[4] == modes:
            self.known.append((result, axis, before[2], (*before[3], weight, bias), modes))

    def _is_block(self, left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
        chains = len(left[3]) == 4 and len(right[3]) == 4 and left[1] != right[1]
        sizes = chains and left[3][2].shape[0] == right[3][2].shape[0]
        return sizes and left[2] is right[2] and left[4] == right[4] == _modes(left[2])


def _modes(x: Tensor) -> tuple[Any, ...]:
    kind = x.device.type
    autocast = torch.is_autocast_enabled(kind)
    return torch.is_grad_enabled(), torch.get_autocast_dtype(kind) if autocast else None
