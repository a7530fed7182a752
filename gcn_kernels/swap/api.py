"""``convert_gcn``, ``convert_model`` and ``revert_gcn``: find, try, swap, report; and back."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

from gcn_kernels.core import backends
from gcn_kernels.swap.find import Candidate, assignments, candidates, convolutions, flaw, is_depthwise, owners
from gcn_kernels.swap.fused_class import Watched, fused_class, is_swapped, swap_out
from gcn_kernels.swap.gain import expected_gain
from gcn_kernels.swap.may_swap import Decision, about_batchnorm, check_class, entry_of, refuse_slower, watch
from gcn_kernels.swap.report import Entry, Sizes, SwapReport
from gcn_kernels.swap.rules import BATCHNORM, FAMILIES
from gcn_kernels.swap.swap_refine import deconvolutions_of, refinements_of
from gcn_kernels.swap.swap_strips import strips_of
from gcn_kernels.swap.trial import Refused, fused_in, suspects

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
    ``torch.compile`` the same match is made on what is traced; under ``torch.export``, ``torch.jit``, torch.fx, ONNX and
    ``torch.func`` transforms the plain convolutions run.

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
    return convert_model(model, families=("gcn",), verify=verify, inplace=inplace, backend=backend, force=force, exclude=exclude)


def convert_model(
    model: nn.Module,
    families: Sequence[str] = ("gcn", "strips", "refine", "upsample"),
    *,
    verify: bool = True,
    inplace: bool = True,
    backend: str = "auto",
    force: bool = False,
    exclude: Sequence[str] = (),
    fold_batchnorm: bool = False,
) -> SwapReport:
    """Make what a model computes run as fused operators: GCN blocks, depthwise strips, boundary refinements, deconvolutions.

    As :func:`convert_gcn`, for more families. With ``"strips"``, depthwise convolutions of stride 1 that keep the size (1 x k,
    k x 1, up to 11 x 11, rectangles such as 51 x 5, any dilation) run as :func:`gcn_kernels.fused_strips`: chains of them as one
    operator, with a first convolution that several chains read, and with the sums of chains, as the forward computes them. The
    attention of SegNeXt (MSCA), Strip R-CNN, LSKA, CAA and CPCA become one call each; a convolution that stands alone becomes
    one too. Whatever is in between, a normalisation or an activation, ends a chain (but see ``fold_batchnorm``).

    With ``"refine"``, the boundary refinement of the paper, ``x + conv2(relu(conv1(x)))`` with 3 x 3 kernels, runs as
    :func:`gcn_kernels.fused_refine`: in either order of the sum, with a ReLU or a sum in place, padding inside or outside of the
    convolutions. With ``"upsample"``, an ``nn.ConvTranspose2d`` that doubles a map with a kernel of 4 x 4, 3 x 3 or 2 x 2,
    of all channels or of each by itself, runs as :func:`gcn_kernels.fused_upsample`.

    A module that PyTorch computes faster stays as it is: by the plan, or timed forward for about a tenth of a second for each
    form, strips on maps of several sizes in both layouts. :func:`revert_gcn` undoes the swap.

    Args:
        model: any module, also under ``DistributedDataParallel`` or ``torch.compile``.
        families: of operators, one or more of ``"gcn"``, ``"strips"``, ``"refine"``, ``"upsample"``.
        verify: make the trial. Without it everything with the structure is swapped.
        inplace: convert ``model`` itself, or else a deep copy of it, found in ``report.model``.
        backend: see the operators. What has no kernels for it is refused.
        force: swap what is expected to run slower fused as well.
        exclude: places of modules to leave as they are, with everything below them.
        fold_batchnorm: fold a batch normalisation that follows a convolution of a block into it, in every call in eval mode,
            from the values of that call. The result then differs by rounding. In training mode, in float16 and under
            ``torch.compile`` the normalisation runs itself, as everywhere without this.

    Returns:
        The report; ``print(report)`` shows it as a table.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: an unknown family or backend; a place to exclude that does not exist.

    Example:
        >>> strips = nn.Conv2d(8, 8, (1, 11), padding=(0, 5), groups=8), nn.Conv2d(8, 8, (11, 1), padding=(5, 0), groups=8)
        >>> report = convert_model(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(*strips)), force=True)
        >>> report.swapped[0].place, report.swapped[0].sizes
        ('1', '8: 1x11 11x1')

    Source: figure 2 of Peng et al. 2017 for the GCN block, the refinement and the deconvolution; Guo et al., *SegNeXt*, NeurIPS
    2022, section 3.1 for strips.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if isinstance(families, str) or not families or not all(family in FAMILIES for family in families):
        raise ValueError(f"families: expected one or more of {', '.join(FAMILIES)}, got {families!r}")
    if backend not in backends.BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(backends.BACKENDS)}, got {backend!r}")
    if not inplace:
        model = copy.deepcopy(model)
    places = dict(model.named_modules(remove_duplicate=False))
    if unknown := [place for place in exclude if place not in places]:
        raise ValueError(f"exclude: expected places of modules as in named_modules(), got {unknown}")
    left_out = {m for place in exclude for m in places[place].modules()}
    # Nothing is changed before everything is decided.
    entries: list[Entry] = []
    how: dict[nn.Module, Watched] = {}
    for family in dict.fromkeys(families):
        more = ((BATCHNORM,),) if fold_batchnorm and family != "upsample" else ()
        for entry, module, watched in _DECIDE[family](model, left_out, verify, backend, force, *more):
            if (
                watched is None
                and family == "gcn"
                and "strips" in families
                and any(map(is_depthwise, convolutions(module).values()))
            ):
                continue  # the other family has an entry for it
            entries.append(entry)
            if watched is not None:
                how[module] = _both(how.get(module), watched)
    original: Any = type
    classes = {module: fused_class(original(module), watched) for module, watched in how.items()}
    changed: list[nn.Module] = []
    try:
        for module, cls in classes.items():
            module.__class__ = cls
            changed.append(module)
    except BaseException:
        for module in changed:
            swap_out(module)
        raise
    return SwapReport(model, entries, tuple(dict.fromkeys(families)))


