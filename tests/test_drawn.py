"""Drawn problems: whatever sizes, kernels, strides and dtypes come together, the rule holds."""

import torch
from cases import BIASES, DTYPES, Block, Case, make
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
