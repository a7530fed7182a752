"""Strips: which modules are swapped."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from torch import nn

from gcn_kernels.strips.functional import KERNELS, UNASKED
from gcn_kernels.strips.module import FusedStrips
from gcn_kernels.swap.direct import is_plain
from gcn_kernels.swap.expression import Fused
from gcn_kernels.swap.find import Candidate, batchnorms, places_of
from gcn_kernels.swap.find_strips import flaws, joined, owners
from gcn_kernels.swap.fused_class import Watched
from gcn_kernels.swap.gain import TIMED_SLOWER, alone_gain, strips_gain
from gcn_kernels.swap.may_swap import (
    Decision,
    about_batchnorm,
    check_class,
    class_for,
    entry_of,
    refuse_slower,
    refuse_without_kernels,
    watch,
)
from gcn_kernels.swap.report import ALREADY, StripsForm
from gcn_kernels.swap.rules import BATCHNORM
from gcn_kernels.swap.trial import Refused, Trial, trial_of

#: How a convolution that stands alone runs.
ALONE = Watched((), "auto", ("strips",), alone=True)


def strips_of(
    model: nn.Module, left_out: set[nn.Module], verify: bool, backend: str, force: bool, more: tuple[str, ...] = ()
) -> Iterator[Decision]:
    """What is done with every module that holds depthwise convolutions; ``more`` is fused in them as well."""
    families = ("strips", *more)
    ready = {m for block in model.modules() if isinstance(block, FusedStrips) for m in block.modules()}
    found = [c for c in owners(model) if c.module not in left_out and c.module not in ready]

    places = places_of(model)
    parents = {child: module for module in model.modules() for child in module.children()}

    @cache
    def tried(module: nn.Module) -> Trial | Refused:
        try:
            return trial_of(module, _input_channels(module, parents.get(module)), families)
        except Refused as refusal:
            return refusal

    def calls(candidate: Candidate) -> int:
        result = tried(candidate.module)
        return 0 if isinstance(result, Refused) else len(result.fused)

    for candidate in joined(model, found, calls) if verify else found:
        module, channels = candidate.module, _input_channels(candidate.module, parents.get(candidate.module))
        trial = tried(module) if verify else None
        if not isinstance(trial, Trial) or not _all_alone(candidate, trial):
            if left_out.isdisjoint(module.modules()):
                yield _decide(candidate, trial, channels, families, backend, force)
            continue
        norms = _foldable(module, channels, families)
        for path, conv in candidate.convs.items():
            if conv in left_out:
                continue
            entry, _, watched = _decide_alone(conv, places[conv], trial.alone.get(path, []), families, backend, force)
            if path in norms and entry.swapped:
                reason = "; ".join(filter(None, (entry.reason, "BatchNorm after it: fold_batchnorm=True folds it in eval")))
                entry = replace(entry, reason=reason)
            yield entry, conv, watched


def _all_alone(candidate: Candidate, trial: Trial) -> bool:
    """Whether every call is one convolution with nothing else in it, so that these can be swapped instead of what calls them."""
    calls = sum(block.family == "strips" for block in trial.fused)
    if calls == 0 or sum(map(len, trial.alone.values())) != calls:
        return False
    for path in trial.alone.keys() & candidate.convs.keys():
        conv = candidate.convs[path]
        if _was_swapped(conv):
            continue
        try:
            check_class(conv)
            class_for(conv, ALONE)
        except Refused:
            return False
        if not is_plain(type(conv)):
            return False
    return True


def _was_swapped(conv: nn.Module) -> bool:
    """Whether a convolution is of a generated class, or of one that was made of it since: parametrized, say."""
    return hasattr(type(conv), "_gcn_how")


def _foldable(module: nn.Module, channels: list[int], families: tuple[str, ...]) -> frozenset[str]:
    """Paths of the convolutions whose normalisation could be folded, where that was not asked for."""
    if BATCHNORM in families or not batchnorms(module):
        return frozenset()
    try:
        return trial_of(module, channels, (*families, BATCHNORM)).normalised
    except Refused:
        return frozenset()


def _decide_alone(
    conv: nn.Module, places: tuple[str, ...], blocks: list[Fused], families: tuple[str, ...], backend: str, force: bool
) -> Decision:
    forms = [StripsForm.of(block) for block in blocks]
    gain, watched, reason = None, None, ""
    try:
        if _was_swapped(conv):
            raise Refused(ALREADY)
        if reasons := flaws({"it": conv}):
            raise Refused(reasons[0])
        if not forms:
            raise Refused("no forward computes it")
        like = next(conv.parameters())
        refuse_without_kernels("strips", KERNELS, UNASKED, like, backend, force)
        watched = ALONE._replace(backend=backend, families=families)
        if not force and (timed := alone_gain(forms[0], like.dtype, like.device, backend)) is not None:
            gain, smallest = timed
            if gain is None:
                raise Refused("an operator is not expected to run faster; force=True swaps it all the same")
            if backend == "auto":  # which may choose for every call
                watched = watched._replace(smallest=smallest)
        reason = f"{len(forms)} calls in a forward" if len(forms) > 1 else ""
    except Refused as refusal:
        watched, reason = None, str(refusal)
    return entry_of(Candidate(conv, places, {"": conv}), forms, watched, reason, gain, "strips"), conv, watched


def _decide(
    candidate: Candidate,
    tried: Trial | Refused | None,
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
        # A module below that was swapped before computes its own family as well.
        blocks = [] if tried is None else [block for block in tried.fused if block.family == "strips"]
        if tried is not None and not blocks:
            raise Refused("its forward computes no depthwise convolution of them")
        forms = [StripsForm.of(block) for block in blocks]
        like = next(iter(next(iter(convs.values())).parameters()))
        refuse_without_kernels("strips", KERNELS, UNASKED, like, backend, force)
        gain = strips_gain(tuple(forms), like.dtype, like.device, backend) if forms else None
        refuse_slower(gain, TIMED_SLOWER, force)
        calls = f"{len(forms)} calls in its forward" if len(forms) > 1 else ""
        norms = about_batchnorm(module, channels, families, blocks) if blocks else ""
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
