"""Find by structure: modules whose forward could add two 3 x 3 convolutions with a ReLU between to their map."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

from gcn_kernels.core.checks import DTYPES
from gcn_kernels.swap.find import Candidate, convolutions, has_forward, is_depthwise, places_of


def squares(module: nn.Module) -> dict[str, nn.Conv2d]:
    """Every convolution with a square, odd kernel in the subtree of ``module`` by path, each instance once."""
    found = {path: m for path, m in convolutions(module).items() if isinstance(m, nn.Conv2d) and not is_depthwise(m)}
    return {path: conv for path, conv in found.items() if _is_square(conv)}


def _is_square(conv: nn.Conv2d) -> bool:
    kh, kw = conv.kernel_size
    return kh == kw > 1 and kh % 2 == 1


def refinements(
    model: nn.Module, left_out: set[nn.Module], computes: Callable[[nn.Module, dict[str, nn.Conv2d]], bool]
) -> Iterator[Candidate]:
    """What computes boundary refinements, or looks as if it did; in the order of the model.

    The innermost module that computes one is taken. A module of exactly two convolutions that go there and back is an answer
    also if neither it nor what is around it computes one; a network with many convolutions is not.

    Args:
        model: that is searched.
        left_out: modules that may not be changed.
        computes: whether the forward of a module computes refinements of these convolutions.
    """
    claimed: set[nn.Module] = set()
    tried: set[nn.Module] = set()
    chosen: dict[nn.Module, Candidate] = {}
    pairs: dict[frozenset[nn.Module], Candidate] = {}
    for module, places in places_of(model).items():
        # What an nn.Sequential computes is no sum.
        if type(module) is nn.Sequential or not has_forward(module) or not left_out.isdisjoint(module.modules()):
            continue
        convs = {path: conv for path, conv in squares(module).items() if conv not in claimed and conv is not module}
        if len(convs) != 2:
            convs = {path: conv for path, conv in convs.items() if flaw(conv) is None}
        held = frozenset(convs.values())
        if not _there_and_back(held) or (len(held) > 2 and _all_in_one(held, module, tried)):
            continue
        tried.add(module)
        candidate = Candidate(module, places, dict(convs))
        if computes(module, convs):
            claimed |= held
            chosen[module] = candidate
        elif len(held) == 2:
            pairs.setdefault(held, candidate)
    chosen |= {c.module: c for held, c in pairs.items() if held.isdisjoint(claimed)}
    yield from (chosen[module] for module in model.modules() if module in chosen)


def _there_and_back(convs: Iterable[nn.Module]) -> bool:
    """Whether one of two of these convolutions gives what the other takes, and the other way round."""
    sizes: Any = list(convs)
    return any(a is not b and a.in_channels == b.out_channels and a.out_channels == b.in_channels for a in sizes for b in sizes)


def _all_in_one(convs: frozenset[nn.Module], module: nn.Module, tried: set[nn.Module]) -> bool:
    """Whether one child, which was tried, has all of these convolutions below it."""
    return any(child in tried and convs <= set(squares(child).values()) for child in module.children())


def flaw(conv: nn.Conv2d) -> str | None:
    """Why this convolution is none of a refinement, or None if it could be. A forward may pad, so its padding does not tell."""
    if any(nn.parameter.is_lazy(p) for p in conv.parameters()):
        return "is not initialised yet: run the model once, then convert"
    if conv.padding_mode != "zeros":
        return f"has padding_mode {conv.padding_mode!r}"
    if conv.kernel_size != (3, 3) or conv.stride != (1, 1) or conv.dilation != (1, 1) or conv.groups != 1:
        return (
            f"has kernel {conv.kernel_size}, stride {conv.stride}, dilation {conv.dilation}, groups {conv.groups}: expected "
            "3 x 3 with stride, dilation and groups of 1"
        )
    parameter = next(conv.parameters(), None)
    if parameter is None:
        return "has no parameters"
    return None if parameter.dtype in DTYPES else f"is of {parameter.dtype}"
