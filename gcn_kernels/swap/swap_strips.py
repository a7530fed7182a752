"""Strips: which modules are swapped."""

from collections.abc import Iterator
from functools import cache

from torch import nn

from gcn_kernels.strips.functional import KERNELS, UNASKED
from gcn_kernels.strips.module import FusedStrips
from gcn_kernels.swap.expression import Fused
from gcn_kernels.swap.find import Candidate
from gcn_kernels.swap.find_strips import flaws, joined, owners
from gcn_kernels.swap.gain import strips_gain
from gcn_kernels.swap.may_swap import (
    TIMED_SLOWER,
    Decision,
    about_batchnorm,
    check_class,
    entry_of,
    refuse_slower,
    refuse_without_kernels,
    watch,
)
from gcn_kernels.swap.report import StripsForm
from gcn_kernels.swap.trial import Refused, fused_in


def strips_of(
    model: nn.Module, left_out: set[nn.Module], verify: bool, backend: str, force: bool, more: tuple[str, ...] = ()
) -> Iterator[Decision]:
    """What is done with every module that holds depthwise convolutions; ``more`` is fused in them as well."""
    families = ("strips", *more)
    ready = {m for block in model.modules() if isinstance(block, FusedStrips) for m in block.modules()}
    found = [c for c in owners(model) if c.module not in left_out and c.module not in ready]

    parents = {child: module for module in model.modules() for child in module.children()}

    @cache
    def tried(module: nn.Module) -> list[Fused] | Refused:
        try:
            return fused_in(module, _input_channels(module, parents.get(module)), families)
        except Refused as refusal:
            return refusal

    def calls(candidate: Candidate) -> int:
        result = tried(candidate.module)
        return 0 if isinstance(result, Refused) else len(result)

    for candidate in joined(model, found, calls) if verify else found:
        if not left_out.isdisjoint(candidate.module.modules()):
            continue
        channels = _input_channels(candidate.module, parents.get(candidate.module))
        yield _decide(candidate, tried(candidate.module) if verify else None, channels, families, backend, force)


def _decide(
    candidate: Candidate,
    tried: list[Fused] | Refused | None,
    channels: list[int],
    families: tuple[str, ...],
    backend: str,
    force: bool,
) -> Decision:
    module, convs = candidate.module, candidate.convs
    forms: list[StripsForm] = []
    gain, watched, reason = None, None, ""
    try:
        check_class(module)
        reasons = flaws(convs)
        if len(reasons) == len(convs):
            raise Refused("; ".join(reasons))
        watched = watch(module, convs, backend, families)
        if isinstance(tried, Refused):
            raise tried
        if tried == []:
            raise Refused("its forward computes no depthwise convolution of them")
        forms = [StripsForm.of(block) for block in tried or ()]
        watched = watched._replace(alone=bool(forms) and all(form.alone for form in forms))
        like = next(iter(next(iter(convs.values())).parameters()))
        refuse_without_kernels("strips", KERNELS, UNASKED, like, backend, force)
        gain = strips_gain(tuple(forms), like.dtype, like.device, backend) if forms else None
        refuse_slower(gain, TIMED_SLOWER, force)
        calls = f"{len(forms)} calls in its forward" if len(forms) > 1 else ""
        norms = about_batchnorm(module, channels, families, tried) if tried else ""
        reason = "; ".join(filter(None, (calls, norms, *reasons)))
    except Refused as refusal:
        watched, reason = None, str(refusal)
    return entry_of(candidate, forms, watched, reason, gain, "strips"), module, watched


def _input_channels(module: nn.Module, parent: nn.Module | None) -> list[int]:
    """What the map that ``module`` takes may have: channels of its convolutions, of what is beside it, of an image."""
    found = [m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)]
    for m in parent.children() if parent is not None else ():
        # Of a convolution, a linear layer, a normalisation.
        found += [n for name in ("in_channels", "in_features", "num_features") if isinstance(n := getattr(m, name, None), int)]
    return list(dict.fromkeys([*found, 3]))
