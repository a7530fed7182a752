"""What makes an expression longer: the calls of PyTorch that may wait, and when they may."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcn_kernels.core.checks import DTYPES
from gcn_kernels.swap.expression import (
    Convolution,
    Counter,
    Depthwise,
    Expression,
    Given,
    Padding,
    Rectified,
    Square,
    Step,
    Sum,
    Weighted,
    ZeroAdded,
    autocast_dtype,
    modes_for,
)
from gcn_kernels.swap.pending import Pending, aside, at_home, values_in
from gcn_kernels.swap.rules import BATCHNORM, RULES, chain, doubling
from gcn_kernels.upsample.spec import SIZES

#: What was seen, whatever has been put in its place since.
_batch_norm = F.batch_norm
_PLAIN = (Tensor, nn.Parameter)
_ONES = (1, (1, 1), [1, 1])
#: Depthwise kernels that are longer than this along both axes are no strips.
LARGEST_SQUARE = 11


class Waiting(Counter, Protocol):
    """The scope, as seen from here."""

    backend: str
    trial: bool
    families: frozenset[str]
    waiting: list[Any]

    def wait(self, node: Any, size: Any, dtype: torch.dtype, inputs: Any) -> Tensor:
        """The pending tensor for ``node``."""
        ...


def _source(input: Any) -> Tensor | Step | None:
    """What a step that reads ``input`` continues, or None where nothing waits for it."""
    if type(input) is Pending:
        node = input.__dict__["node"]
        if node.result is not None:
            value: Tensor = values_in(input)
            return value
        return node if isinstance(node, Step) and at_home(input) else None
    return input if type(input) is Tensor else None


def _padding(scope: Waiting, input: Any, pad: Any, mode: str = "constant", value: Any = None) -> Tensor | None:
    """Zeros on both sides alike, as a convolution that follows may want them, or None."""
    source, pads = _source(input), tuple(pad)
    if source is None or isinstance(source, Padding) or mode != "constant" or value not in (None, 0) or len(pads) != 4:
        return None
    left, right, top, bottom = pads
    if left != right or top != bottom or left < 0 or top < 0:
        return None
    if (left > 0) == (top > 0) and not left == top == 1:
        return None
    modes = modes_for(source if isinstance(source, Tensor) else source.x)
    if not (takes(source, scope.trial) if isinstance(source, Tensor) else modes == source.modes):
        return None
    n, c, h, w = input.shape if isinstance(source, Tensor) else source.size
    return scope.wait(Padding(source, modes, pads), (n, c, h + 2 * top, w + 2 * left), input.dtype, (input,))


def _convolution(
    scope: Waiting,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> Tensor | None:
    """A convolution that waits, or None where it is not one that a rule could use."""
    source: Any = _source(input)
    if source is None or type(weight) not in _PLAIN:
        return None
    if groups != 1:
        return _depthwise(scope, input, source, weight, bias, stride, padding, dilation, groups)
    follows = isinstance(source, Step)
    pads = source.pads if type(source) is Padding else None
    first = source if pads is None else source.source
    axis = None
    if keeps_size_square(weight, stride, padding, dilation, groups, pads):
        # The first of a refinement reads a map, the second the ReLU of the first.
        if "refine" not in scope.families or not (type(first) is Rectified or isinstance(first, Tensor)):
            return None
    else:
        axis = line_axis(weight, stride, padding, dilation, groups, pads)
        if "gcn" not in scope.families or axis is None or type(first) in (Depthwise, Square, Rectified):
            return None
        if type(first) is Convolution and (first.axis == axis or isinstance(first.before, Step)):
            return None
    x = source.x if follows else source
    modes = modes_for(x)
    if (modes != source.modes if follows else not takes(x, scope.trial)) or not go_together(x, weight, bias, modes[2]):
        return None
    n, channels, h, w = source.size if follows else x.shape
    out, reads, kh, kw = weight.shape
    if channels != reads:
        return None
    if pads is not None:
        h, w = h - kh + 1, w - kw + 1
    dtype = x.dtype if modes[2] is None else modes[2]
    rest = (weight, bias, stride, padding, dilation, groups)
    node = Square(source, modes, rest) if axis is None else Convolution(source, modes, rest, axis)
    return scope.wait(node, (n, out, h, w), dtype, (input, weight, bias))


def _depthwise(
    scope: Waiting,
    input: Any,
    source: Tensor | Step,
    weight: Tensor,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
) -> Tensor | None:
    pair = keeps_size_depthwise(weight, stride, padding, dilation, groups)
    if pair is None or "strips" not in scope.families:
        return None
    follows = type(source) is Depthwise
    if isinstance(source, Step) and not follows:
        return None
    x = source.x if isinstance(source, Step) else source
    if not (follows or takes(x, scope.trial)):
        return None
    size = source.size if isinstance(source, Step) else tuple(x.shape)
    autocast = source.modes[2] if isinstance(source, Step) else autocast_dtype(x)
    if size[1] != groups or not go_together(x, weight, bias, autocast):
        return None
    modes = modes_for(x)
    if isinstance(source, Step) and modes != source.modes:
        return None
    node = Depthwise(source, modes, (weight, bias, stride, padding, dilation, groups), pair)
    node.rule, node.backend, node.counter = chain, scope.backend, scope
    return scope.wait(node, size, x.dtype if autocast is None else autocast, (input, weight, bias))


def keeps_size_depthwise(weight: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> tuple[int, int] | None:
    """(dh, dw) of a depthwise convolution, with a kernel that strips may have, that keeps the size; None for any other."""
    if weight.dim() != 4 or weight.shape[:2] != (groups, 1) or groups == 1 or stride not in _ONES:
        return None
    _, _, kh, kw = weight.shape
    if not kh & kw & 1 or max(kh, kw) < 3 or min(kh, kw) > LARGEST_SQUARE:
        return None
    pair = (dilation, dilation) if type(dilation) is int else tuple(dilation)
    if len(pair) != 2:
        return None
    dh, dw = pair
    same = (dh * (kh // 2), dw * (kw // 2))
    keeps = padding == "same" or (type(padding) in (tuple, list) and tuple(padding) == same)
    keeps = keeps or (type(padding) is int and (padding, padding) == same)
    return (int(dh), int(dw)) if keeps else None


def keeps_size_square(
    weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: Any, pads: tuple[int, ...] | None = None
) -> bool:
    """Whether this is a 3 x 3 convolution that keeps the size, after ``pads`` if there are any."""
    if weight.dim() != 4 or weight.shape[2:] != (3, 3) or groups != 1 or stride not in _ONES or dilation not in _ONES:
        return False
    if pads is not None:
        return pads == (1, 1, 1, 1) and padding in (0, (0, 0), [0, 0])
    return padding == "same" or padding in _ONES


def _normalised(
    scope: Waiting,
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: Any = False,
    momentum: Any = 0.1,
    eps: Any = 1e-5,
) -> Tensor | None:
    """The normalisation of a convolution that waits, by statistics that stay as they are, where that is to be folded; or None."""
    node = _term(input)
    if BATCHNORM not in scope.families or training is not False or not isinstance(node, Weighted) or node.normalises:
        return None
    given = running_mean, running_var, weight, bias
    if not node.untouched or modes_for(node.x) != node.modes or not can_fold(node.size[1], input, *given, eps):
        return None
    step = node.normalised((*given, training, momentum, eps))
    return scope.wait(step, node.size, input.dtype, (input, weight, bias))


def in_order(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments of a call as its function has them one after the other, where they came as ``F.batch_norm`` hands them on."""
    if func is _batch_norm and len(args) == 3 and tuple(kwargs) == ("weight", "bias", "training", "momentum", "eps"):
        return (*args, *kwargs.values()), {}
    return args, kwargs


