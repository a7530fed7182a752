"""``torch.func`` and forward-mode differentiation: right with the automatic choice, refused clearly by explicit kernels."""

from collections.abc import Callable

import pytest
import torch
from cases import SMALL, make
from implementations import Implementation, every_kernel
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jvp, vmap

from gcn_kernels import FusedGCN, fused_gcn, reference

BLOCK = make(SMALL, torch.float64)
PARAMETERS = BLOCK.arguments[1:]
Operator = Callable[..., Tensor]


def over_maps(run: Operator) -> Tensor:
    return vmap(lambda x: run(x, *PARAMETERS))(BLOCK.x)


def over_batches(run: Operator) -> Tensor:
    return vmap(lambda x: run(x, *PARAMETERS), in_dims=1, out_dims=1)(torch.stack([BLOCK.x, 2 * BLOCK.x], 1))


def over_weights(run: Operator) -> Tensor:
    weights = torch.stack([BLOCK.weights[0], -BLOCK.weights[0]])
    return vmap(lambda w: run(BLOCK.x, w, *PARAMETERS[1:]))(weights)


def per_sample_gradients(run: Operator) -> Tensor:
    loss = lambda w, x, dy: (run(x, w, *PARAMETERS[1:]) * dy).sum()  # noqa: E731
    return vmap(grad(loss), in_dims=(None, 0, 0))(BLOCK.weights[0], BLOCK.x, BLOCK.dy)


def directional(run: Operator) -> Tensor:
    return jvp(lambda x: run(x, *PARAMETERS), (BLOCK.x,), (BLOCK.x.cos(),))[1]


def second_order(run: Operator) -> Tensor:
    return hessian(lambda b: run(BLOCK.x, *BLOCK.weights, b, *BLOCK.biases[1:]).sin().sum())(BLOCK.biases[0])


def dual_numbers(run: Operator) -> Tensor:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(BLOCK.x, BLOCK.x.cos())
        tangent = forward_ad.unpack_dual(run(dual, *PARAMETERS)).tangent
    assert tangent is not None
    return tangent


TRANSFORMS = [over_maps, over_batches, over_weights, per_sample_gradients, directional, second_order, dual_numbers]
every_transform = pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: transform.__name__)


@every_transform
def test_automatic_choice(transform: Callable[[Operator], Tensor]) -> None:
    torch.testing.assert_close(transform(fused_gcn), transform(reference.gcn), rtol=1e-10, atol=1e-10)


@every_kernel
@every_transform
def test_explicit_kernels_work_or_refuse(transform: Callable[[Operator], Tensor], run: Implementation) -> None:
    if run.device != "cpu":
        pytest.skip("the tensors are on the CPU")
    try:
        found = transform(run)
    except RuntimeError as error:
        assert "does not support" in str(error) and "backend='torch'" in str(error)
    else:
        torch.testing.assert_close(found, transform(reference.gcn), rtol=1e-10, atol=1e-10)


def test_per_sample_gradients_of_a_module() -> None:
    module = FusedGCN(6, 3, 5).double()
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    x = torch.randn(4, 6, 7, 8, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(module, parameters, (sample,)).sin().sum()

    together = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for i, sample in enumerate(x):
        module.zero_grad()
        module(sample).sin().sum().backward()
        for name, p in module.named_parameters():
            torch.testing.assert_close(together[name][i], p.grad, rtol=1e-10, atol=1e-10)


def test_kernels_are_back_after_a_transform() -> None:
    before = type(fused_gcn(*BLOCK.leaves().arguments).grad_fn)
    over_maps(fused_gcn)
    dual_numbers(fused_gcn)
    assert type(fused_gcn(*BLOCK.leaves().arguments).grad_fn) is before
