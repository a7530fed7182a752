"""The result is that of four convolutions, within the rule, for every case, dtype, layout and implementation."""

import pytest
import torch
from cases import SMALL, Case, every_case, every_dtype, every_layout, make
from implementations import Implementation, every_implementation
from rule import check, error, expect_case

from gcn_kernels import fused_gcn, reference


@every_implementation
@every_layout
@every_dtype
@every_case
def test_forward(case: Case, dtype: torch.dtype, layout: str, run: Implementation) -> None:
    block = make(case, dtype).in_layout(layout).to(run.device)
    with torch.no_grad():
        y = run(*block.arguments)
    assert y.dtype == dtype and y.device == block.x.device
    check({"y": y}, expect_case(case, dtype))


@every_implementation
@every_layout
def test_inference_mode(layout: str, run: Implementation) -> None:
    block = make(SMALL).in_layout(layout).to(run.device)
    with torch.inference_mode():
        y = run(*block.arguments)
    check({"y": y}, expect_case(SMALL, torch.float32))


@every_implementation
def test_one_map_without_a_batch(run: Implementation) -> None:
    block = make(SMALL, torch.float64).to(run.device)
    for x in block.x:
        y = run(x, *block.arguments[1:])
        assert torch.equal(y, run(x.unsqueeze(0), *block.arguments[1:]).squeeze(0))
        assert y.shape == (SMALL.out, SMALL.h, SMALL.w)


@every_implementation
def test_the_first_bias_ends_at_the_border(run: Implementation) -> None:
    """With x = 0 the middle map is the bias inside the image and zero outside, so y counts the taps that are inside."""
    one = torch.ones(1)
    weights = [torch.ones(s) for s in [(1, 1, 3, 1), (1, 1, 1, 5), (1, 1, 1, 3), (1, 1, 3, 1)]]
    block = [torch.zeros(1, 1, 4, 6), *weights, one, None, 10 * one, None]
    y = run(*(None if t is None else t.to(run.device) for t in block))
    taps_along_w = torch.tensor([3.0, 4.0, 5.0, 5.0, 4.0, 3.0])
    taps_along_h = torch.tensor([2.0, 3.0, 3.0, 2.0])
    assert torch.equal(y[0, 0].cpu(), taps_along_w + 10 * taps_along_h[:, None])


def test_the_definition_in_its_own_words() -> None:
    """The reference itself, tap by tap with plain indexing."""
    block = make(SMALL, torch.float64)
    x, w_l1, w_l2, w_r1, w_r2, b_l1, b_l2, b_r1, b_r2 = block.arguments

    def along(u: torch.Tensor, w: torch.Tensor, b: torch.Tensor, dim: int) -> torch.Tensor:
        taps, size = w.shape[dim], u.shape[dim]
        y = torch.zeros(u.shape[0], w.shape[0], *u.shape[2:], dtype=u.dtype) + b[:, None, None]
        for tap in range(taps):
            moved = tap - taps // 2
            for position in range(max(0, -moved), min(size, size - moved)):
                product = torch.einsum("nc...,oc->no...", u.select(dim, position + moved), w.flatten(2)[:, :, tap])
                y.select(dim, position).add_(product)
        return y

    y = along(along(x, w_l1, b_l1, 2), w_l2, b_l2, 3) + along(along(x, w_r1, b_r1, 3), w_r2, b_r2, 2)
    assert error(reference.gcn(*block.arguments), y) < 1e-13


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_auto_gives_what_the_named_backend_gives(backend: str) -> None:
    y = fused_gcn(*make(SMALL).arguments, backend=backend)
    check({"y": y}, expect_case(SMALL, torch.float32))
