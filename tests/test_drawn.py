"""Drawn problems: whatever sizes, kernels, strides and dtypes come together, the rule holds."""

import drawn
import long_double
import pytest
import torch
from cases import BIASES, CASES, DTYPES, Block, Case, make
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from implementations import RUNNABLE
from rule import check, evaluate, expect
from views import VIEWS

kernel_sizes = st.one_of(st.integers(0, 4), st.integers(0, 31)).map(lambda half: 2 * half + 1)
map_sizes = st.one_of(st.integers(1, 9), st.integers(1, 32))
views = st.sampled_from(list(VIEWS))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Case, torch.dtype, tuple[str, ...]]:
    """A case, a dtype, and a view for each of x, the weights, the biases and dy."""
    case = Case(
        "drawn",
        n=draw(st.integers(0, 3)),
        c=draw(st.integers(1, 24)),
        h=draw(map_sizes),
        w=draw(map_sizes),
        mid_l=draw(st.integers(1, 12)),
        mid_r=draw(st.integers(1, 12)),
        out=draw(st.integers(1, 12)),
        k=(draw(kernel_sizes), draw(kernel_sizes), draw(kernel_sizes), draw(kernel_sizes)),
        biases=tuple(name for name in BIASES if draw(st.integers(0, 3))),
    )
    return case, draw(st.sampled_from(DTYPES)), tuple(draw(views) for _ in range(4))


def viewed(block: Block, x_view: str, weight_view: str, bias_view: str, dy_view: str) -> Block:
    biases = tuple(None if b is None else VIEWS[bias_view](b) for b in block.biases)
    weights = tuple(VIEWS[weight_view](w) for w in block.weights)
    return Block(VIEWS[x_view](block.x), weights, biases, VIEWS[dy_view](block.dy))


@settings(max_examples=240, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(problems())
def test_drawn_problems(problem: tuple[Case, torch.dtype, tuple[str, ...]]) -> None:
    case, dtype, chosen_views = problem
    block = viewed(make(case, dtype), *chosen_views)
    expected = expect(block)
    for run in (i for i in RUNNABLE if i.why_not_for(dtype) is None):
        note(run.name)
        there = block.to(run.device)
        with torch.no_grad():
            check({"y": run(*there.arguments)}, expected)
        check(evaluate(run, there), expected)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in ("small", "k_gt_map", "per-conv-k", "only-b_r1")], ids=str
)
def test_long_double_is_the_definition(case: Case) -> None:
    block = make(case, torch.float64)
    exact = long_double.evaluate(block)
    expected = expect(block).values
    assert exact.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(torch.from_numpy(exact[name].astype("float64")), values, rtol=1e-12, atol=1e-11)


def test_the_truth_is_doubted_in_float64_and_only_where_it_is_further_off() -> None:
    block = make(Case("small"), torch.float64)
    exact, truth = torch.from_numpy(long_double.evaluate(block)["y"].astype("float64")), expect(block).values["y"]
    assert drawn._truth_is_further_off(block, "y", exact, truth)
    assert not drawn._truth_is_further_off(block, "y", truth + 1e-9, truth)
    assert not drawn._truth_is_further_off(block, "y", exact.float(), truth.float())