def can_fold(channels: int, input: Tensor, mean: Any, variance: Any, gamma: Any, beta: Any, eps: Any) -> bool:
    """Whether PyTorch normalises a result like ``input`` by these, and folded weights are in the range of its dtype.

    In float16 they need not be: a small variance would make some infinite, a large one subnormal.
    """
    given = [mean, variance, *(t for t in (gamma, beta) if t is not None)]
    if any(type(t) not in _PLAIN or t.shape != (channels,) or t.device != input.device for t in given):
        return False
    if mean.requires_grad or variance.requires_grad:
        return False
    dtypes, dtype = {t.dtype for t in given}, input.dtype
    fits = dtypes == {dtype} or (dtype is torch.bfloat16 and dtypes == {torch.float32})
    return fits and dtype is not torch.float16 and type(eps) in (float, int) and eps >= 0


def _rectified(scope: Waiting, input: Any, inplace: bool = False) -> Tensor | None:
    """The ReLU of a 3 x 3 convolution that waits, or None."""
    node = _term(input)
    if type(node) is not Square or not node.untouched or modes_for(node.x) != node.modes:
        return None
    # The second of two is perhaps the first of the two that matter.
    if isinstance(node.before, Step) and not node.begin_chain():
        return None
    t = scope.wait(Rectified(node, node.modes), node.size, input.dtype, (input,))
    if inplace:
        _become(input, t)
    return t


