"""What a result that waits is a function of: single steps, chains of them, and sums that a fused operator can compute.

A step keeps everything that its value depends on: what it reads, the modes it was called in, and the version and address of every
tensor, by which a change behind its back is noticed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

#: Modes that a result depends on: grad mode, inference mode, autocast, hooks on saved tensors, stream.
Modes = tuple[Any, ...]


def modes_for(x: Tensor) -> Modes:
    """The modes that a convolution of ``x`` would be computed in now."""
    device = x.device
    # The meta device, where a trial runs, knows no autocast.
    autocast = device.type != "meta" and torch.is_autocast_enabled(device.type)
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_autocast_dtype(device.type) if autocast else None,
        torch._C._autograd._top_saved_tensors_default_hooks(False),
        torch.cuda.current_stream(device) if device.type == "cuda" else None,
    )


def _enter(modes: Modes, device: torch.device) -> ExitStack:
    grad, inference, autocast, hooks, stream = modes
    stack = ExitStack()
    stack.enter_context(torch.inference_mode(inference))
    stack.enter_context(torch.set_grad_enabled(grad))
    if device.type != "meta":
        stack.enter_context(torch.autocast(device.type, dtype=autocast, enabled=autocast is not None))
    if hooks is not None and hooks is not torch._C._autograd._top_saved_tensors_default_hooks(False):
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(*hooks))
    if stream is not None:
        stack.enter_context(torch.cuda.stream(stream))
    return stack


def _stamp(t: Tensor) -> tuple[int, int]:
    """What a change of ``t`` changes: the count of in-place operations (inference tensors have none) and the address."""
    return 0 if t.is_inference() else t._version, t.data_ptr()


class Counter(Protocol):
    """Who counts what is fused."""

    fused: int


class Step(ABC):
    """One call that waits: a function of ``source`` and of parameters, with no effect but its result.

    Attributes:
        source: x, or the step before.
        result: the value, once it is computed.
        fused: whether a fused operator has computed a sum with it.
        size: of the result.
        tensor: weak reference to the pending tensor that stands for the result.
    """

    __slots__ = ("__weakref__", "fused", "modes", "result", "size", "source", "stamps", "tensor")

    def __init__(self, source: "Tensor | Step", modes: Modes, parameters: tuple[Tensor | None, ...] = ()) -> None:
        self.source, self.modes = source, modes
        self.result: Tensor | None = None
        self.fused = False
        self.tensor: Any = None
        self.size: Any = None
        self.stamps = [(t, _stamp(t)) for t in (source, *parameters) if isinstance(t, Tensor)]

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        """What autograd differentiates the step with respect to."""
        source = self.source if isinstance(self.source, Tensor) else self.source.value()
        return (source,)

    @abstractmethod
    def function(self, *inputs: Any) -> Tensor:
        """The step itself, of :attr:`inputs`."""

    @property
    def x(self) -> Tensor:
        """The map that the chain of steps starts from."""
        return self.source if isinstance(self.source, Tensor) else self.source.x

    @property
    def intact(self) -> bool:
        """Whether everything that the value depends on is as it was when the step was called."""
        before = isinstance(self.source, Tensor) or self.source.result is not None or self.source.intact
        return before and all(_stamp(t) == stamp for t, stamp in self.stamps)

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
        if modes_for(self.x) == self.modes:
            return self.function(*inputs)
        with _enter(self.modes, self.x.device):
            return self.function(*inputs)

    def value(self) -> Tensor:
        """The result."""
        if self.result is None:
            self.result = self.compute()
        return self.result

    @property
    def untouched(self) -> bool:
        """Whether neither this result nor one before it has been asked for."""
        return self.result is None and (isinstance(self.source, Tensor) or self.source.untouched)

    @property
    def watched(self) -> bool:
        """Whether somebody could still ask for this result or one before it."""
        alive = self.tensor is not None and self.tensor() is not None
        return alive or (isinstance(self.source, Step) and self.source.watched)

    def mark_fused(self) -> None:
        """Note that a fused operator has taken this and what comes before."""
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
        return F.pad(inputs[0], self.pads)


class ZeroAdded(Step):
    """``0 + source``, which Python's ``sum`` begins with."""

    __slots__ = ()

    def function(self, *inputs: Any) -> Tensor:
        source: Tensor = inputs[0]
        return source + 0


class Convolution(Step):
    """A convolution along one axis (0: k x 1, 1: 1 x k), stride 1; with its own or the padding before it, it keeps the size."""

    __slots__ = ("axis", "bias", "padding", "weight")

    def __init__(self, source: Tensor | Step, modes: Modes, weight: Tensor, bias: Tensor | None, padding: Any, axis: int) -> None:
        super().__init__(source, modes, (weight, bias))
        self.weight, self.bias, self.padding, self.axis = weight, bias, padding, axis

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        return (*super().inputs, self.weight, self.bias)

    def function(self, *inputs: Any) -> Tensor:
        source, weight, bias = inputs
        return F.conv2d(source, weight, bias, 1, self.padding)

    @property
    def before(self) -> "Tensor | Convolution | None":
        """x or the convolution that this one follows, padding left aside."""
        source = self.source.source if isinstance(self.source, Padding) else self.source
        return source if isinstance(source, (Tensor, Convolution)) else None


class Sum:
    """The sum of two convolutions that wait, for which a rule has a fused operator."""

    __slots__ = ("counter", "fuse", "fused", "left", "result", "right", "size", "tensor")

    def __init__(self, left: Step, right: Step, fuse: Callable[[], Tensor], counter: Counter) -> None:
        self.left, self.right, self.fuse, self.counter = left, right, fuse, counter
        self.result: Tensor | None = None
        self.fused = False
        self.tensor: Any = None
        self.size: Any = None

    def value(self, exact: bool = False) -> Tensor:
        """The result; with ``exact``, from the plain convolutions if one of their results is still somebody's."""
        if self.result is None:
            left, right = self.left, self.right
            plain = not (left.untouched and right.untouched) or (exact and (left.watched or right.watched))
            same = modes_for(left.x) == left.modes
            with ExitStack() if same else _enter(left.modes, left.x.device):
                if plain:
                    self.result = left.value() + right.value()
                else:
                    left.check()
                    right.check()
                    self.result = self.fuse()
                    left.mark_fused()
                    right.mark_fused()
                    self.counter.fused += 1
        return self.result


Expression = Step | Sum
