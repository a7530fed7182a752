"""``convert_gcn`` and ``revert_gcn``: find, try, swap, report; and back."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from gcn_kernels.core import backends
from gcn_kernels.gcn.module import FusedGCN
from gcn_kernels.swap import inline
from gcn_kernels.swap.find import Candidate, Roles, assignments, candidates, flaw, hooked, pads_same
from gcn_kernels.swap.fused_class import Fusion, is_swapped, swap_in, swap_out
from gcn_kernels.swap.gain import expected_gain
from gcn_kernels.swap.probe import Refused, input_name, probe
from gcn_kernels.swap.report import Entry, Gain, Sizes, SwapReport


def convert_gcn(model: nn.Module, *, verify: bool = True, inplace: bool = True, backend: str = "auto") -> SwapReport:
    """Find every GCN block in a model and make it run as one fused operator.

    Blocks are found by structure (four convolutions that chain into k x 1, 1 x k and 1 x k, k x 1, whatever their names) and
    accepted if a float64 trial on a copy agrees with :func:`gcn_kernels.reference.gcn` in values and gradients. A block keeps
    its parameters, children, state-dict keys, hooks and mode; only its class becomes a generated subclass of the one it had.
    Blocks written inline in the forward of a larger module are found by torch.fx where that can trace it. Look-alikes are left
    as they are, with the reason in the report.

    Args:
        model: any module, also under ``DistributedDataParallel`` or ``torch.compile``.
        verify: make the trial. Without it a block must also pad every convolution itself and hold no other layers.
        inplace: convert ``model`` itself, or else a deep copy of it, found in ``report.model``.
        backend: see :func:`gcn_kernels.fused_gcn`.

    Returns:
        The report; ``print(report)`` shows it as a table.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: an unknown backend.

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
    entries: list[Entry] = []
    seen: set[nn.Module] = set()
    for candidate in candidates(model):
        seen.update(candidate.convs.values())
        entries.append(_convert_block(candidate, verify, backend))
    for owner in inline.owners(model, seen):
        entries.append(_convert_inline(owner, backend))
    return SwapReport(model, entries)


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


def _convert_block(candidate: Candidate, verify: bool, backend: str) -> Entry:
    block, original = candidate.module, type(candidate.module)
    sizes, gain, swapped = None, None, False
    try:
        _check_class(block)
        if (reason := flaw(candidate.convs)) is not None:
            raise Refused(reason)
        roles = assignments(candidate.convs)
        sizes = _sizes(block, roles[0])
        _check_hooks(block)
        name = input_name(block)
        chosen = probe(block, roles) if verify else _trusted(candidate, roles)
        sizes = _sizes(block, chosen)
        gain = _gain(block, sizes, backend)
        swap_in(block, Fusion(chosen, name, backend))
        swapped, reason = True, ""
    except Refused as refusal:
        reason = f"{refusal}{_inline_hint(block, backend)}"
    return Entry(
        place=candidate.places[0],
        also=candidate.places[1:],
        class_name=original.__name__,
        sizes="" if sizes is None else str(sizes),
        swapped=swapped,
        reason=reason,
        parameters=_count(candidate.convs.values()),
        gain=gain,
    )


def _convert_inline(owner: inline.Owner, backend: str) -> Entry:
    module, original = owner.module, type(owner.module)
    sizes: list[Sizes] = []
    gain, swapped, convs = None, False, list(owner.convs.values())
    try:
        _check_class(module)
        how, blocks = inline.rewrite(module, backend)
        sizes = [_sizes(module, roles) for roles in blocks]
        convs = [module.get_submodule(path) for roles in blocks for path in roles]
        gain = _gain(convs[0], sizes[0], backend)
        swap_in(module, how)
        swapped, reason = True, "inline in its forward: " + "; ".join(", ".join(roles) for roles in blocks)
    except Refused as refusal:
        reason = f"it has {len(convs)} convolutions of the shapes k x 1 and 1 x k, but {refusal}"
    return Entry(
        place=owner.places[0],
        also=owner.places[1:],
        class_name=original.__name__,
        sizes="; ".join(map(str, sizes)),
        swapped=swapped,
        reason=reason,
        parameters=_count(convs),
        gain=gain,
    )


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


def _check_hooks(block: nn.Module) -> None:
    for path, module in block.named_modules():
        if path and (hook := hooked(module)) is not None:
            raise Refused(f"{path} has {hook}, which would no longer fire")


def _trusted(candidate: Candidate, roles: list[Roles]) -> Roles:
    """The roles without a trial, where the structure leaves nothing open."""
    for path, conv in candidate.convs.items():
        if not isinstance(conv, nn.Conv2d) or not pads_same(conv):
            raise Refused(f"{path} does not itself pad with zeros to keep the size: use verify=True")
    for path, module in candidate.module.named_modules():
        container = isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
        if path and not container and module not in candidate.convs.values():
            raise Refused(f"it has {path}: {type(module).__name__}: use verify=True")
    if len(roles) > 1:
        raise Refused("its channels leave open which convolution feeds which: use verify=True")
    return roles[0]


def _inline_hint(block: nn.Module, backend: str) -> str:
    """What to do about a refused block that holds the four convolutions and their sum among other operations."""
    try:
        inline.rewrite(block, backend)
    except Refused:
        return ""
    return "; the four convolutions and their sum alone, as a module of their own, could be swapped"


def _sizes(module: nn.Module, roles: Roles) -> Sizes:
    convs: Any = [module.get_submodule(path) for path in roles]
    return Sizes.of(convs)


def _gain(module: nn.Module, sizes: Sizes, backend: str) -> Gain | None:
    like = next(module.parameters())
    return expected_gain(sizes, like.dtype, like.device, backend)


def _count(convs: Iterable[nn.Module]) -> int:
    return sum(p.numel() for p in {p for conv in convs for p in conv.parameters()} if not nn.parameter.is_lazy(p))
