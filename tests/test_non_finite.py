"""nan and inf arrive where four convolutions bring them, and nowhere else."""

from dataclasses import replace

import pytest
import torch
from cases import Block, Case, every_dtype, every_layout, make
from implementations import Implementation, every_kernel
from rule import evaluate
from torch import Tensor

from gcn_kernels import reference

CASES = {
    "k<map": Case("k<map", n=2, c=19, h=24, w=21, mid_l=5, mid_r=6, out=4, k=(7, 5, 9, 7)),
    "k>map": Case("k>map", n=2, c=19, h=6, w=9, mid_l=5, mid_r=6, out=4, k=(15, 17, 15, 19)),
    "long": Case("long", n=1, c=5, h=2, w=300, mid_l=3, mid_r=4, out=3, k=(3, 31, 15, 3)),
    "deep": Case("deep", n=1, c=300, h=16, w=18, mid_l=21, mid_r=21, out=21, k=(9, 9, 9, 9)),
}
SPECIAL = {"nan": (torch.nan,), "-inf": (-torch.inf,), "inf-and-nan": (torch.inf, torch.nan)}
#: Finite and far above everything else, so that wherever a special value arrives, this one shows.
HUGE = 1e30
#: No transform of the frequency-domain algorithm is longer.
LONGEST_BLOCK = 1024

every_problem = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_value = pytest.mark.parametrize("values", SPECIAL.values(), ids=SPECIAL)
every_place = pytest.mark.parametrize("place", ["corner", "middle"])
some_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def planted(t: Tensor, values: tuple[float, ...], place: str) -> Tensor:
    """A copy with special values in the last map: one at the place, further ones away from it."""
    t = t.clone()
    _, channels, h, w = t.shape
    row, column = (0, w - 1) if place == "corner" else (h // 2, w // 3)
    for i, value in enumerate(values):
        t[-1, (channels // 2 + i) % channels, (row + i * h // 2) % h, (column + i * w // 2) % w] = value
    return t


def marks(t: Tensor) -> Tensor:
    """0 for a finite value, 1 for nan, 2 for inf, 3 for -inf."""
    t = t.cpu()
    return t.isnan() + 2 * t.isposinf() + 3 * t.isneginf()


def assert_marked_like(found: Tensor, expected: Tensor, name: str) -> None:
    wrong = (marks(found) != marks(expected)).nonzero().tolist()
    assert not wrong, f"{name}: {len(wrong)} of {found.numel()} positions differ, the first at {wrong[0]}"


def with_zero_taps(block: Block) -> Block:
    """Some taps, and one whole filter, are exactly zero: 0 * nan is nan, a skipped product is not."""

    def cleared(w: Tensor) -> Tensor:
        w = w.clone()
        w.flatten(2)[:, :, ::2] = 0
        w[0] = 0
        return w

    return replace(block, weights=tuple(cleared(w) for w in block.weights))


@every_kernel
@some_dtypes
@every_layout
@every_place
@every_value
@every_problem
def test_forward(case: Case, values: tuple[float, ...], place: str, layout: str, dtype: torch.dtype, run: Implementation) -> None:
    block = make(case, dtype)
    block = replace(block, x=planted(block.x, values, place)).in_layout(layout)
    expected = reference.gcn(*block.to(torch.float64).arguments)
    assert 0 < marks(expected).count_nonzero() < expected.numel() or case.name == "k>map"
    assert_marked_like(run(*block.to(run.device).arguments), expected, "y")


@every_kernel
@every_dtype
@every_value
@every_problem
def test_zero_weights_hide_nothing(case: Case, values: tuple[float, ...], dtype: torch.dtype, run: Implementation) -> None:
    block = with_zero_taps(make(case, dtype))
    block = replace(block, x=planted(block.x, values, "middle"))
    expected = reference.gcn(*block.to(torch.float64).arguments)
    assert_marked_like(run(*block.to(run.device).arguments), expected, "y")


@every_kernel
@pytest.mark.parametrize("where", ["x", "dy"])
@some_dtypes
@every_place
@every_value
@every_problem
def test_backward(case: Case, values: tuple[float, ...], place: str, dtype: torch.dtype, where: str, run: Implementation) -> None:
    """dx and the bias gradients are marked exactly as by four convolutions.

    The padding may take part in a weight gradient (0 * nan) or be left out; conv2d's own algorithms differ there. So the
    gradient of a tap must be marked where a value inside the image brings the mark, and only where conv2d could mark it.
    """
    block = make(case, dtype)
    special = planted(getattr(block, where), values, place)
    wide = block.to(torch.float64)
    expected = evaluate(reference.gcn, replace(wide, **{where: special.double()}))
    huge = special.double().masked_fill(~special.isfinite(), HUGE)
    reached = evaluate(reference.gcn, replace(wide, **{where: huge}))
    found = evaluate(run, replace(block, **{where: special}).to(run.device))
    for name, t in found.items():
        if name.startswith("w_"):
            finite = t.isfinite().cpu()
            assert not (finite & (reached[name].abs() > HUGE**0.5)).any(), f"{name}: a special value was lost"
            assert not (~finite & expected[name].isfinite()).any(), f"{name}: a special value came from nowhere"
        else:
            assert_marked_like(t, expected[name], name)


@every_kernel
@pytest.mark.parametrize("name", ["b_l1", "b_l2", "b_r1", "b_r2"])
def test_special_biases(name: str, run: Implementation) -> None:
    """A bias is everywhere in its map, and the first ones end at its border."""
    block = make(CASES["k<map"])
    index = ("b_l1", "b_l2", "b_r1", "b_r2").index(name)
    biases = list(block.biases)
    biases[index] = biases[index].clone()  # type: ignore[union-attr]
    biases[index][1] = torch.inf  # type: ignore[index]
    block = replace(block, biases=tuple(biases))
    expected = reference.gcn(*block.to(torch.float64).arguments)
    assert_marked_like(run(*block.to(run.device).arguments), expected, "y")


@every_kernel
@some_dtypes
def test_small_beside_huge(dtype: torch.dtype, run: Implementation) -> None:
    """One huge value costs its surroundings accuracy, and nothing further away.

    Directly computed, the surroundings are the receptive field. In the frequency domain they are the blocks that read the
    value, where errors are relative to the largest value of the block.
    """
    case = Case("huge", n=1, c=5, h=3, w=2500, mid_l=3, mid_r=4, out=3, k=(3, 31, 15, 3))
    block = make(case, dtype)
    x = block.x.clone()
    x[0, 0, 0, 0] = huge = 2.0**40
    block = replace(block, x=x)
    exact = reference.gcn(*block.to(torch.float64).arguments)
    error = (run(*block.to(run.device).arguments).cpu().double() - exact).abs()
    direct = run.algo == "direct" or run.backend == "triton"
    reach = case.k[1] // 2 + case.k[2] // 2 + 1 if direct else LONGEST_BLOCK
    allowed = 8 * torch.finfo(dtype).eps
    assert error[..., reach:].max() < allowed * exact[..., reach:].abs().max()
    assert error.max() < allowed * huge
