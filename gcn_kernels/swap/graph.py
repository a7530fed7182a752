"""The same match where a graph is made of the forward, under ``torch.compile``.

Dynamo traces the mode below. Every convolution and ReLU is traced as it is, a depthwise convolution as the operator for the
chain that ends with it, a transposed one as the operator for it; where a sum completes a block, a refinement or strips, the
operator is traced in its place. What nobody reads any more falls out of the graph, and what reads a result in between still finds
it there. Between the first convolution and the sum nothing else may have been traced, as in :mod:`gcn_kernels.swap.scope`.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gcn_kernels.core.checks import DTYPES
from gcn_kernels.gcn.functional import fused_gcn
from gcn_kernels.refine.functional import fused_refine
from gcn_kernels.strips.functional import fused_strips
from gcn_kernels.swap.rules import arrange
from gcn_kernels.swap.steps import doubles, keeps_size_depthwise, keeps_size_square
from gcn_kernels.upsample.functional import fused_upsample


class GraphScope(TorchFunctionMode):
    """The time in which the forward of a converted module is traced."""

    def __init__(self, backend: str, families: Iterable[str] = ("gcn",)) -> None:
        super().__init__()
        self.backend, self.families = backend, tuple(families)
        #: Of every convolution: its result, its axis, x, the parameters of the chain up to it, the modes.
        self.known: list[tuple[Any, ...]] = []
        #: Of every result of depthwise convolutions: itself, the map, the chains of steps (number, input, weight, bias,
        #: dilation) that are summed, the modes.
        self.strips: list[tuple[Any, ...]] = []
        #: Of every 3 x 3 convolution, and of the ReLU of one: its result, x, the parameters of the chain up to it, whether it is
        #: a ReLU, the modes.
        self.squares: list[tuple[Any, ...]] = []
        self.steps = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Trace ``func``, or the operator in the place of the sum that completes a block."""
        kwargs = kwargs or {}
        if func is torch.conv2d and len(args) == 7 and not kwargs:
            strips = self._depthwise(*args) if "strips" in self.families else None
            if strips is not None:
                return strips
            result = func(*args)
            if "refine" in self.families and self._note_square(result, *args):
                self.known, self.strips = [], []
            elif "gcn" in self.families and self._note(result, *args):
                self.squares = []
            else:
                self.strips, self.squares = [], []
            return result
        if func in _RELU:
            result = func(*args, **kwargs)
            squares = self._rectified(result, args[0], func in _IN_PLACE or bool(kwargs.get("inplace")))
            self.known, self.strips, self.squares = [], [], squares
            return result
        if func is torch.conv_transpose2d and not kwargs and "upsample" in self.families:
            self.known, self.strips, self.squares = [], [], []
            return self._doubled(*args)
        if (func is Tensor.add_ or func is Tensor.__iadd__) and len(args) == 2 and not kwargs:
            total = self._total(*args)
            if total is not None:
                # Whoever else has the left operand reads the sum in it.
                # Where it is the map that was summed over, nothing is known of the map that it is now.
                sums = [entry for entry in self.strips if entry[0] is total and entry[1] is not args[0]]
                left = args[0].copy_(total)
                self.known, self.strips, self.squares = [], [(left, *entry[1:]) for entry in sums], []
                return left
        if (func is Tensor.add or func is torch.add) and len(args) == 2 and not kwargs:
            left = self._find(args[0])
            if left is not None and type(args[1]) is int and args[1] == 0:
                result = func(*args)
                self.known.append((result, *left[1:]))
                return result
            total = self._total(*args)
            if total is not None:
                return total
        self.known, self.strips, self.squares = [], [], []
        return func(*args, **kwargs)

    def _total(self, first: Any, second: Any) -> Any:
        """The operator in the place of a sum, or None."""
        left, right = self._find(first), self._find(second)
        if left is not None and right is not None and self._is_block(left, right):
            if left[1] == 0:
                left, right = right, left
            (w_l1, b_l1, w_l2, b_l2), (w_r1, b_r1, w_r2, b_r2) = left[3], right[3]
            self.known, self.squares = [], []
            return fused_gcn(left[2], w_l1, w_l2, w_r1, w_r2, b_l1, b_l2, b_r1, b_r2, backend=self.backend)
        if (total := self._refined(first, second)) is not None or (total := self._refined(second, first)) is not None:
            self.known, self.strips, self.squares = [], [], []
            return total
        return self._sum(first, second)

    def _note_square(
        self, result: Tensor, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any
    ) -> bool:
        if not keeps_size_square(weight, stride, padding, dilation, groups) or not _is_plain(x, weight):
            return False
        modes = _modes(x)
        self.squares.append((result, x, (weight, bias), False, modes))
        for t, start, parameters, rectified, then in self.squares:
            if t is x and rectified and then == modes:
                self.squares.append((result, start, (*parameters, weight, bias), False, modes))
                break
        return True

    def _rectified(self, result: Tensor, source: Any, in_place: bool) -> list[tuple[Any, ...]]:
        """What is known after the ReLU of ``source``: that of a convolution, and what was known before; else nothing."""
        # In place, what was computed of the map before is no function of the map that it is now.
        kept = [entry for entry in self.squares if not (in_place and (entry[0] is source or entry[1] is source))]
        for t, x, parameters, rectified, modes in self.squares:
            if t is source and len(parameters) == 2 and not rectified and modes == _modes(x):
                kept.append((result, x, parameters, True, modes))
                if in_place:
                    kept.append((source, x, parameters, True, modes))
                return kept
        return []

    def _refined(self, given: Any, end: Any) -> Any:
        """The operator for ``given`` plus ``end``, or None where that is no refinement."""
        for result, x, parameters, rectified, modes in self.squares:
            if result is end and x is given and len(parameters) == 4 and not rectified and modes == _modes(x):
                w1, b1, w2, b2 = parameters
                if modes[1] in (None, x.dtype) and w2.shape[0] == x.shape[1]:
                    return fused_refine(x, w1, w2, b1, b2, backend=self.backend)
        return None

    def _doubled(self, x: Any, weight: Any, bias: Any = None, *options: Any) -> Any:
        """A transposed convolution, as the operator where that computes it."""
        how: Any = (*options, *(1, 0, 0, 1, 1)[len(options) :])
        stride, padding, more, groups, dilation = how
        doubled = _is_plain(x, weight) and doubles(weight, stride, padding, more, groups, dilation)
        if doubled and (_modes(x)[1] is not None or all(t is None or t.dtype == x.dtype for t in (weight, bias))):
            return fused_upsample(x, weight, bias, groups=groups, backend=self.backend)
        return torch.conv_transpose2d(x, weight, bias, *options)

    def _find(self, t: Any) -> tuple[Any, ...] | None:
        for entry in self.known:
            if entry[0] is t:
                return entry
        return None

    def _note(
        self, result: Tensor, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any
    ) -> bool:
        kh, kw = weight.shape[2], weight.shape[3]
        plain = stride == (1, 1) and dilation == (1, 1) and groups == 1 and (kh == 1) != (kw == 1) and kh % 2 == 1 and kw % 2 == 1
        if not plain or (padding != "same" and padding != (kh // 2, kw // 2)) or x.dim() != 4:
            return False
        if not _is_plain(x, weight):
            return False
        axis, modes = 0 if kw == 1 else 1, _modes(x)
        before = self._find(x)
        if before is None:
            self.known.append((result, axis, x, (weight, bias), modes))
        elif len(before[3]) == 2 and before[1] != axis and before[4] == modes:
            self.known.append((result, axis, before[2], (*before[3], weight, bias), modes))
        return True

    def _depthwise(self, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> Any:
        """The operator for the chain that ends with this convolution, or None where it is not of strips."""
        pair = keeps_size_depthwise(weight, stride, padding, dilation, groups)
        if pair is None or not _is_plain(x, weight) or x.shape[1] != groups:
            return None
        modes = _modes(x)
        if modes[1] is None and (weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype)):
            return None
        self.steps += 1
        step, before = (self.steps, x, weight, bias, pair), self._strips_of(x)
        if before is None or len(before[2]) != 1 or before[3] != modes:
            root, chain = x, [step]
        else:
            root, chain = before[1], [*before[2][0], step]
        result = self._fused(root, None, [chain], False)
        self.strips.append((result, root, [chain], modes))
        return result

    def _sum(self, left: Any, right: Any) -> Any:
        """The operator for the sum of two results of depthwise convolutions, or of one and their map; or None."""
        a, b = self._strips_of(left), self._strips_of(right)
        if a is None and b is not None and b[1] is left and b[3][1] is None:
            a = (left, left, [[]], b[3])
        if b is None and a is not None and a[1] is right and a[3][1] is None:
            b = (right, right, [[]], a[3])
        if a is None or b is None or a[1] is not b[1] or not a[3] == b[3] == _modes(a[1]):
            return None
        chains = [*a[2], *b[2]]
        numbers = arrange([[step[0] for step in chain] for chain in chains])
        if numbers is None:
            return None
        stem, _, skip = numbers
        steps = {step[0]: step for chain in chains for step in chain}
        branches = [[steps[number] for number in branch] for branch in numbers[1]]
        result = self._fused(a[1] if stem is None else steps[stem][1], None if stem is None else steps[stem], branches, skip)
        self.strips.append((result, a[1], chains, a[3]))
        return result

    def _fused(self, x: Any, stem: Any, branches: list[list[Any]], skip: bool) -> Any:
        chains = [[step[2:] for step in branch] for branch in branches]
        return fused_strips(x, chains, stem=None if stem is None else stem[2:], skip=skip, backend=self.backend)

    def _strips_of(self, t: Any) -> tuple[Any, ...] | None:
        for entry in self.strips:
            if entry[0] is t:
                return entry
        return None

    def _is_block(self, left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
        chains = len(left[3]) == 4 and len(right[3]) == 4 and left[1] != right[1]
        sizes = chains and left[3][2].shape[0] == right[3][2].shape[0]
        return sizes and left[2] is right[2] and left[4] == right[4] == _modes(left[2])


#: The ReLU, and what of it changes its argument.
_IN_PLACE = (torch.relu_, Tensor.relu_)
_RELU = (F.relu, torch.relu, Tensor.relu, *_IN_PLACE)


def _is_plain(x: Any, weight: Any) -> bool:
    """Whether a map and a weight are tensors that the operators take."""
    if type(x) is not Tensor or x.dim() != 4 or x.dtype not in DTYPES or x.is_meta:
        return False
    return type(weight) in (Tensor, nn.Parameter)


def _modes(x: Tensor) -> tuple[Any, ...]:
    kind = x.device.type
    autocast = torch.is_autocast_enabled(kind)
    return torch.is_grad_enabled(), torch.get_autocast_dtype(kind) if autocast else None