def _rectified_in_place(scope: Waiting, input: Any) -> Tensor | None:
    return _rectified(scope, input, inplace=True)


def _transposed(
    scope: Waiting,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
) -> Tensor | None:
    """The result of a transposed convolution that doubles a map, once nothing waits; or None. It is the whole of its family."""
    if "upsample" not in scope.families or scope.waiting:
        return None
    x = _source(input)
    if not isinstance(x, Tensor) or not doubles(weight, stride, padding, output_padding, groups, dilation):
        return None
    out = weight.shape[1] * groups
    if not takes(x, scope.trial) or x.shape[1] != weight.shape[0] or not go_together(x, weight, bias, autocast_dtype(x), out):
        return None
    return scope.run(doubling(x, weight, bias, groups, scope.backend), None)


def doubles(weight: Any, stride: Any, padding: Any, output_padding: Any, groups: Any, dilation: Any) -> bool:
    """Whether a transposed convolution is one that :func:`gcn_kernels.fused_upsample` computes."""
    if weight.dim() != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] not in SIZES or dilation not in _ONES:
        return False
    kernel = weight.shape[2]
    if groups != 1 and (groups != weight.shape[0] or weight.shape[1] != 1):
        return False
    pairs = ((stride, 2), (padding, int(kernel > 2)), (output_padding, int(kernel == 3)))
    return all(value in (both, (both, both), [both, both]) for value, both in pairs)


