"""Derivatives: checked numerically in float64 to the second order, against the definition to the third."""

from collections.abc import Callable

import pytest
import torch
from cases import SMALL, WEIGHTS, Case, make
from implementations import Implementation, every_backend, every_compiled_backend
from torch import Tensor

from gcn_kernels import reference

CASES = {
    "plain": Case("plain", n=1, c=2, h=3, w=2, mid_l=2, mid_r=1, out=2, k=(3, 3, 3, 3)),
    "k_gt_map": Case("k_gt_map", n=2, c=1, h=1, w=2, mid_l=1, mid_r=2, out=1, k=(3, 5, 5, 3)),
    "no-bias": Case("no-bias", n=1, c=2, h=3, w=2, mid_l=1, mid_r=2, out=2, k=(3, 1, 5, 3), biases=()),
    "only-b_r1": Case("only-b_r1", n=1, c=2, h=3, w=3, mid_l=1, mid_r=2, out=1, k=(3, 3, 3, 3), biases=("b_r1",)),
    "batch0": Case("batch0", n=0, c=2, h=2, w=2, mid_l=1, mid_r=1, out=1, k=(3, 3, 3, 3)),
}
every_problem = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_layout = pytest.mark.parametrize("layout", ["nchw", "channels_last"])


def of_given_arguments(run: Callable[..., Tensor], case: Case) -> Callable[..., Tensor]:
    """``run`` as a function of the arguments that are there, which is what the checks perturb."""
    there = [t is not None for t in make(case).arguments]

    def function(*given: Tensor) -> Tensor:
        rest = iter(given)
        return run(*(next(rest) if present else None for present in there))

    return function


@every_compiled_backend
@every_layout
@every_problem
def test_gradcheck(case: Case, layout: str, run: Implementation) -> None:
    leaves = make(case, torch.float64).in_layout(layout).to(run.device).leaves()
    assert torch.autograd.gradcheck(of_given_arguments(run, case), tuple(leaves.named.values()))


@every_compiled_backend
@every_layout
@every_problem
def test_gradgradcheck(case: Case, layout: str, run: Implementation) -> None:
    """Along random directions, which compares the same Jacobians at a fraction of the cost of every entry."""
    leaves = make(case, torch.float64).in_layout(layout).to(run.device).leaves()
    assert torch.autograd.gradgradcheck(of_given_arguments(run, case), tuple(leaves.named.values()), fast_mode=True)


def derivatives(run: Callable[..., Tensor], case: Case, asked: tuple[str, ...], device: str) -> list[dict[str, Tensor]]:
    """Gradients of order one, two and three of a smooth scalar of the result; x is itself computed from a leaf."""
    named = {n: t.detach().requires_grad_(n in asked) for n, t in make(case, torch.float64).to(device).named.items()}
    leaves = [named[name] for name in asked]
    arguments = [t * t if name == "x" else t for name, t in named.items()]
    scalar = of_given_arguments(run, case)(*arguments).sin().sum()
    orders = []
    for _ in range(3):
        gradients = torch.autograd.grad(scalar, leaves, create_graph=True)
        orders.append(dict(zip(asked, gradients, strict=True)))
        scalar = sum((g.cos() * g).sum() for g in gradients)
    return orders


@every_backend
@pytest.mark.parametrize(
    "asked", [("x",), ("w_l1", "w_r2"), ("x", "w_l2", "b_l1"), ("w_l1", "w_l2", "w_r1", "w_r2", "b_r1", "b_l2")]
)
def test_three_derivatives_are_those_of_the_definition(asked: tuple[str, ...], run: Implementation) -> None:
    case = CASES["plain"]
    found, expected = derivatives(run, case, asked, run.device), derivatives(reference.gcn, case, asked, run.device)
    for order, (ours, theirs) in enumerate(zip(found, expected, strict=True), start=1):
        for name in asked:
            torch.testing.assert_close(ours[name], theirs[name], msg=lambda text, at=(order, name): f"derivative {at}: {text}")


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_gradient_penalty_reaches_the_parameters(dtype: torch.dtype, run: Implementation) -> None:
    """The usual use of a second derivative: a loss on dx trains the weights."""

    def penalty_gradients(function: Callable[..., Tensor]) -> dict[str, Tensor]:
        leaves = make(SMALL, dtype).to(run.device).leaves()
        (dx,) = torch.autograd.grad(function(*leaves.arguments), leaves.x, leaves.dy, create_graph=True)
        dx.float().square().sum().backward()
        return {name: t.grad for name, t in leaves.named.items() if t.grad is not None}

    found, expected = penalty_gradients(run), penalty_gradients(reference.gcn)
    assert {name for name, gradient in found.items() if gradient.abs().sum() > 0} == set(WEIGHTS)
    tolerance = 20 * torch.finfo(dtype).eps
    for name in WEIGHTS:
        torch.testing.assert_close(
            found[name], expected[name], rtol=tolerance, atol=tolerance * expected[name].abs().max().item()
        )
