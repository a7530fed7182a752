"""Find by structure: modules that hold exactly four convolutions which could form a GCN block.

Names and registration order mean nothing here; only kernel shapes and channel counts do. A *line* convolution has its kernel
along one axis (k x 1 or 1 x k). A candidate is the innermost module with a forward of its own whose subtree holds exactly four
convolutions, all of them lines, two along each axis. What such a module computes is for :mod:`gcn_kernels.swap.trial` to say.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import nn

from gcn_kernels.core.checks import DTYPES

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
#: Where ``nn.Module`` keeps the hooks that fire around a call.
CALL_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

#: Paths, relative to the block, of l1 (k x 1), l2 (1 x k), r1 (1 x k), r2 (k x 1).
Roles = tuple[str, str, str, str]


@dataclass(frozen=True)
class Candidate:
    """A module that looks like a GCN block: where it is registered, and its four convolutions by path inside it."""

    module: nn.Module
    places: tuple[str, ...]
    convs: dict[str, nn.Module]


def kernel_of(module: nn.Module) -> tuple[int, ...] | None:
    """Kernel size of a convolution (ordinary or scripted), None for any other module."""
    if isinstance(module, CONVOLUTIONS):
        return tuple(module.kernel_size)
    if isinstance(module, torch.jit.ScriptModule) and module.original_name in {c.__name__ for c in CONVOLUTIONS}:
        weight: Any = module.weight
        return tuple(weight.shape[2:])
    return None


def is_line(kernel: tuple[int, ...]) -> bool:
    """Whether a kernel extends along one axis at most."""
    return len(kernel) > 1 and sum(k > 1 for k in kernel) <= 1


def convolutions(module: nn.Module) -> dict[str, nn.Module]:
    """Every convolution in the subtree of ``module`` by path, each instance once."""
    return {path: m for path, m in module.named_modules() if kernel_of(m) is not None}


def is_depthwise(module: nn.Module) -> bool:
    """Whether ``module`` is a convolution of every channel by itself."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels


def batchnorms(module: nn.Module) -> dict[str, nn.Module]:
    """Every batch normalisation in the subtree of ``module`` by path, each instance once."""
    return {path: m for path, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}


def has_forward(module: nn.Module) -> bool:
    """Whether calling ``module`` does anything: containers such as ``nn.ModuleList`` have no forward."""
    if isinstance(module, torch.jit.ScriptModule):
        return module.original_name not in ("ModuleList", "ModuleDict")
    own_call = type(module).__call__ is not nn.Module.__call__
    return own_call or "forward" in vars(module) or type(module).forward is not nn.Module.forward


def places_of(model: nn.Module) -> dict[nn.Module, tuple[str, ...]]:
    """Every module of ``model`` with all the places it is registered at, children before their parents."""
    places: dict[nn.Module, list[str]] = {}
    for place, module in model.named_modules(remove_duplicate=False):
        places.setdefault(module, []).append(place)
    return {module: tuple(places[module]) for module in reversed(places)}


def candidates(model: nn.Module) -> Iterator[Candidate]:
    """Yield the modules of ``model`` that look like a GCN block, innermost only."""
    tried: set[nn.Module] = set()
    found = []
    for module, places in places_of(model).items():
        if not has_forward(module):
            continue
        convs = convolutions(module)
        if len(convs) != 4 or not tried.isdisjoint(module.modules()):
            continue
        tried.add(module)
        if _looks_like_a_block(list(convs.values())):
            found.append(Candidate(module, places, convs))
    yield from reversed(found)


def owners(model: nn.Module, claimed: set[nn.Module]) -> Iterator[Candidate]:
    """Yield the innermost modules, with a forward, that hold enough other line convolutions for a block written inline."""
    claimed = set(claimed)
    found = []
    for module, places in places_of(model).items():
        convs = {path: c for path, c in convolutions(module).items() if c not in claimed and not is_depthwise(c)}
        lines = {path: c for path, c in convs.items() if _axis(c) is not None}
        axes = [_axis(c) for c in lines.values()]
        if has_forward(module) and axes.count(0) >= 2 and axes.count(1) >= 2:
            claimed.update(lines.values())
            found.append(Candidate(module, places, lines))
    yield from reversed(found)


