"""What a result that waits is a function of: single steps, chains of them, and sums that a fused operator can compute.

A step keeps everything that its value depends on: what it reads, the modes it was called in, and the version and address of every
tensor, by which a change behind its back is noticed.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

#: Modes that a result depends on: grad mode, inference mode, autocast, hooks on saved tensors, stream.
Modes = tuple[Any, ...]


# What was seen, whatever has been put in its place since.
_batch_norm: Any = F.batch_norm
_conv2d, _pad, _relu = torch.conv2d, F.pad, torch.relu
_grad_enabled, _inference_enabled = torch.is_grad_enabled, torch.is_inference_mode_enabled
_hooks_on_saved_tensors = torch._C._autograd._top_saved_tensors_default_hooks


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast gives a convolution of ``x`` now, or None."""
    device_type = x.device.type
    # The meta device, where a trial runs, knows no autocast.
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)


def modes_for(x: Tensor) -> Modes:
    """The modes that a convolution of ``x`` would be computed in now."""
    stream = torch.cuda.current_stream(x.device) if x.is_cuda else None
    return _grad_enabled(), _inference_enabled(), autocast_dtype(x), _hooks_on_saved_tensors(False), stream


def _enter(modes: Modes, device: torch.device) -> ExitStack:
    grad, inference, autocast, hooks, stream = modes
    stack = ExitStack()
    stack.enter_context(torch.inference_mode(inference))
    stack.enter_context(torch.set_grad_enabled(grad))
    if device.type != "meta":
        stack.enter_context(torch.autocast(device.type, dtype=autocast, enabled=autocast is not None))
    if hooks is not None and hooks is not _hooks_on_saved_tensors(False):
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(*hooks))
    if stream is not None:
        stack.enter_context(torch.cuda.stream(stream))
    return stack


def _stamp(t: Tensor) -> tuple[int, int]:
    """What a change of ``t`` changes: the count of in-place operations (inference tensors have none) and the address."""
    return 0 if t.is_inference() else t._version, t.data_ptr()


#: While results are computed, no mode and no tensor looks at the calls: nothing is to wait once more.
unseen = torch._C.DisableTorchFunction


class Counter(Protocol):
    """Who calls and counts what is fused."""

    def run(self, block: "Fused", end: "Step | Sum | None") -> Tensor:
        """The result of ``block``, which is that of ``end`` if that has waited for it."""
        ...


class Step(ABC):
    """One call that waits: a function of ``source`` and of parameters, with no effect but its result.

    Attributes:
        source: x, or the step before.
        x: the map that the chain of steps starts from.
        result: the value, once it is computed.
        fused: whether a fused operator has computed a sum with it.
        size: of the result.
        tensor: weak reference to the pending tensor that stands for the result.
    """

    __slots__ = ("__weakref__", "fused", "modes", "result", "size", "source", "stamps", "tensor", "x")

    def __init__(self, source: "Tensor | Step", modes: Modes, parameters: tuple[Tensor | None, ...] = ()) -> None:
        self.source, self.modes = source, modes
        self.result: Tensor | None = None
        self.fused = False
        self.tensor: Any = None
        self.size: Any = None
        self.stamps = [(t, _stamp(t)) for t in parameters if t is not None]
        if isinstance(source, Step):
            self.x: Tensor = source.x
        else:
            self.x = source
            self.stamps.append((source, _stamp(source)))

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        """What autograd differentiates the step with respect to."""
        return (self.source.value() if isinstance(self.source, Step) else self.source,)

    @abstractmethod
    def function(self, *inputs: Any) -> Tensor:
        """The step itself, of :attr:`inputs`."""

    @property
    def intact(self) -> bool:
        """Whether everything that the value depends on is as it was when the step was called."""
        source = self.source
        if isinstance(source, Step) and source.result is None and not source.intact:
            return False
        return all(_stamp(t) == stamp for t, stamp in self.stamps)

    def check(self) -> None:
        """Raise unless the step is :attr:`intact`."""
        if not self.intact:
            raise RuntimeError(
                "the result of a converted convolution is needed after its input or weights were changed in place, where the "
                "change or the need could not be seen in time: leave this module out (convert_gcn(model, exclude=[...])), or "
                "use the result before the change"
            )

    def compute(self) -> Tensor:
        """The step of what it was called with, in the modes it was called in."""
        self.check()
        inputs = self.inputs
        with _as_in(self), unseen():
            return self.function(*inputs)

    def value(self) -> Tensor:
        """The result."""
        if self.result is None:
            with unseen():
                self.result = self.evaluate()
        return self.result

    def evaluate(self) -> Tensor:
        """The result, for the first time."""
        return self.compute()

    @property
    def untouched(self) -> bool:
        """Whether neither this result nor one before it has been asked for."""
        return self.result is None and (not isinstance(self.source, Step) or self.source.untouched)

    @property
    def watched(self) -> bool:
        """Whether somebody could still ask for this result or one before it."""
        alive = self.tensor is not None and self.tensor() is not None
        return alive or (isinstance(self.source, Step) and self.source.watched)

    def mark_fused(self) -> None:
        """Note that a fused operator has taken this and what comes before, as far as nobody has asked for it."""
        if self.result is not None:
            return
        self.fused = True
        if isinstance(self.source, Step):
            self.source.mark_fused()


