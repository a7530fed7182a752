"""One row of the table: a way to compute the block, with its natural input layout, and how each mode calls it.

===========  ================================================================================================
``fwd``      inference: the forward pass under ``torch.inference_mode``
``bwd``      the backward pass alone: all nine gradients (x, weights, biases) of a graph that is kept
``fwdbwd``   a training step of the block: forward pass, then all nine gradients
===========  ================================================================================================
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gcnbench.problems import ARGUMENTS, MODES, Inputs

#: f(x, w_l1, w_l2, w_r1, w_r2, b_l1, b_l2, b_r1, b_r2) -> y
Operator = Callable[..., Tensor]
#: One measured call: no arguments, returns the results that ``result_names`` names.
Call = Callable[[], tuple[Tensor, ...]]


class TimedElsewhere(ABC):
    """A call that is computed in another process, which measures it there."""

    @abstractmethod
    def __call__(self) -> tuple[Tensor, ...]:
        """The results, brought over."""

    @abstractmethod
    def milliseconds(self) -> float:
        """What one call takes; its results stay where they are."""


class UnavailableError(Exception):
    """A baseline that cannot run here; the message says why."""


@dataclass(frozen=True)
class Variant:
    """A way to compute the block.

    Attributes:
        name: what the table calls it.
        ours: the fused operator rather than a baseline.
        layout: of the inputs it is given, a key of ``LAYOUTS``.
        prepare: builds the measured call for inputs in that layout and a mode; raises UnavailableError if it cannot run.
        modes: those it can do.
        own_threads: it computes in a thread pool of its own, which has to wake up before it is timed.
        own_process: it computes in a process of its own; its calls are ``TimedElsewhere``.
        base: name of the variant that is the same call of another commit.
    """

    name: str
    ours: bool
    layout: str
    prepare: Callable[[Inputs, str], Call]
    modes: tuple[str, ...] = MODES
    own_threads: bool = False
    own_process: bool = False
    base: str | None = None


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def result_names(mode: str, arguments: Sequence[str] = ARGUMENTS) -> tuple[str, ...]:
    """Names of the results of a call: ``y`` for the map, ``d x`` and so on for gradients."""
    gradients = tuple(f"d {name}" for name in arguments)
    return {"fwd": ("y",), "bwd": gradients, "fwdbwd": ("y", *gradients)}[mode]


@contextlib.contextmanager
def mode_context(mode: str) -> Iterator[None]:
    """The surroundings in which everything of one mode is prepared, checked and timed."""
    if mode == "fwd":
        with torch.inference_mode():
            yield
    elif mode == "bwd":
        # A graph that is run backward many times may not give its saved buffers away.
        from torch._functorch import config

        with config.patch(donated_buffer=False):
            yield
    else:
        yield


def torch_call(operator: Operator, inputs: Inputs, mode: str) -> Call:
    """The measured call of an operator on PyTorch tensors."""
    if mode == "fwd":
        return lambda: (operator(*inputs.tensors),)
    leaves = inputs.leaves()
    if mode == "bwd":
        kept = operator(*leaves)
        return lambda: torch.autograd.grad(kept, leaves, inputs.dy, retain_graph=True)

    def step() -> tuple[Tensor, ...]:
        y = operator(*leaves)
        return y, *torch.autograd.grad(y, leaves, inputs.dy)

    return step


def fused(backend: str, algo: str, layout: str, device: torch.device, base: str | None = None) -> Variant:
    """The fused operator.

    Args:
        backend: as in :func:`gcn_kernels.fused_gcn`.
        algo: as there.
        layout: of its input.
        device: where it runs.
        base: the commit whose same call it is compared with.

    Raises:
        ValueError: an unknown backend or algorithm.
        RuntimeError: a backend that cannot run on ``device``, with the reason.
    """
    # Not at the top: the process that times another commit's library prepares its calls with this module.
    from gcn_kernels import backends

    chosen = backends.choose(backend, algo, torch.empty(0, device=device))
    name = f"{chosen} {layout}" if algo == "auto" else f"{chosen} {algo} {layout}"

    def prepare(inputs: Inputs, mode: str) -> Call:
        return torch_call(operator(backend, algo), inputs, mode)

    return Variant(f"fused {name}", True, layout, prepare, base=None if base is None else base_name(base, backend, algo, layout))


def base_name(commit: str, backend: str, algo: str, layout: str) -> str:
    """What the table calls the fused operator of another commit."""
    return " ".join(("base", commit[:7], *(word for word in (backend, algo) if word != "auto"), layout))


def operator(backend: str, algo: str) -> Operator:
    """The fused operator of the library that this process has."""
    import gcn_kernels

    return partial(gcn_kernels.fused_gcn, backend=backend, algo=algo)
