"""Find by structure: modules that call depthwise convolutions which strips could be made of."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gcn_kernels.swap.find import Candidate, convolutions, has_forward, is_depthwise, places_of
from gcn_kernels.swap.steps import keeps_size_depthwise

#: A module is taken instead of modules below it, so that their chains meet, up to this many convolutions.
MOST_CONVOLUTIONS = 16


def depthwise(module: nn.Module) -> dict[str, nn.Module]:
    """Every depthwise convolution in the subtree of ``module`` by path, each instance once."""
    return {path: conv for path, conv in convolutions(module).items() if is_depthwise(conv)}


def owners(model: nn.Module) -> list[Candidate]:
    """The innermost modules, with a forward, that hold depthwise convolutions."""
    claimed: set[nn.Module] = set()
    found = []
    for module, places in places_of(model).items():
        convs = {path: c for path, c in depthwise(module).items() if c not in claimed and c is not module}
        if convs and has_forward(module):
            claimed.update(convs.values())
            found.append(Candidate(module, places, convs))
    return found[::-1]


def joined(model: nn.Module, found: list[Candidate], calls: Callable[[Candidate], int]) -> Iterator[Candidate]:
    """``found``, with modules in the place of several below them whose chains they join.

    Args:
        model: that was searched.
        found: candidates.
        calls: how many calls of operators the forward of a candidate would make; 0 where it does not run.
    """
    chosen = {c.module: c for c in found}
    for module, places in places_of(model).items():
        inside = [c for m in module.modules() if m is not module and (c := chosen.get(m)) is not None]
        below = {m for c in inside for m in c.module.modules() if m is not c.module}
        # What a module calls counts what is called in modules below it.
        outermost = [c for c in inside if c.module not in below]
        if len(outermost) < 2 or module in chosen or not has_forward(module):
            continue
        convs = depthwise(module)
        if len(convs) > MOST_CONVOLUTIONS:
            continue
        candidate = Candidate(module, places, convs)
        if 0 < calls(candidate) < sum(map(calls, outermost)):
            for c in inside:
                del chosen[c.module]
            chosen[module] = candidate
    order = {module: i for i, module in enumerate(model.modules())}
    yield from sorted(chosen.values(), key=lambda c: order[c.module])


def _like_weight(c: Any) -> Tensor:
    """A tensor of the shape of a convolution's weight: reading a parametrized one can run a power iteration."""
    return torch.empty((c.out_channels, c.in_channels // c.groups, *c.kernel_size), device="meta")


def flaws(convs: dict[str, nn.Module]) -> list[str]:
    """Why each of these depthwise convolutions is none of strips; nothing for one that could be."""
    found = []
    for path, conv in convs.items():
        c: Any = conv
        if any(nn.parameter.is_lazy(p) for p in c.parameters()):
            found.append(f"{path} is not initialised yet: run the model once, then convert")
        elif c.padding_mode != "zeros":
            found.append(f"{path} has padding_mode {c.padding_mode!r}")
        elif keeps_size_depthwise(_like_weight(c), c.stride, c.padding, c.dilation, c.groups) is None:
            found.append(
                f"{path} has kernel {c.kernel_size}, stride {c.stride}, padding {c.padding}, dilation {c.dilation}: expected an "
                "odd kernel, stride 1 and zeros that keep the size"
            )
    return found
