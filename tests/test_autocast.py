"""Autocast, and its absence: dtypes are treated as ``nn.Conv2d`` treats them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import DTYPES, SMALL, Block, every_dtype, make
from implementations import Implementation, every_backend
from rule import check, evaluate, expect
from torch import Tensor

from gcn_kernels import FusedGCN, reference

every_target = pytest.mark.parametrize("target", [torch.bfloat16, torch.float16], ids=str)


def mixed(x: torch.dtype, weights: torch.dtype, biases: torch.dtype) -> Block:
    block = make(SMALL)
    return replace(
        block,
        x=block.x.to(x),
        weights=tuple(w.to(weights) for w in block.weights),
        biases=tuple(None if b is None else b.to(biases) for b in block.biases),
    )


def outcome(run: Callable[..., Tensor], block: Block, context: AbstractContextManager[Any]) -> Any:
    """The dtypes of the result and of all gradients, or the type of the error."""
    leaves = block.leaves()
    try:
        with context:
            y = run(*leaves.arguments)
        y.sum().backward()
    except Exception as error:
        return type(error)
    return y.dtype, [t.grad.dtype for t in leaves.named.values() if t.grad is not None]


@every_backend
@every_target
@pytest.mark.parametrize("biases", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("weights", DTYPES, ids=str)
@pytest.mark.parametrize("x", DTYPES, ids=str)
def test_dtypes_under_autocast(
    x: torch.dtype, weights: torch.dtype, biases: torch.dtype, target: torch.dtype, run: Implementation
) -> None:
    block = mixed(x, weights, biases).to(run.device)
    found = outcome(run, block, torch.autocast(run.device, dtype=target))
    assert found == outcome(reference.gcn, block, torch.autocast(run.device, dtype=target))


@every_backend
@pytest.mark.parametrize("weights", DTYPES, ids=str)
@pytest.mark.parametrize("x", DTYPES, ids=str)
@pytest.mark.parametrize("switched_off", [False, True])
def test_dtypes_without_autocast(x: torch.dtype, weights: torch.dtype, switched_off: bool, run: Implementation) -> None:
    block = mixed(x, weights, weights).to(run.device)
    context = torch.autocast(run.device, enabled=False) if switched_off else nullcontext()
    found = outcome(run, block, context)
    assert found == ((x, [x] * 9) if x == weights else RuntimeError)


@every_backend
@every_target
def test_values_under_autocast(target: torch.dtype, run: Implementation) -> None:
    """Autocast is a cast: the values are those at the lower dtype, and the gradients come back at the parameters'."""
    block = make(SMALL)
    narrow = block.to(target)

    def cast_inside(*arguments: Tensor | None) -> Tensor:
        with torch.autocast(run.device, dtype=target):
            return run(*arguments)

    results = evaluate(cast_inside, replace(block, dy=narrow.dy).to(run.device))
    assert {name: t.dtype for name, t in results.items() if name != "y"} == dict.fromkeys(block.named, torch.float32)
    assert results["y"].dtype == target
    check(results, expect(narrow))


@every_backend
@every_target
def test_float64_is_left_alone(target: torch.dtype, run: Implementation) -> None:
    block = make(SMALL, torch.float64).to(run.device)
    with torch.autocast(run.device, dtype=target):
        y = run(*block.arguments)
    assert torch.equal(y, run(*block.arguments))


@every_target
def test_module_in_a_mixed_network(target: torch.dtype) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), FusedGCN(8, 4, 5), torch.nn.Conv2d(4, 2, 1))
    with torch.autocast("cpu", dtype=target):
        y = network(torch.randn(2, 3, 8, 9))
    y.float().sum().backward()
    assert y.dtype == target
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


@every_dtype
def test_module_at_a_dtype(dtype: torch.dtype) -> None:
    module = FusedGCN(8, 4, 5).to(dtype)
    assert module(torch.randn(2, 8, 6, 7, dtype=dtype)).dtype == dtype