def _both(first: Watched | None, second: Watched) -> Watched:
    if first is None:
        return second
    children = first.children + second.children if first.children and second.children else None
    families = tuple(dict.fromkeys((*first.families, *second.families)))
    return Watched(children and tuple(dict.fromkeys(children)), second.backend, families)


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


def _gcn_blocks(
    model: nn.Module, left_out: set[nn.Module], verify: bool, backend: str, force: bool, more: tuple[str, ...] = ()
) -> Iterator[Decision]:
    found = [c for c in candidates(model) if c.module not in left_out]
    claimed = {conv for c in found for conv in c.convs.values()}
    found += [c for c in owners(model, claimed) if c.module not in left_out]
    for candidate in found:
        yield _decide(candidate, verify, ("gcn", *more), backend, force)


_DECIDE: dict[str, Callable[..., Iterator[Decision]]] = {
    "gcn": _gcn_blocks,
    "strips": strips_of,
    "refine": refinements_of,
    "upsample": deconvolutions_of,
}


def _decide(candidate: Candidate, verify: bool, families: tuple[str, ...], backend: str, force: bool) -> Decision:
    module, convs = candidate.module, candidate.convs
    sizes, gain, watched, reason = [], None, None, ""
    try:
        check_class(module)
        if len(convs) == 4 and (flawed := flaw(convs)) is not None:
            raise Refused(flawed)
        sizes = _sizes(module, convs)
        watched = watch(module, convs, backend, families)
        channels = _input_channels(module, convs)
        blocks = fused_in(module, channels, families) if verify else None
        norms = about_batchnorm(module, channels, families, blocks) if blocks is not None else ""
        if blocks == []:
            none = (
                "its forward computes no sum of a k x 1, 1 x k and a 1 x k, k x 1 branch with nothing between "
                f"the convolutions{suspects(module)}"
            )
            raise Refused("; ".join(filter(None, (none, norms))))
        if sizes:
            like = next(iter(next(iter(convs.values())).parameters()))
            gain = expected_gain(sizes[0], like.dtype, like.device, backend)
        refuse_slower(gain, SLOWER, force)
        count = len(blocks or (None,))
        several = f"{count} block{'s' * (count > 1)} in its forward" if len(convs) > 4 or count > 1 else ""
        reason = "; ".join(filter(None, (several, norms)))
    except Refused as refusal:
        watched, reason = None, str(refusal)
    return entry_of(candidate, sizes, watched, reason, gain, "gcn"), module, watched


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
