"""Whether the class of a module can be exchanged, and how the swapped module runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gcn_kernels.core import backends
from gcn_kernels.gcn.module import FusedGCN
from gcn_kernels.refine.module import FusedRefine
from gcn_kernels.strips.module import FusedStrips
from gcn_kernels.swap.expression import Fused
from gcn_kernels.swap.find import Candidate, batchnorms, hooked
from gcn_kernels.swap.fused_class import Watched, fused_class, is_swapped
from gcn_kernels.swap.report import ALREADY, Entry, Gain
from gcn_kernels.swap.rules import BATCHNORM
from gcn_kernels.swap.trial import Refused, fused_in
from gcn_kernels.upsample.module import FusedUpsample

#: The entry of the report, the module, and how it is to run if it is swapped.
Decision = tuple[Entry, nn.Module, Watched | None]


def watch(module: nn.Module, convs: Mapping[str, nn.Module], backend: str, families: Sequence[str]) -> Watched:
    """How ``module`` is to run with the convolutions ``convs`` (by path) fused; raises :class:`Refused` if it cannot."""
    watched_too = batchnorms(module) if BATCHNORM in families else {}
    children = tuple(dict.fromkeys(path.split(".")[0] for path in (*convs, *watched_too)))
    _check_hooks(module, children)
    watched = Watched(children, backend, tuple(families))
    class_for(module, watched)
    return watched


def check_class(module: nn.Module) -> None:
    """Raise :class:`Refused` unless the class can be exchanged for a subclass with another forward."""
    cls = type(module)
    if is_swapped(module) or isinstance(module, (FusedGCN, FusedRefine, FusedStrips, FusedUpsample)):
        raise Refused(ALREADY)
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


def _check_hooks(module: nn.Module, children: Iterable[str]) -> None:
    for name in children:
        for path, m in module.get_submodule(name).named_modules(prefix=name):
            if (hook := hooked(m)) is not None:
                raise Refused(f"{path} has {hook}, which works on the convolutions' own results")


def class_for(module: nn.Module, how: Watched) -> type[nn.Module]:
    """The class that ``module`` would get; raises :class:`Refused` where its own cannot be subclassed."""
    original: Any = type(module)
    try:
        return fused_class(original, how)
    except Exception as error:
        raise Refused(f"its class cannot be subclassed: {type(error).__name__}: {error}") from error


def about_batchnorm(module: nn.Module, channels: Sequence[int], families: Sequence[str], blocks: Sequence[Fused]) -> str:
    """What the report says of batch normalisation in ``module``, of which a trial gave ``blocks``; empty where nothing."""
    if not batchnorms(module):
        return ""
    if BATCHNORM in families:
        if not blocks:
            return "no BatchNorm folded: that is exact only right after a convolution, which pads with zeros"
        folds = _folds(blocks)
        return f"BatchNorm folded into {folds} of its convolutions in eval" if folds else ""
    folds = _folds(fused_in(module, channels, (*families, BATCHNORM)))
    return f"BatchNorm after {folds} of its convolutions: fold_batchnorm=True folds it in eval" if folds else ""


def _folds(blocks: Iterable[Fused]) -> int:
    return sum(step.normalises for block in blocks for step in block.steps)


def refuse_without_kernels(
    what: str, kernels: Sequence[str], unasked: Sequence[str] | None, like: Tensor, backend: str, force: bool
) -> None:
    """Raise :class:`Refused` where no kernels run for tensors like ``like``; see :func:`gcn_kernels.core.backends.choose`."""
    if backend not in ("auto", "torch", *kernels):
        raise Refused(f"backend {backend!r} has no kernels for {what}")
    if backend == "auto" and not force and like.device.type != "meta":
        x = torch.empty((1, 1, 1, 1), dtype=like.dtype, device=like.device)
        if backends.choose(backend, "auto", x, kernels, unasked) == "torch":
            raise Refused(f"there are no kernels for {what} of {like.dtype} on {like.device.type} here")


def refuse_slower(gain: Gain | None, most: float, force: bool) -> None:
    """Raise :class:`Refused` where more than ``most`` times PyTorch's time is expected, unless the swap is forced."""
    if gain is not None and gain.forward * most < 1 and not force:
        raise Refused(f"it is expected to run slower fused ({gain}); force=True swaps it all the same")


def entry_of(
    candidate: Candidate, sizes: Iterable[object], watched: Watched | None, reason: str, gain: Gain | None, family: str
) -> Entry:
    """The line of the report about a module that was decided on."""
    return Entry(
        place=candidate.places[0],
        also=candidate.places[1:],
        class_name=type(candidate.module).__name__,
        sizes="; ".join(dict.fromkeys(map(str, sizes))),
        swapped=watched is not None,
        reason=reason,
        parameters=_count(candidate.convs.values()),
        gain=gain,
        family=family,
    )


def _count(convs: Iterable[nn.Module]) -> int:
    """Number of parameters, each once."""
    return sum(p.numel() for p in {p for conv in convs for p in conv.parameters()} if not nn.parameter.is_lazy(p))
