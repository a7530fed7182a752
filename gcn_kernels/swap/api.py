"""``convert_gcn`` and ``revert_gcn``: find, try, swap, report; and back."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from gcn_kernels.core import backends
from gcn_kernels.gcn.module import FusedGCN
from gcn_kernels.swap.find import Candidate, assignments, candidates, flaw, hooked, owners
from gcn_kernels.swap.fused_class import Watched, fused_class, is_swapped, swap_out
from gcn_kernels.swap.gain import expected_gain
from gcn_kernels.swap.report import Entry, Sizes, SwapReport
from gcn_kernels.swap.trial import Refused, count_fused, suspects

#: A block that takes more than this many times its plain convolutions' time is left as it is: times scatter on a busy machine.
SLOWER = 1.25


def convert_gcn(
    model: nn.Module,
    *,
    verify: bool = True,
    inplace: bool = True,
    backend: str = "auto",
    force: bool = False,
    exclude: Sequence[str] = (),
) -> SwapReport:
    """Make every GCN block of a model run as one fused operator, whatever its code looks like.

    A converted module runs its own forward, always; the convolutions and the sum that this forward in fact computes are
    fused, and everything else that it does is done as before. So a swap cannot change what a model computes, now or after
    hooks, adapters, pruning, contexts, attributes or children have changed; what no longer forms a block runs as it is. Under
    ``torch.compile`` the same match is made on what is traced; under ``torch.jit``, torch.fx, ONNX and ``torch.func`` transforms
    the plain convolutions run.

    Modules that could hold a block are found by structure (four convolutions that chain into k x 1, 1 x k and 1 x k, k x 1,
    whatever their names) and are swapped if a trial on a copy without data shows that their forward computes one. A swap keeps
    parameters, children, state-dict keys, hooks and mode; only the module's class becomes a generated subclass of the one it
    had. Look-alikes are left as they are, with the reason in the report.

    Args:
        model: any module, also under ``DistributedDataParallel`` or ``torch.compile``.
        verify: make the trial. Without it everything with the structure of a block is swapped.
        inplace: convert ``model`` itself, or else a deep copy of it, found in ``report.model``.
        backend: see :func:`gcn_kernels.fused_gcn`.
        force: swap blocks that are expected to run slower fused as well.
        exclude: places of modules to leave as they are, with everything below them.

    Returns:
        The report; ``print(report)`` shows it as a table.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: an unknown backend; a place to exclude that does not exist.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), FusedGCN(8, 2, 3))
        >>> print(convert_gcn(model).refused[0].reason)
        it already runs fused

    Source: figure 2 B of Peng et al. 2017 for the block; the names it has in public code do not matter.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if backend not in backends.BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(backends.BACKENDS)}, got {backend!r}")
    if not inplace:
        model = copy.deepcopy(model)
    places = dict(model.named_modules(remove_duplicate=False))
    if unknown := [place for place in exclude if place not in places]:
        raise ValueError(f"exclude: expected places of modules as in named_modules(), got {unknown}")
    left_out = {m for place in exclude for m in places[place].modules()}
    found = [c for c in candidates(model) if c.module not in left_out]
    claimed = {conv for c in found for conv in c.convs.values()}
    found += [c for c in owners(model, claimed) if c.module not in left_out]
    # Nothing is changed before everything is decided.
    decided = [_decide(candidate, verify, backend, force) for candidate in found]
    changed: list[nn.Module] = []
    try:
        for candidate, (_, cls) in zip(found, decided, strict=True):
            if cls is not None:
                candidate.module.__class__ = cls
                changed.append(candidate.module)
    except BaseException:
        for module in changed:
            swap_out(module)
        raise
    return SwapReport(model, [entry for entry, _ in decided])


def revert_gcn(model: nn.Module) -> list[str]:
    """Undo :func:`convert_gcn`: every swapped module gets the class that it had.

    Args:
        model: the converted model, or any part of it.

    Returns:
        The places of the modules that were reverted.

    Raises:
        RuntimeError: the class of a swapped module was changed again after the swap (for example by a parametrization of the
            block itself); undo that first.

    Example:
        >>> revert_gcn(nn.Conv2d(3, 8, 3))
        []
    """
    places = []
    for place, module in model.named_modules():
        if is_swapped(module):
            swap_out(module)
            places.append(place)
        elif hasattr(type(module), "_gcn_how"):
            now = type(module).__name__
            raise RuntimeError(f"{place}: the class of this block was changed after the swap, to {now}: undo that first")
    return places


