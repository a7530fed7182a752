"""Boundary refinements and deconvolutions: which modules are swapped."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from gcn_kernels.refine import functional as refinement
from gcn_kernels.swap.expression import Fused
from gcn_kernels.swap.find import Candidate, places_of
from gcn_kernels.swap.find_refine import flaw, refinements
from gcn_kernels.swap.gain import TIMED_SLOWER, refine_gain, upsample_gain
from gcn_kernels.swap.may_swap import (
    Decision,
    about_batchnorm,
    check_class,
    entry_of,
    refuse_slower,
    refuse_without_kernels,
    watch,
)
from gcn_kernels.swap.report import ALREADY, RefineForm, UpsampleForm
from gcn_kernels.swap.steps import doubles
from gcn_kernels.swap.trial import Refused, fused_in, suspects
from gcn_kernels.upsample.functional import KERNELS, UNASKED


def refinements_of(
    model: nn.Module, left_out: set[nn.Module], verify: bool, backend: str, force: bool, more: tuple[str, ...] = ()
) -> Iterator[Decision]:
    """What is done with every module that could compute boundary refinements; ``more`` is fused in them as well."""
    families = ("refine", *more)
    tried: dict[nn.Module, list[Fused] | Refused] = {}

    def computes(module: nn.Module, convs: dict[str, nn.Conv2d]) -> bool:
        if not verify:
            return True
        try:
            check_class(module)
            if reasons := [f"{path} {reason}" for path, conv in convs.items() if (reason := flaw(conv)) is not None]:
                raise Refused("; ".join(reasons))
            tried[module] = fused_in(module, _input_channels(module, convs), families)
        except Refused as refusal:
            tried[module] = refusal
            return str(refusal) == ALREADY
        return bool(tried[module])

    for candidate in refinements(model, left_out, computes):
        yield _decide(candidate, tried.get(candidate.module), families, backend, force)


def _decide(
    candidate: Candidate, tried: list[Fused] | Refused | None, families: tuple[str, ...], backend: str, force: bool
) -> Decision:
    module, convs = candidate.module, candidate.convs
    forms: list[RefineForm] = []
    gain, watched, reason = None, None, ""
    try:
        check_class(module)
        if isinstance(tried, Refused):
            raise tried
        norms = about_batchnorm(module, _input_channels(module, convs), families, tried) if tried is not None else ""
        if tried == []:
            reasons = f"its forward computes no x + conv2(relu(conv1(x))){suspects(module, nn.ReLU)}", norms
            raise Refused("; ".join(filter(None, reasons)))
        # A hook on the ReLU works on a result inside, too.
        inside = {path: m for path, m in module.named_modules() if isinstance(m, nn.ReLU)} if len(convs) == 2 else {}
        watched = watch(module, convs | inside, backend, families)
        forms = [RefineForm.of(block) for block in tried or ()]
        like = _parameter(convs)
        refuse_without_kernels("boundary refinements", refinement.KERNELS, refinement.UNASKED, like, backend, force)
        gain = refine_gain(tuple(forms), like.dtype, like.device, backend) if forms else None
        refuse_slower(gain, TIMED_SLOWER, force)
        count = f"{len(forms)} refinements in its forward" if len(forms) > 1 else ""
        reason = "; ".join(filter(None, (count, norms)))
    except Refused as refusal:
        watched, reason = None, str(refusal)
    return entry_of(candidate, forms, watched, reason, gain, "refine"), module, watched


def deconvolutions_of(model: nn.Module, left_out: set[nn.Module], verify: bool, backend: str, force: bool) -> Iterator[Decision]:
    """What is done with every transposed convolution: one that doubles a map is swapped itself."""
    places = places_of(model)
    for module in model.modules():
        if isinstance(module, nn.ConvTranspose2d) and module not in left_out:
            yield _decide_deconvolution(module, places[module], verify, backend, force)


def _decide_deconvolution(
    module: nn.ConvTranspose2d, places: tuple[str, ...], verify: bool, backend: str, force: bool
) -> Decision:
    forms: list[UpsampleForm] = []
    gain, watched, reason = None, None, ""
    try:
        check_class(module)
        if any(nn.parameter.is_lazy(p) for p in module.parameters()):
            raise Refused("it is not initialised yet: run the model once, then convert")
        options = module.stride, module.padding, module.output_padding, module.groups, module.dilation
        if not doubles(module.weight, *options):
            raise Refused(
                f"it has kernel {module.kernel_size}, stride {module.stride}, padding {module.padding}, output_padding "
                f"{module.output_padding}, groups {module.groups}, dilation {module.dilation}: expected stride 2, groups 1 or "
                "one for each channel in and out, and 4 x 4 with padding 1, 3 x 3 with padding and output_padding 1, or 2 x 2"
            )
        watched = watch(module, {}, backend, ("upsample",))
        if verify and not fused_in(module, [module.in_channels], ("upsample",)):
            raise Refused("its forward computes no transposed convolution that doubles its map")
        kernel, groups = module.kernel_size[0], module.groups
        refuse_without_kernels("deconvolutions", KERNELS, UNASKED, module.weight, backend, force)
        forms = [UpsampleForm(module.in_channels, module.out_channels, module.bias is not None, kernel, groups)]
        gain = upsample_gain(forms[0], module.weight.dtype, module.weight.device, backend)
        refuse_slower(gain, TIMED_SLOWER, force)
    except Refused as refusal:
        watched, reason = None, str(refusal)
    candidate = Candidate(module, places, {"": module})
    return entry_of(candidate, forms, watched, reason, gain, "upsample"), module, watched


def _parameter(convs: dict[str, nn.Module]) -> Tensor:
    return next(iter(next(iter(convs.values())).parameters()))


def _input_channels(module: nn.Module, convs: Mapping[str, nn.Module]) -> list[int]:
    """What the map that ``module`` takes may have: channels of its convolutions, of its first one, of an image."""
    counts = [conv.in_channels for conv in convs.values() if isinstance(conv, nn.Conv2d)]
    first = next((m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)), 3)
    return [*counts[:2], first, 3] if len(counts) == 2 else [first, *dict.fromkeys(counts), 3]