def _axis(conv: nn.Module) -> int | None:
    """The axis (0: H, 1: W) of a line convolution longer than 1, None for any other."""
    kernel = kernel_of(conv) or ()
    return kernel.index(max(kernel)) if len(kernel) == 2 and is_line(kernel) and max(kernel) > 1 else None


def _looks_like_a_block(convs: list[nn.Module]) -> bool:
    kernels = [kernel_of(c) or () for c in convs]
    if any(not is_line(k) or len(k) != len(kernels[0]) for k in kernels):
        return False
    axes = [[axis for axis, size in enumerate(k) if size > 1] for k in kernels]
    used = [a[0] for a in axes if a]
    # 1 x 1 kernels can stand for either axis, but four of them are no large kernel.
    return len(set(used)) == 2 and all(used.count(axis) <= 2 for axis in used)


def flaw(convs: dict[str, nn.Module]) -> str | None:
    """Why these four convolutions cannot form a block whatever the forward does, or None."""
    for path, conv in convs.items():
        if not isinstance(conv, nn.Conv2d):
            return f"{path} is a {type(conv).__name__}, expected Conv2d"
        # Not conv.weight: reading a parametrized weight can run a power iteration.
        if any(nn.parameter.is_lazy(p) for p in conv.parameters()):
            return f"{path} is not initialised yet: run the model once, then convert"
        for what in ("stride", "dilation"):
            value = tuple(getattr(conv, what))
            if value != (1, 1):
                return f"{path} has {what} {value}, expected (1, 1)"
        if conv.groups != 1:
            return f"{path} has groups {conv.groups}, expected 1"
        if any(k % 2 == 0 for k in conv.kernel_size):
            return f"{path} has an even kernel {tuple(conv.kernel_size)}"
        if not isinstance(conv.padding, str) and any(not isinstance(p, int) for p in conv.padding):
            return f"{path} has padding {conv.padding}, which PyTorch cannot run: make it whole numbers"
    tensors = [p for conv in convs.values() for p in conv.parameters()]
    for t in tensors:
        if t.dtype not in DTYPES:
            return f"its convolutions are of {t.dtype}"
    for what in ("device", "dtype"):
        kinds = sorted({str(getattr(t, what)) for t in tensors})
        if len(kinds) > 1:
            return f"its convolutions are on more than one {what}: {', '.join(kinds)}"
    if not assignments(convs):
        return "its four convolutions do not chain by channels into (k x 1, 1 x k) and (1 x k, k x 1) branches"
    return None


def assignments(convs: dict[str, nn.Module]) -> list[Roles]:
    """Every way to give the four convolutions the roles l1, l2, r1, r2 that kernel shapes and channels allow."""
    found = []
    for l1, l2, r1, r2 in permutations(convs):
        kernels = [kernel_of(convs[path]) or () for path in (l1, l2, r1, r2)]
        along = all(kernel[1 - axis] == 1 for kernel, axis in zip(kernels, (0, 1, 1, 0), strict=True))
        sizes: Any = [convs[path] for path in (l1, l2, r1, r2)]
        c_l1, c_l2, c_r1, c_r2 = sizes
        reads = c_l1.in_channels == c_r1.in_channels and c_l2.out_channels == c_r2.out_channels
        chains = c_l1.out_channels == c_l2.in_channels and c_r1.out_channels == c_r2.in_channels
        if along and reads and chains:
            found.append((l1, l2, r1, r2))
    return found


def hooked(module: nn.Module) -> str | None:
    """Which kind of call hook ``module`` carries, or None."""
    for name in CALL_HOOKS:
        if hooks := getattr(module, name):
            hook = next(iter(hooks.values()))
            title = getattr(hook, "__qualname__", type(hook).__name__)
            return f"a {name.strip('_').replace('_', ' ').removesuffix('s')} ({title})"
    return None
