"""The error rule where sums are long and results few, and on problems drawn by the thousand (drawn.py)."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from cases import INPUTS, Block, Case, make, paper, square
from drawn import Problem, available_isas, command, draw, excesses
from implementations import RUNNABLE
from torch import Tensor

from gcn_kernels import fused_gcn, reference

#: Sizes at which a sum was once one long chain: over middle channels, over pixels, over lines, or through a transform.
LONG_SUMS = (
    Case("few-columns", n=1, c=16, h=20, w=16, mid_l=64, mid_r=64, out=8, k=square(13)),
    Case("one-pixel", n=1, c=256, h=1, w=1, mid_l=512, mid_r=512, out=256, k=square(7)),
    Case("one-pixel-each", n=2, c=3, h=1, w=1, mid_l=358, mid_r=596, out=18, k=square(5)),
    Case("tall", n=2, c=1, h=240, w=3, mid_l=1, mid_r=32, out=1, k=square(9)),
    Case("one-channel", n=5, c=1, h=9, w=55, mid_l=1, mid_r=1, out=8, k=square(5)),
    Case("column", n=1, c=2, h=610, w=1, mid_l=3, mid_r=4, out=50, k=(7, 3, 3, 53)),
    Case("row", n=3, c=16, h=1, w=53, mid_l=1, mid_r=1, out=26, k=(19, 57, 1, 51)),
    Case("one-class", n=3, c=64, h=40, w=23, mid_l=1, mid_r=1, out=24, k=(5, 1, 5, 13)),
)
#: Numbers of drawn problems that were beyond the rule.
ONCE_BEYOND = (
    381,
    531,
    1005,
    1110,
    1512,
    2448,
    2514,
    3912,
    4245,
    4581,
    5181,
    5571,
    5706,
    5769,
    997,
    1357,
    1408,
    1798,
    1840,
    5551,
)

NAN = {
    "one": lambda t: t[-1:, :1, t.shape[2] // 2 :][:, :, :1, :1],
    "a pixel at the edge": lambda t: t[..., :1, :1],
    "a row": lambda t: t[:, :, t.shape[2] // 2],
    "half": lambda t: t[:, :, ::2],
    "all": lambda t: t,
}
every_pattern = pytest.mark.parametrize("pattern", NAN.values(), ids=NAN)
every_argument = pytest.mark.parametrize("where", ["x", "dy", "weights"])


def assert_within_rule(problem: Problem) -> None:
    torch.set_num_threads(1)  # faster where problems are small; the kernels' results do not depend on it
    beyond = [str(excess) for excess in excesses(problem)]
    assert not beyond, "\n".join(beyond)


@pytest.mark.parametrize("x_view", ["contiguous", "channels_last", "expanded"])
@pytest.mark.parametrize("case", LONG_SUMS, ids=lambda case: case.name)
def test_long_sums(case: Case, x_view: str) -> None:
    assert_within_rule(Problem(0, case, torch.float32, (x_view, "contiguous", "contiguous", "contiguous")))


def test_some_drawn_problems() -> None:
    for index in (*ONCE_BEYOND, *range(10**6, 10**6 + 180)):
        assert_within_rule(draw(index))


@pytest.mark.proof
@pytest.mark.parametrize("isa", available_isas())
def test_drawn_problems_of_every_instruction_set(isa: str) -> None:
    line, environment = command(isa, first=2 * 10**6, count=1000)
    found = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"{isa}: 0 of 1000 problems" in found.stdout


@pytest.mark.skipif(not RUNNABLE, reason="needs a compiled backend")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_of_biases_do_not_pass_through_transforms(dtype: torch.dtype) -> None:
    """One huge value in dy would cost the others their digits there; the sums of both algorithms are the same to the bit."""
    block = make(Case("huge", n=1, c=3, h=12, w=150, k=(5, 31, 5, 11)), dtype)
    block.dy[0, 0, 0, 0] = 2.0**30
    exact = _gradients(block.to(torch.float64), reference.gcn)
    for algo in ("direct", "fft"):
        found = _gradients(block, partial(fused_gcn, algo=algo))
        for t, value in zip(found[5:], exact[5:], strict=True):
            torch.testing.assert_close(t.double(), value, rtol=torch.finfo(dtype).eps, atol=0)


def _gradients(block: Block, run: Callable[..., Tensor]) -> tuple[Tensor, ...]:
    leaves = block.leaves()
    y = run(*leaves.arguments)
    return torch.autograd.grad(y, tuple(leaves.named.values()), leaves.dy)


def _poisoned(block: Block, where: str, pattern: Callable[[Tensor], Tensor]) -> Block:
    def poison(t: Tensor) -> Tensor:
        t = t.clone()
        pattern(t).fill_(torch.nan)
        return t

    if where == "weights":
        return replace(block, weights=tuple(poison(w) for w in block.weights))
    return replace(block, **{where: poison(getattr(block, where))})


@every_argument
@every_pattern
def test_nan_in_the_frequency_domain_is_left_to_the_direct_method(pattern: Callable[[Tensor], Tensor], where: str) -> None:
    """Bit by bit: which method computes what is not finite depends on the values alone, not on threads or blocks."""
    torch.set_num_threads(1)
    block = _poisoned(make(Case("nan", n=2, c=20, h=40, w=33, k=(9, 9, 15, 7))), where, pattern)
    fft, direct = (_gradients(block, partial(fused_gcn, algo=algo)) for algo in ("fft", "direct"))
    # What is finite in the forward pass gives middle maps by the method that was asked for, and these enter two gradients.
    differ = ("w_l2", "w_r2") if where == "dy" else ()
    for name, f, d in zip(INPUTS, fft, direct, strict=True):
        if name not in differ:
            torch.testing.assert_close(f, d, rtol=0, atol=0, equal_nan=True)


@pytest.mark.proof
@every_argument
@every_pattern
def test_nan_costs_at_most_three_times_the_convolutions(pattern: Callable[[Tensor], Tensor], where: str) -> None:
    clean = make(paper("nan", c=512, size=32, k=15, classes=21))
    block = _poisoned(clean, where, pattern)
    layouts = [block.in_layout("nchw"), block.in_layout("channels_last")]

    def seconds(b: Block, run: Callable[..., Tensor]) -> float:
        start = time.thread_time()  # however long other programs keep the processor
        _gradients(b, run)
        return time.thread_time() - start

    torch.set_num_threads(1)
    # The first run of each allocates and plans.
    rounds = [(seconds(block, fused_gcn), *(seconds(b, reference.gcn) for b in layouts)) for _ in range(5)]
    ours, *own = (min(times) for times in zip(*rounds, strict=True))
    assert ours < 3 * min(own), f"{ours * 1e3:.1f} ms, four convolutions {min(own) * 1e3:.1f} ms"