class Padding(Step):
    """Zeros around a map: ``pads`` as in :func:`torch.nn.functional.pad`."""

    __slots__ = ("pads",)

    def __init__(self, source: Tensor | Step, modes: Modes, pads: tuple[int, ...]) -> None:
        super().__init__(source, modes)
        self.pads = pads

    def function(self, *inputs: Any) -> Tensor:
        return _pad(inputs[0], self.pads)


class ZeroAdded(Step):
    """``0 + source``, which Python's ``sum`` begins with."""

    __slots__ = ()

    def function(self, *inputs: Any) -> Tensor:
        source: Tensor = inputs[0]
        return source + 0


class Weighted(Step):
    """A convolution with stride 1; or one and the normalisation of its result, by statistics that stay as they are.

    Where a rule asks for such a pair, it is one convolution with another weight and bias (:meth:`folded`); where anything else
    does, both are computed one after the other.

    Attributes:
        before: x, or the step that it follows, padding left aside; None where a padding or a zero added stands alone.
        rest: the arguments of ``conv2d``, or of ``F.batch_norm``, after the map.
        normalises: whether this is the normalisation of ``source``, the convolution that ``weight`` and ``bias`` are of.
    """

    __slots__ = ("before", "bias", "normalises", "rest", "weight")

    def __init__(self, source: Tensor | Step, modes: Modes, rest: tuple[Any, ...]) -> None:
        weight, bias = rest[:2]
        super().__init__(source, modes, (weight, bias))
        self.weight: Tensor = weight
        self.bias: Tensor | None = bias
        self.rest, self.normalises = rest, False
        before = source.source if isinstance(source, Padding) else source
        self.before = None if isinstance(before, (Padding, ZeroAdded)) else before

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        return (*super().inputs, *(self.rest[2:4] if self.normalises else (self.weight, self.bias)))

    def function(self, *inputs: Any) -> Tensor:
        source, weight, bias = inputs
        if self.normalises:
            result: Tensor = _batch_norm(source, *self.rest[:2], weight, bias, *self.rest[4:])
            return result
        return _conv2d(source, weight, bias, *self.rest[2:])

    def normalised(self, rest: tuple[Any, ...]) -> "Weighted":
        """This convolution with the normalisation of its result that ``F.batch_norm`` computes with the arguments ``rest``."""
        node = copy.copy(self)
        node.source, node.rest, node.normalises, node.fused = self, rest, True, False
        node.stamps = [(t, _stamp(t)) for t in rest[:4] if t is not None]
        return node

    @property
    def whole(self) -> bool:
        """Whether nobody has asked for the result, nor for that of the convolution before its normalisation."""
        return self.result is None and not (self.normalises and isinstance(self.source, Step) and self.source.result is not None)

    @property
    def biased(self) -> bool:
        """Whether :meth:`folded` has a bias."""
        return self.normalises or self.bias is not None

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the one convolution that gives the same result."""
        return fold(self.weight, self.bias, *self.rest) if self.normalises else (self.weight, self.bias)

    def begin_chain(self) -> bool:
        """Compute what this convolution reads, from then on the map that the chain starts from; False where that cannot be."""
        if self.normalises:
            conv: Any = self.source
            begun = bool(conv.begin_chain())
            self.x, self.before = conv.x, conv.before
            return begun
        if self.before is not self.source or not isinstance(self.source, Step):
            return False
        self.x = self.source = self.before = self.source.value()
        self.stamps.append((self.x, _stamp(self.x)))
        return True


def fold(
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution whose result is normalised by a mean and a variance that are given.

    In single precision at least, rounded once to the dtype of ``weight``; differentiable. The last seven are the arguments of
    ``F.batch_norm``.
    """
    assert not training
    dtype = weight.dtype
    if dtype.itemsize < 4:
        wide: list[Any] = [None if t is None else t.float() for t in (weight, bias, mean, variance, gamma, beta)]
        w, b = fold(*[*wide, training, momentum, eps])
        return w.to(dtype), b.to(dtype)
    scale = (variance + eps).rsqrt_()
    if gamma is not None:
        scale = scale * gamma
    offset = mean if bias is None else mean - bias
    shift = -offset * scale if beta is None else torch.addcmul(beta, offset, scale, value=-1)
    return weight * scale.view(-1, 1, 1, 1), shift