def line_axis(
    weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: Any, pads: tuple[int, ...] | None = None
) -> int | None:
    """The axis (0: H, 1: W) of a convolution along one axis that keeps the size, after ``pads`` if there are any, or None."""
    if weight.dim() != 4 or groups != 1 or stride not in _ONES or dilation not in _ONES:
        return None
    _, _, kh, kw = weight.shape
    if (kh == 1) == (kw == 1) or not kh & kw & 1:
        return None
    if pads is not None:
        keeps = pads == (kw // 2, kw // 2, kh // 2, kh // 2) and padding in (0, (0, 0), [0, 0])
    else:
        keeps = padding == "same" or (type(padding) in (tuple, list) and tuple(padding) == (kh // 2, kw // 2))
    return (0 if kw == 1 else 1) if keeps else None


def takes(x: Tensor, trial: bool = False) -> bool:
    """Whether a step that reads ``x`` may wait; without data only in a trial."""
    if x.dim() != 4 or x.dtype not in DTYPES or x.layout is not torch.strided or x.is_neg():
        return False
    _, _, h, w = x.shape
    return (
        h > 0
        and w > 0
        and (trial or not x.is_meta)
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch.autograd.forward_ad._current_level < 0
    )


def go_together(x: Tensor, weight: Tensor, bias: Any, autocast: torch.dtype | None, out: int | None = None) -> bool:
    """Whether ``conv2d`` takes these together; a transposed convolution where its weight has ``out`` channels of the result."""
    device = x.device
    out = weight.shape[0] if out is None else out
    if type(weight) not in _PLAIN or weight.device != device or out == 0:
        return False
    if bias is not None and (type(bias) not in _PLAIN or bias.device != device or bias.shape != (out,)):
        return False
    if autocast is not None:
        return all(t is None or (t.dtype in DTYPES and t.dtype is not torch.float64) for t in (x, weight, bias))
    return weight.dtype is x.dtype and (bias is None or bias.dtype is x.dtype)


def _sum(scope: Waiting, left: Any, right: Any, **options: Any) -> Tensor | None:
    """The sum of two expressions that a rule has a fused operator for, or None."""
    left, right = _known(left), _known(right)
    a, b = _term(left), _term(right)
    if options or (a is None and b is None):
        return None
    if type(right) is int and right == 0 and isinstance(a, (Convolution, Depthwise)):
        return scope.wait(ZeroAdded(a, a.modes), a.size, left.dtype, (left,)) if modes_for(a.x) == a.modes else None
    a = _given(left, b) if a is None and b is not None else a
    b = _given(right, a) if b is None and a is not None else b
    if a is None or b is None or a.size != b.size or not (a.untouched and b.untouched):
        return None
    modes = modes_for(a.x)
    if a.modes != modes or b.modes != modes:
        return None
    for family, rule in RULES.items():
        if family in scope.families and (block := rule(a, b, scope.backend)) is not None:
            dtype = right.dtype if type(a) is Given else left.dtype
            return scope.wait(Sum(a, b, block, scope), a.size, dtype, (left, right))
    return None


def _known(t: Any) -> Any:
    """``t``, or its value if that is there."""
    return values_in(t) if type(t) is Pending and t.__dict__["node"].result is not None else t


def _term(t: Any) -> Expression | None:
    """What ``t`` waits for, if that can be a term of a sum."""
    node: Expression | None = t.__dict__["node"] if type(t) is Pending else None
    return node if node is not None and at_home(t) else None


def _given(t: Any, other: Expression) -> Step | None:
    """The map that the steps of the ``other`` term read, as a term itself."""
    if type(t) is not Tensor or t is not other.x or (other.modes[2] not in (None, t.dtype)):
        return None
    given = Given(t, other.modes)
    given.size = tuple(t.shape)
    return given


def _sum_in_place(scope: Waiting, left: Any, right: Any, **options: Any) -> Tensor | None:
    """``left += right``: whoever holds ``left`` holds the sum."""
    node = _term(left)
    if node is None or node.result is not None or type(right) is int:
        return None
    if type(right) is Pending and _reads(right.__dict__["node"], node):
        return None
    total = _sum(scope, left, right, **options)
    if total is not None:
        _become(left, total)
    return total


def _become(left: Any, changed: Any) -> None:
    """Make ``left`` stand for what it has been changed to in place.

    The statement gives the new tensor the name of the old one. Other names of the old one follow, but autograd knows it by its
    old place.
    """
    left.__dict__["node"].tensor = None
    left.__dict__["node"] = changed.__dict__["node"]
    with aside():
        left.__dict__["moved"] = changed.requires_grad


def _reads(expression: Expression, node: Expression) -> bool:
    """Whether ``expression`` is computed from the result of ``node``."""
    if expression is node:
        return True
    if isinstance(expression, Sum):
        return _reads(expression.left, node) or _reads(expression.right, node)
    return isinstance(expression.source, Step) and _reads(expression.source, node)


#: What makes an expression longer.
EXTEND: dict[Any, Callable[..., Tensor | None]] = {
    torch.conv2d: _convolution,
    F.batch_norm: _normalised,
    torch.add: _sum,
    Tensor.add: _sum,
    Tensor.__add__: _sum,
    Tensor.__radd__: _sum,
    F.pad: _padding,
    Tensor.add_: _sum_in_place,
    Tensor.__iadd__: _sum_in_place,
    F.relu: _rectified,
    torch.relu: _rectified,
    Tensor.relu: _rectified,
    torch.relu_: _rectified_in_place,
    Tensor.relu_: _rectified_in_place,
    torch.conv_transpose2d: _transposed,
}
