"""Which chains of steps, and which sums of them, a fused operator computes.

A rule takes the two sides of a sum and the backend, and gives the call of a fused operator that computes it, or None. Another
operator is another rule; other kinds of steps that it needs are further classes in :mod:`gcn_kernels.swap.expression` and entries
of :data:`gcn_kernels.swap.steps.EXTEND`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from gcn_kernels.gcn.functional import fused_gcn
from gcn_kernels.refine.functional import fused_refine
from gcn_kernels.strips.functional import fused_strips
from gcn_kernels.swap.expression import (
    Convolution,
    Depthwise,
    Expression,
    Fused,
    Given,
    Rectified,
    Square,
    Step,
    Sum,
    Weighted,
    ZeroAdded,
    folded,
)
from gcn_kernels.upsample.functional import fused_upsample

__all__ = [
    "BATCHNORM",
    "FAMILIES",
    "RULES",
    "Rule",
    "arrange",
    "chain",
    "doubling",
    "fused_gcn",
    "fused_refine",
    "fused_strips",
    "fused_upsample",
    "gcn",
    "refine",
    "strips",
]


class Rule(Protocol):
    """See the module."""

    def __call__(self, left: Expression, right: Expression, backend: str) -> Fused | None: ...


def gcn(left: Expression, right: Expression, backend: str) -> Fused | None:
    """The block of Peng et al. 2017: k x 1, 1 x k plus 1 x k, k x 1 over the same map."""
    left_end: Any = left.source if type(left) is ZeroAdded else left
    right_end: Any = right.source if type(right) is ZeroAdded else right
    if type(left_end) is not Convolution or type(right_end) is not Convolution or left_end.axis == right_end.axis:
        return None
    first_left, first_right = left_end.before, right_end.before
    if type(first_left) is not Convolution or type(first_right) is not Convolution:
        return None
    if first_left.before is not first_right.before:
        return None
    x = left.x
    if left_end.axis == 0:
        # The sum takes its layout from its left operand, which matters to the operator only through the first weights.
        left_end, right_end, first_left, first_right = right_end, left_end, first_right, first_left
    convs = (first_left, left_end, first_right, right_end)
    return Fused("gcn", x, _parameters(convs), None, convs, lambda: fused_gcn(x, *folded(convs), backend=backend))


def _parameters(convs: Sequence[Weighted]) -> tuple[Tensor | None, ...]:
    return (*(conv.weight for conv in convs), *(conv.bias for conv in convs))


def strips(left: Expression, right: Expression, backend: str) -> Fused | None:
    """Chains of depthwise convolutions over one map, which may be the result of such a chain and be added itself."""
    terms: list[Any] = [t for side in (left, right) for t in (side.terms if isinstance(side, Sum) else (side,))]
    terms = [t.source if type(t) is ZeroAdded else t for t in terms]
    if not all(type(t) is Depthwise or type(t) is Given for t in terms):
        return None
    roots, chains = zip(*map(_chain, terms), strict=True)
    if any(root is not roots[0] for root in roots):
        return None
    arranged = arrange(chains)
    if arranged is None:
        return None
    stem, branches, skip = arranged
    return _strips(roots[0] if stem is None else stem.before, branches, stem, skip, backend)


def arrange(chains: Sequence[list[Any]]) -> tuple[Any, list[list[Any]], bool] | None:
    """The last step that all chains share (None if there is none), what follows it, and whether its result is a term itself."""
    shared = 0
    while all(len(chain) > shared and chain[shared] == chains[0][shared] for chain in chains):
        shared += 1
    branches = [chain[shared:] for chain in chains if len(chain) > shared]
    skips = len(chains) - len(branches)
    if skips > 1 or not branches:
        return None
    return chains[0][shared - 1] if shared else None, branches, skips == 1


def chain(end: Depthwise, backend: str) -> Fused:
    """The chain of depthwise convolutions that ends with ``end``, from the last result that is known."""
    root, steps = _chain(end)
    return _strips(root, [steps], None, False, backend)


def _chain(term: Step) -> tuple[Tensor | Step, list[Depthwise]]:
    """The depthwise convolutions that lead to ``term``, in order, and what the first of them reads."""
    steps: list[Depthwise] = []
    source: Any = term.source if type(term) is Given else term
    while type(source) is Depthwise and source.whole:
        steps.append(source)
        source = source.before
    return source, steps[::-1]


def _strips(
    source: Tensor | Step, branches: Sequence[Sequence[Depthwise]], stem: Depthwise | None, skip: bool, backend: str
) -> Fused:
    convs = (*([stem] if stem is not None else []), *(conv for branch in branches for conv in branch))
    form = (stem is not None, tuple(map(len, branches)), skip, tuple(conv.dilation for conv in convs))

    def step(conv: Depthwise) -> Any:
        return *conv.folded(), conv.dilation

    def call() -> Tensor:
        x = source.value() if isinstance(source, Step) else source
        steps = [[step(conv) for conv in branch] for branch in branches]
        return fused_strips(x, steps, stem=None if stem is None else step(stem), skip=skip, backend=backend)

    return Fused("strips", source.x if isinstance(source, Step) else source, _parameters(convs), form, convs, call)


def refine(left: Expression, right: Expression, backend: str) -> Fused | None:
    """A map plus two 3 x 3 convolutions of it with a ReLU between, in either order."""
    second: Any = right if type(left) is Given else left
    given: Any = left if type(left) is Given else right
    if type(given) is not Given or type(second) is not Square or type(second.before) is not Rectified:
        return None
    first: Any = second.before.source
    x: Any = given.source
    if first.before is not x:
        return None

    convs = (first, second)
    return Fused("refine", x, _parameters(convs), None, convs, lambda: fused_refine(x, *folded(convs), backend=backend))


def doubling(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, backend: str) -> Fused:
    """The transposed convolution that doubles a map."""

    def call() -> Tensor:
        return fused_upsample(x, weight, bias, groups=groups, backend=backend)

    return Fused("upsample", x, (weight, bias), groups, (), call)


RULES: dict[str, Rule] = {"gcn": gcn, "strips": strips, "refine": refine}
#: What may be fused: what a rule has an operator for, and what one call is the whole of.
FAMILIES = (*RULES, "upsample")
#: Among the families of a module: a normalisation in eval mode that follows a convolution is folded into it.
BATCHNORM = "batchnorm"
