"""A specification whose operator takes lists of tensors: y = sum_i x * w[i] + b, written in Python for this test."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gcn_kernels.core.operator import Operator


def definition(x: Tensor, w: list[Tensor], b: Tensor | None) -> Tensor:
    y = sum((x * one for one in w), torch.zeros_like(x))
    return y if b is None else y + b


def backward(dy: Tensor, x: Tensor, w: list[Tensor], wanted: int) -> tuple[Tensor, list[Tensor], Tensor]:
    last = 1 + len(w)
    d_x, *d_w, d_b = (dy * sum(w), *(dy * x for _ in w), dy.clone())
    found = [d if wanted >> i & 1 else dy.new_empty(0) for i, d in enumerate((d_x, *d_w, d_b))]
    return found[0], found[1:last], found[last]


TOY = Operator(
    schema="gcn_kernels::toy(Tensor x, Tensor[] w, Tensor? b) -> Tensor",
    backward_schema="gcn_kernels::toy_backward(Tensor dy, Tensor x, Tensor[] w, int wanted) -> (Tensor, Tensor[], Tensor)",
    results=("y",),
    definition=definition,
    fake=lambda x, w, b: torch.empty_like(x),
    vectors={"b": ("x", 0)},
)


@pytest.fixture(scope="module")
def toy() -> Iterator[Operator]:
    library = torch.library.Library("gcn_kernels", "FRAGMENT")
    for schema in TOY.schemas.values():
        library.define(schema.removeprefix("gcn_kernels::"))
    library.impl("toy", definition, "CPU")
    library.impl("toy_backward", backward, "CPU")
    TOY.register()
    yield TOY
    library._destroy()


def leaves() -> tuple[Tensor, list[Tensor], Tensor]:
    x, w0, w1, b = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(4))
    return x, [w0, w1], b


@pytest.mark.parametrize("biased", [True, False])
def test_first_and_second_derivatives(toy: Operator, biased: bool) -> None:
    x, w, b = leaves()

    def eager(x: Tensor, w0: Tensor, w1: Tensor, *b: Tensor) -> Tensor:
        return toy((x, [w0, w1], b[0] if b else None), ())

    def registered(x: Tensor, w0: Tensor, w1: Tensor, *b: Tensor) -> Tensor:
        return toy.forward(x, [w0, w1], b[0] if b else None)

    for run in (eager, registered):
        inputs = (x, *w, b) if biased else (x, *w)
        assert torch.autograd.gradcheck(run, inputs)
        assert torch.autograd.gradgradcheck(run, inputs)


def test_only_what_is_wanted(toy: Operator) -> None:
    x, w, b = leaves()
    w[1].requires_grad_(False)
    toy((x, w, b), ()).sum().backward()
    assert w[0].grad is not None and b.grad is not None and w[1].grad is None


def test_shapes_of_the_backward_operator(toy: Operator) -> None:
    x, w, _ = leaves()
    arguments = (x.detach(), x.detach().clone(), [t.detach() for t in w], 0b0101)
    result = torch.library.opcheck(toy.backward, arguments, test_utils=("test_schema", "test_faketensor"))
    assert set(result.values()) == {"SUCCESS"}, result


def test_lists_have_no_gaps() -> None:
    with pytest.raises(ValueError, match="without gaps"):
        Operator("gcn_kernels::gaps(Tensor?[] w) -> Tensor", TOY.backward_schema, ("y",), definition, TOY.fake)
