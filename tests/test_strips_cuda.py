"""``fused_strips`` on a GPU by its CUDA kernels: the problems and promises that the CPU kernels are held to."""

import math
from dataclasses import replace

import pytest
import torch
from captured import check_replayed
from cases import DTYPES, LAYOUTS, every_dtype, every_layout
from rule import check, evaluate, expect
from strips_cases import CASES, LSKA, MSCA, PAIR, STRIP_BLOCK, Case, Run, Strips, draw, make
from test_strips_operator import VIEWS

from gcn_kernels import FusedStrips, backends

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        (reason := backends.why_not("cuda", "cuda")) is not None, reason=f"the CUDA kernels do not run here: {reason}"
    ),
]

#: A map of several tiles, and one whose backward pass has many.
LARGE = (replace(MSCA, name="msca-64", n=2, c=24, h=64, w=64), replace(MSCA, name="msca-large", n=1, c=6, h=300, w=200))


def on_gpu(case: Case, dtype: torch.dtype = torch.float32, seed: int = 0) -> Strips:
    return make(case, dtype, seed).to("cuda")


@pytest.mark.parametrize("case", [*CASES, *LARGE], ids=lambda case: case.name)
@every_dtype
def test_named_problem(case: Case, dtype: torch.dtype) -> None:
    block = on_gpu(case, dtype)
    expected = expect(block, "cuda")
    for layout in LAYOUTS:
        check(evaluate(Run(case, "cuda"), block.in_layout(layout)), expected)


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_drawn_problems(first: int) -> None:
    for seed in range(first, first + 50):
        case = draw(seed)
        block = on_gpu(case, DTYPES[seed % len(DTYPES)], seed)
        layout = ("nchw", "channels_last")[seed // len(DTYPES) % 2]
        try:
            check(evaluate(Run(case, "cuda"), block.in_layout(layout)), expect(block, "cuda"))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {case}: {error}") from error


@pytest.mark.parametrize("view", VIEWS)
def test_any_strides(view: str) -> None:
    block = on_gpu(replace(MSCA, c=19))
    strided = block.with_maps(VIEWS[view])
    strided = replace(strided, x=strided.x.copy_(block.x), dy=strided.dy.copy_(block.dy))
    check(evaluate(Run(block.case, "cuda"), strided), expect(block, "cuda"))


@every_layout
@pytest.mark.parametrize("case", [MSCA, STRIP_BLOCK, LSKA, *LARGE], ids=lambda case: case.name)
def test_same_bits_in_every_run(case: Case, layout: str) -> None:
    block = on_gpu(case).in_layout(layout)
    expected = evaluate(Run(case, "cuda"), block)
    for _ in range(3):
        for name, t in evaluate(Run(case, "cuda"), block).items():
            assert torch.equal(t, expected[name]), name


@every_layout
@pytest.mark.parametrize("case", [MSCA, PAIR, LSKA], ids=lambda case: case.name)
def test_only_the_gradients_asked_for(case: Case, layout: str) -> None:
    block = on_gpu(case).in_layout(layout).leaves()
    expected = expect(on_gpu(case), "cuda")
    for name, leaf in block.named.items():
        (alone,) = torch.autograd.grad(Run(case, "cuda")(*block.arguments), leaf, block.dy)
        check({name: alone}, expected)


@every_layout
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("case", [MSCA, STRIP_BLOCK], ids=lambda case: case.name)
def test_non_finite_values_reach_what_they_should_and_no_more(case: Case, value: float, layout: str) -> None:
    block = on_gpu(case).in_layout(layout)
    where = (1, case.c - 1, case.h - 1, case.w - 1)
    x, seen = block.x.clone(memory_format=torch.preserve_format), torch.zeros_like(block.x)
    x[where], seen[where] = value, 1
    found = evaluate(Run(case, "cuda"), replace(block, x=x))
    ones = replace(block.map(torch.ones_like), x=seen)
    ones = replace(ones, biases=tuple(None if b is None else torch.zeros_like(b) for b in block.biases))
    reached = evaluate(block.definition, ones.to(torch.float64))
    for name, t in found.items():
        if name == "y" or name.startswith("w"):
            assert torch.equal(~t.isfinite(), reached[name] > 1e-9), name
        else:
            assert t.isfinite().all(), name


def module_on_gpu() -> FusedStrips:
    return FusedStrips(8, [[(1, 5), (5, 1)], [(3, 3, 2)]], stem=3, skip=True, device="cuda", backend="cuda")


def test_unasked_plain_convolutions_run() -> None:
    module, x = module_on_gpu(), torch.randn(2, 8, 9, 11, device="cuda")
    module.backend = "auto"
    automatic = module(x)
    module.backend = "torch"
    assert torch.equal(automatic, module(x))


def test_a_step_is_captured_in_a_graph_and_replayed_on_other_data() -> None:
    module = module_on_gpu()
    x, dy = (torch.randn(2, 8, 33, 20, device="cuda") for _ in range(2))
    x.requires_grad_()
    check_replayed(module, x, dy)


def test_autocast_and_compile(fresh_compiler: None) -> None:
    module, x = module_on_gpu(), torch.randn(2, 8, 9, 11, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        assert module(x).dtype == torch.bfloat16
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    assert torch.equal(compiled(x), module(x))


def test_a_backend_without_its_device_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="backend='cpu' cannot run"):
        FusedStrips(8, [[3]], backend="cpu", device="cuda")(torch.randn(1, 8, 5, 5, device="cuda"))