def _decide(candidate: Candidate, verify: bool, backend: str, force: bool) -> tuple[Entry, type[nn.Module] | None]:
    """The entry of the report, and the class that the module gets, or None."""
    module, convs = candidate.module, candidate.convs
    sizes, gain, cls, reason = [], None, None, ""
    try:
        _check_class(module)
        if len(convs) == 4 and (flawed := flaw(convs)) is not None:
            raise Refused(flawed)
        sizes = _sizes(module, convs)
        _check_hooks(module, convs)
        children = tuple(dict.fromkeys(path.split(".")[0] for path in convs))
        cls = _class_for(module, Watched(children, backend))
        fused = count_fused(module, _input_channels(module, convs)) if verify else 1
        if fused == 0:
            raise Refused(
                "its forward computes no sum of a k x 1, 1 x k and a 1 x k, k x 1 branch with nothing between "
                f"the convolutions{suspects(module)}"
            )
        if sizes:
            like = next(iter(next(iter(convs.values())).parameters()))
            gain = expected_gain(sizes[0], like.dtype, like.device, backend)
        if gain is not None and gain.forward * SLOWER < 1 and not force:
            raise Refused(f"it is expected to run slower fused ({gain}); force=True swaps it all the same")
        if len(convs) > 4 or fused > 1:
            reason = f"{fused} block{'s' * (fused > 1)} in its forward"
    except Refused as refusal:
        cls, reason = None, str(refusal)
    entry = Entry(
        place=candidate.places[0],
        also=candidate.places[1:],
        class_name=type(module).__name__,
        sizes="; ".join(dict.fromkeys(map(str, sizes))),
        swapped=cls is not None,
        reason=reason,
        parameters=_count(convs.values()),
        gain=gain,
    )
    return entry, cls


def _check_class(module: nn.Module) -> None:
    """Raise :class:`Refused` unless the class can be exchanged for a subclass with another forward."""
    cls = type(module)
    if is_swapped(module) or isinstance(module, FusedGCN):
        raise Refused("it already runs fused")
    if isinstance(module, torch.jit.ScriptModule):
        raise Refused("it is scripted or traced, its graph is fixed: convert before torch.jit.script")
    if isinstance(module, torch.fx.GraphModule):
        raise Refused("it is a graph made by torch.fx or torch.export: convert before tracing")
    if cls.__call__ is not nn.Module.__call__:
        raise Refused("its class overrides __call__ instead of forward")
    if "forward" in vars(module):
        raise Refused("its forward is replaced on the instance")
    pickling = cls.__reduce_ex__ is not object.__reduce_ex__ or cls.__reduce__ is not object.__reduce__
    if pickling or hasattr(cls, "__deepcopy__"):
        raise Refused("its class has a way of its own to copy or pickle, which would lose the swap")
    if any("__init_subclass__" in vars(base) for base in cls.__mro__ if base is not object):
        raise Refused("its class acts when a subclass of it is made (__init_subclass__)")


def _check_hooks(module: nn.Module, convs: dict[str, nn.Module]) -> None:
    for name in dict.fromkeys(path.split(".")[0] for path in convs):
        for path, m in module.get_submodule(name).named_modules(prefix=name):
            if (hook := hooked(m)) is not None:
                raise Refused(f"{path} has {hook}, which works on the convolutions' own results")


def _class_for(module: nn.Module, how: Watched) -> type[nn.Module]:
    original: Any = type(module)
    try:
        return fused_class(original, how)
    except Exception as error:
        raise Refused(f"its class cannot be subclassed: {type(error).__name__}: {error}") from error


def _sizes(module: nn.Module, convs: dict[str, nn.Module]) -> list[Sizes]:
    """Sizes of the block that four convolutions can form; of several, only a run shows which belong together."""
    if len(convs) != 4:
        return []
    ordered: Any = [module.get_submodule(path) for path in assignments(convs)[0]]
    return [Sizes.of(ordered)]


def _input_channels(module: nn.Module, convs: dict[str, nn.Module]) -> list[int]:
    """What the map that ``module`` takes may have: channels of its first convolution, of the blocks, of an image."""
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    lines: Any = list(convs.values())
    counts = [conv.in_channels for conv in lines]
    exact = max(counts) if len(convs) == 4 else None
    if len(convs) == 4:
        exact = lines[list(convs).index(assignments(convs)[0][0])].in_channels
    return [c for c in (exact, first.in_channels if first is not None else None, *counts, 3, 1) if c is not None]


def _count(convs: Iterable[nn.Module]) -> int:
    return sum(p.numel() for p in {p for conv in convs for p in conv.parameters()} if not nn.parameter.is_lazy(p))