def folded(convs: Sequence[Weighted]) -> tuple[Any, ...]:
    """All weights, then all biases, of convolutions as a fused operator takes them."""
    pairs = [conv.folded() for conv in convs]
    return (*(weight for weight, _ in pairs), *(bias for _, bias in pairs))


class Convolution(Weighted):
    """A convolution along one axis (0: k x 1, 1: 1 x k); with its own or the padding before it, it keeps the size."""

    __slots__ = ("axis",)

    def __init__(self, source: Tensor | Step, modes: Modes, rest: tuple[Any, ...], axis: int) -> None:
        super().__init__(source, modes, rest)
        self.axis = axis


class Square(Weighted):
    """A 3 x 3 convolution; with its own or the padding before it, it keeps the size."""

    __slots__ = ()


class Rectified(Step):
    """The ReLU of a 3 x 3 convolution."""

    __slots__ = ()

    def function(self, *inputs: Any) -> Tensor:
        return _relu(inputs[0])


class Fused(NamedTuple):
    """A call of a fused operator.

    Attributes:
        family: of the operator.
        x: the map.
        parameters: all weights, then all biases, of the convolutions as they are.
        form: what else tells its speed.
        steps: the convolutions, in the order of the weights.
        call: makes it.
    """

    family: str
    x: Tensor
    parameters: tuple[Tensor | None, ...]
    form: Any
    steps: tuple[Any, ...]
    call: Callable[[], Tensor]


class Depthwise(Weighted):
    """A depthwise convolution that keeps the size. A chain of them is computed by one operator.

    Attributes:
        rule: gives the fused operator for the chain that ends here.
        backend: of that operator.
        counter: who is told of it.
    """

    __slots__ = ("backend", "counter", "dilation", "rule")

    def __init__(self, source: Tensor | Step, modes: Modes, rest: tuple[Any, ...], dilation: tuple[int, int]) -> None:
        super().__init__(source, modes, rest)
        self.dilation = dilation
        self.rule: Callable[..., Fused] | None = None
        self.counter: Any = None
        self.backend = "auto"

    def evaluate(self) -> Tensor:
        if self.rule is None or not self.whole:
            return self.compute()
        self.check()
        with _as_in(self):
            result: Tensor = self.counter.run(self.rule(self, self.backend), self)
        if isinstance(self.source, Step):
            self.source.mark_fused()
        return result


class Given(Step):
    """A map that is there, as a term of a sum."""

    __slots__ = ()

    def function(self, *inputs: Any) -> Tensor:
        x: Tensor = inputs[0]
        return x


class Sum:
    """A sum that waits, for which a rule has a fused operator. Its terms are steps, or such sums."""

    __slots__ = ("__weakref__", "block", "counter", "fused", "left", "modes", "result", "right", "size", "tensor", "x")

    def __init__(self, left: "Step | Sum", right: "Step | Sum", block: Fused, counter: Counter) -> None:
        self.left, self.right, self.block, self.counter = left, right, block, counter
        self.x: Tensor = left.x
        self.modes: Modes = left.modes
        self.result: Tensor | None = None
        self.fused = False
        self.tensor: Any = None
        self.size: Any = None

    @property
    def terms(self) -> tuple[Step, ...]:
        """The steps that are added, from left to right."""
        sides = [side.terms if isinstance(side, Sum) else (side,) for side in (self.left, self.right)]
        return (*sides[0], *sides[1])

    @property
    def intact(self) -> bool:
        """As of a step."""
        return self.left.intact and self.right.intact

    def check(self) -> None:
        """As of a step."""
        self.left.check()
        self.right.check()

    @property
    def untouched(self) -> bool:
        """As of a step."""
        return self.result is None and self.left.untouched and self.right.untouched

    @property
    def watched(self) -> bool:
        """As of a step."""
        alive = self.tensor is not None and self.tensor() is not None
        return alive or self.left.watched or self.right.watched

    def mark_fused(self) -> None:
        """As of a step."""
        self.fused = True
        self.left.mark_fused()
        self.right.mark_fused()

    def value(self, exact: bool = False) -> Tensor:
        """The result; with ``exact``, from the results of its terms if one of these is still somebody's."""
        if self.result is None:
            left, right = self.left, self.right
            with unseen(), _as_in(self):
                if not (left.untouched and right.untouched) or (exact and (left.watched or right.watched)):
                    self.result = left.value() + right.value()
                else:
                    self.check()
                    self.result = self.counter.run(self.block, self)
                    left.mark_fused()
                    right.mark_fused()
        return self.result


def _as_in(node: "Step | Sum") -> ExitStack:
    """The modes that ``node`` was called in."""
    return ExitStack() if modes_for(node.x) == node.modes else _enter(node.modes, node.x.device)


Expression = Step | Sum
