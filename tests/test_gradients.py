"""All nine gradients are those of four convolutions, within the rule; nothing is computed that was not asked for."""

from itertools import combinations

import pytest
import torch
from cases import INPUTS, SMALL, Case, every_case, every_dtype, every_layout, make
from implementations import Implementation, every_implementation, every_kernel
from rule import check, evaluate, expect_case

from gcn_kernels import backends


@every_implementation
@every_layout
@every_dtype
@every_case
def test_gradients(case: Case, dtype: torch.dtype, layout: str, run: Implementation) -> None:
    block = make(case, dtype).in_layout(layout).to(run.device)
    results = evaluate(run, block)
    assert {t.dtype for t in results.values()} == {dtype}
    check(results, expect_case(case, dtype))


@every_implementation
def test_gradients_accumulate_in_grad(run: Implementation) -> None:
    leaves = make(SMALL, torch.float64).to(run.device).leaves()
    for _ in range(2):
        run(*leaves.arguments).backward(leaves.dy)
    expected = expect_case(SMALL, torch.float64)
    check({name: t.grad / 2 for name, t in leaves.named.items() if t.grad is not None}, expected)
    assert all(t.grad is not None for t in leaves.named.values())


SUBSETS = [(name,) for name in INPUTS] + [tuple(n for n in INPUTS if n not in frozen) for frozen in combinations(INPUTS, 1)]
SUBSETS += [INPUTS[1:], ("x", "w_l2", "b_r1"), ("b_l1", "b_r2")]


@every_implementation
@pytest.mark.parametrize(
    "asked", SUBSETS, ids=lambda asked: "+".join(asked) if len(asked) < 5 else f"without-{set(INPUTS) - set(asked)}"
)
def test_frozen_inputs_get_no_gradient(asked: tuple[str, ...], run: Implementation) -> None:
    named = {n: t.detach().requires_grad_(n in asked) for n, t in make(SMALL).to(run.device).named.items()}
    run(*named.values()).backward(make(SMALL).dy.to(run.device))
    assert {name for name, t in named.items() if t.grad is not None} == set(asked)
    check({name: t.grad for name, t in named.items() if t.grad is not None}, expect_case(SMALL, torch.float32))


@every_kernel
@pytest.mark.parametrize("wanted", [0, *(1 << i for i in range(9)), 0b111111111, 0b000011111, 0b111100000, 0b010110011])
def test_operator_returns_an_empty_tensor_for_what_is_not_wanted(wanted: int, run: Implementation) -> None:
    block = make(SMALL).to(run.device)
    expected = expect_case(SMALL, torch.float32)
    with torch.no_grad():
        gradients = run.backward_operator(*run.backward_arguments(block, wanted))
    for i, (name, gradient) in enumerate(zip(INPUTS, gradients, strict=True)):
        if wanted >> i & 1:
            check({name: gradient}, expected)
        else:
            assert gradient.numel() == 0, f"{name} was not wanted"


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_type_of_the_middle_maps(dtype: torch.dtype, run: Implementation) -> None:
    """A CPU keeps the type of its arithmetic, a GPU that of x, as PyTorch's convolutions do."""
    block = make(SMALL, dtype).to(run.device)
    _, u_l, u_r = run.forward_operator(*run.operator_arguments(block))
    expected = torch.float32 if dtype == torch.bfloat16 and run.backend == "cpu" else dtype
    assert (u_l.dtype, u_r.dtype) == (expected, expected)
    assert not u_l.requires_grad and not u_r.requires_grad


@every_implementation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradient_of_a_sum_arrives_expanded(dtype: torch.dtype, run: Implementation) -> None:
    """``sum().backward()`` hands the operator a dy whose strides are all zero."""
    block = make(SMALL, dtype)
    expanded = block.dy.new_full((1, 1, 1, 1), 0.5).expand_as(block.dy)
    dense = evaluate(run, type(block)(block.x, block.weights, block.biases, expanded.contiguous()).to(run.device))
    flat = evaluate(run, type(block)(block.x, block.weights, block.biases, expanded).to(run.device))
    for name in dense:
        torch.testing.assert_close(flat[name], dense[name], msg=lambda text, name=name: f"{name}: {text}")


def test_automatic_choice_on_this_machine() -> None:
    """Where the compiled library is loaded, ``auto`` uses it, and its gradients are the same."""
    assert backends.choose("auto", "auto", make(SMALL).x) == ("cpu" if backends.why_not("cpu", "cpu") is None else "torch")
