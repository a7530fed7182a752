"""Try a module before it is swapped: does its forward compute a sum that a rule recognises?

What is swapped computes the same whatever a trial says. The trial decides what is worth it, and what the report says. It runs
the forward of a copy whose parameters have no data (the meta device), so it costs neither time nor memory and moves no random
state; where a forward needs values, on a copy of zeros, on a small map.
"""

import contextlib
import copy
import inspect
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gcn_kernels.swap.expression import Fused
from gcn_kernels.swap.find import CALL_HOOKS, CONVOLUTIONS
from gcn_kernels.swap.pending import Pending
from gcn_kernels.swap.scope import Scope

#: (H, W) of the maps that are tried: large enough for networks that halve them five times.
MAP = (160, 192)
SMALL_MAP = (32, 40)


class Refused(Exception):
    """The module is not swapped; the message says why."""


class Trial(NamedTuple):
    """What one call of a module would do; tensors in it have no data.

    Attributes:
        fused: its calls of fused operators.
        alone: those of them that are one convolution, which was called as a module, by the path of that.
        normalised: paths of the convolutions whose normalisation is folded.
    """

    fused: list[Fused]
    alone: dict[str, list[Fused]]
    normalised: frozenset[str]


def fused_in(module: nn.Module, channels: Sequence[int], families: Iterable[str] = ("gcn",)) -> list[Fused]:
    """The calls of fused operators that one call of ``module`` would make; see :func:`trial_of`."""
    return trial_of(module, channels, families).fused


def trial_of(module: nn.Module, channels: Sequence[int], families: Iterable[str] = ("gcn",)) -> Trial:
    """Run the forward of a copy.

    Args:
        module: what is tried.
        channels: what its inputs may have, in the order to try.
        families: of operators.

    Raises:
        Refused: it cannot be copied, or its forward runs on none of the inputs.
    """
    errors: list[Exception] = []
    best: Trial | None = None
    with _undisturbed():
        for device, size in (("meta", MAP), ("cpu", SMALL_MAP)):
            for count in dict.fromkeys(channels):
                try:
                    twin = _copy(module, device)
                except Exception as error:
                    raise Refused(f"it cannot be copied for a trial: {_first_line(error)}") from error
                try:
                    best = _run(twin, device, (count, *size), families)
                except Exception as error:
                    errors.append(error)
                if best and best.fused:
                    return best
            if best is not None:
                return best
    first = _first_line(errors[-len(set(channels))])
    raise Refused(f"its forward does not run on a map of {channels[0]} channels: {first}{suspects(module)}")


def _run(twin: nn.Module, device: str, size: tuple[int, ...], families: Iterable[str]) -> Trial:
    dtype = next((p.dtype for p in twin.parameters() if p.is_floating_point()), torch.float32)
    inputs = [torch.zeros((1, *size), dtype=dtype, device=device) for _ in range(_needed(twin))]
    scope = Scope("auto", families, trial=True)
    path_of: dict[Any, str] = {}

    def noting(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def called(*inputs: Any, **named: Any) -> Any:
            result = forward(*inputs, **named)
            if type(result) is Pending:
                path_of[result.__dict__["node"]] = path
            return result

        return called

    for path, m in twin.named_modules():
        if isinstance(m, nn.Conv2d):
            m.forward = noting(path, m.forward)  # type: ignore[method-assign]
    with torch.no_grad():
        with scope:
            result = twin.forward(*inputs)
        scope.release(result)
    alone: dict[str, list[Fused]] = {}
    for block, end in scope.fused:
        if end in path_of and len(block.steps) == 1 and not block.steps[0].normalises:
            alone.setdefault(path_of[end], []).append(block)
    normalised = [step.source for block, _ in scope.fused for step in block.steps if step.normalises]
    return Trial([block for block, _ in scope.fused], alone, frozenset(path_of[node] for node in normalised if node in path_of))


def _needed(twin: nn.Module) -> int:
    """How many maps a forward asks for."""
    try:
        parameters = inspect.signature(twin.forward).parameters.values()
    except (TypeError, ValueError):
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return max(1, sum(p.default is p.empty and p.kind in kinds for p in parameters))


def _copy(module: nn.Module, device: str) -> nn.Module:
    """A deep copy with new parameters and buffers on ``device`` and without call hooks; in eval mode."""
    memo: dict[int, Any] = {}
    for m in module.modules():
        memo |= {id(getattr(m, name)): OrderedDict() for name in CALL_HOOKS}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(_blank(parameter, device), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = _blank(buffer, device)
    return copy.deepcopy(module, memo).eval()


def _blank(t: Tensor, device: str) -> Tensor:
    return torch.zeros(t.shape, dtype=t.dtype, device=device)


def suspects(module: nn.Module, *plain: type[nn.Module]) -> str:
    """Children that a plain block does not have, none of the classes ``plain``, and paddings that do not keep the size."""
    found = []
    for path, m in module.named_modules():
        if isinstance(m, nn.Conv2d):
            same = tuple(k // 2 for k in m.kernel_size)
            if not isinstance(m.padding, str) and tuple(m.padding) != same:
                found.append(f"{path} pads {tuple(m.padding)} where {same} keeps the size")
            if m.padding_mode != "zeros":
                found.append(f"{path} has padding_mode {m.padding_mode!r}")
        elif path and not list(m.children()) and not isinstance(m, (*CONVOLUTIONS, nn.Identity, *plain)):
            found.append(f"it has {path}: {type(m).__name__}")
    return f"; {'; '.join(found)}" if found else ""


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Run a trial whatever modes the caller has set, and leave every random number generator as it was."""
    numpy = sys.modules.get("numpy")
    states = random.getstate(), numpy.random.get_state() if numpy else None
    modes = torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False), torch.device("cpu")
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            for mode in modes:
                stack.enter_context(mode)
            yield
    finally:
        random.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
