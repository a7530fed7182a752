"""The CUDA kernels of depthwise strips, emulated, behind their own host file, by the error rule."""

import math
from dataclasses import replace
from typing import Any

import emulator
import pytest
import torch
from ahead import Job
from cases import DTYPES, LAYOUTS, every_dtype, every_layout
from isolated import call
from rule import check, evaluate, expect
from strips_cases import CASES, LSKA, MSCA, PAIR, STRIP_BLOCK, Case, draw, make, pairs, row
from strips_emulated import Emulated, functions, taken
from strips_mutations import FAR, MANY_CHANNELS, WHOLE, WHOLE_CHAIN
from suites import in_suites
from views import VIEWS

reason = emulator.why_not()
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))

#: More kernels than one launch has room for.
LONG_CHAIN = Case("long-chain", (tuple(row(3) for _ in range(17)),), n=1, c=2, h=7, w=9)
#: Problems drawn for every run of the tests, and for a thorough one.
EVERYDAY, PROOF = 40, 320


def ahead(items: object) -> list[Job]:
    return emulator.STRIPS.jobs()


@pytest.fixture(autouse=True)
def operators() -> Any:
    return functions()


@pytest.mark.parametrize("dtype", in_suites(DTYPES, everyday=lambda dtype: dtype == torch.float32), ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_named_problem(case: Case, dtype: torch.dtype) -> None:
    block = make(case, dtype)
    expected = expect(block)
    for layout in LAYOUTS:
        check(evaluate(Emulated(case), block.in_layout(layout)), expected)


@every_dtype
@pytest.mark.parametrize("case", [MSCA, WHOLE, WHOLE_CHAIN, replace(LSKA, bias=True)], ids=lambda case: case.name)
def test_dtype(case: Case, dtype: torch.dtype) -> None:
    test_named_problem(case, dtype)
    products = "strips_banded_kernel" if dtype.itemsize == 2 else "strips_tile_kernel"
    assert taken() == {products, "strips_finish_kernel"}


@pytest.mark.parametrize("first", in_suites(range(0, PROOF, 40), everyday=lambda first: first < EVERYDAY))
def test_drawn_problems(first: int) -> None:
    for seed in range(first, first + 40):
        case = draw(seed)
        block = make(case, DTYPES[seed % len(DTYPES)], seed)
        layout = ("nchw", "channels_last")[seed // len(DTYPES) % 2]
        try:
            check(evaluate(Emulated(case), block.in_layout(layout)), expect(block))
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"seed {seed}, {case}: {error}") from error


#: Of problems that are small here and have the tiles, channels and threads of a block that large ones have on a large GPU.
LARGE_BLOCKS = [
    *(("msca", (1, 3, 64, 64), "float32", layout) for layout in LAYOUTS),
    ("msca", (1, 2, 130, 128), "bfloat16", "nchw"),
    ("strip-block", (1, 5, 64, 60), "bfloat16", "channels_last"),
    *(("msca", (2, 70, 16, 16), "float16", layout) for layout in LAYOUTS),
    *(("lska", (3, 33, 7, 7), "float32", layout) for layout in LAYOUTS),
]


def test_large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCN_EMULATED_GPU", "large-blocks")
    assert call("strips_emulated:wrong", str(emulator.strips_library()), LARGE_BLOCKS) == []


@every_dtype
@pytest.mark.parametrize("case", [FAR, LONG_CHAIN], ids=lambda case: case.name)
def test_what_fits_no_tile_goes_an_operation_a_launch(case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCN_KERNELS_PLAN", "strips_banded=1")  # on tensor cores one of them has a tile in 16 bits
    taken()
    block = make(case, dtype)
    check(evaluate(Emulated(case), block.in_layout("channels_last")), expect(block))
    assert taken() == {"strips_direct_conv_kernel", "strips_direct_dot_kernel"}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("of", ["maps", "parameters"])
def test_any_strides(of: str, view: Any) -> None:
    plain = make(replace(PAIR, c=5))
    block = plain.with_maps(view)
    if of == "parameters":
        biases = tuple(None if b is None else view(b) for b in plain.biases)
        block = replace(plain, weights=tuple(map(view, plain.weights)), biases=biases)
    found = evaluate(Emulated(block.case), block)
    check(found, expect(block))
    for name, argument in block.named.items():
        assert found[name].stride() == torch.empty_like(argument).stride()


@every_layout
@pytest.mark.parametrize("by", [1, 2, 4])
def test_maps_that_start_anywhere(by: int, layout: str) -> None:
    """Four elements are moved at once only where they are aligned, which the emulator insists on."""
    block = make(MANY_CHANNELS, torch.bfloat16)
    n, c, h, w = block.x.shape
    expected = expect(block)

    def shifted(t: torch.Tensor) -> torch.Tensor:
        memory = t.new_empty(t.numel() + by)[by:]
        last = memory.view(n, h, w, c).permute(0, 3, 1, 2)
        return (memory.view(n, c, h, w) if layout == "nchw" else last).copy_(t)

    check(evaluate(Emulated(block.case), block.with_maps(shifted)), expected)


@every_layout
@pytest.mark.parametrize("case", [MSCA, LSKA, Case("stemless", pairs(5), skip=True)], ids=lambda case: case.name)
def test_only_the_gradients_asked_for(case: Case, layout: str) -> None:
    """Each gradient alone is what the rule allows, and no other is computed."""
    block = make(case).in_layout(layout).leaves()
    expected = expect(make(case))
    for i, (name, leaf) in enumerate(block.named.items()):
        y = Emulated(case, wanted=1 << i)(*block.arguments)
        (alone,) = torch.autograd.grad(y, leaf, block.dy)
        check({name: alone}, expected)
    (none,) = torch.autograd.grad(Emulated(case, wanted=0)(*block.arguments), block.x, block.dy, allow_unused=True)
    assert none is None


@every_layout
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("case", [MSCA, STRIP_BLOCK, WHOLE, replace(PAIR, h=20, w=37), FAR], ids=lambda case: case.name)
def test_non_finite_values_reach_what_they_should_and_no_more(case: Case, value: float, layout: str) -> None:
    block = make(case).in_layout(layout)
    where = (case.n - 1, case.c - 1, case.h - 1, case.w - 1)
    x, seen = block.x.clone(memory_format=torch.preserve_format), torch.zeros_like(block.x)
    x[where], seen[where] = value, 1
    found = evaluate(Emulated(case), replace(block, x=x))
    ones = replace(block, x=seen, weights=tuple(map(torch.ones_like, block.weights)), dy=torch.ones_like(block.dy))
    ones = replace(ones, biases=tuple(None if b is None else torch.zeros_like(b) for b in block.biases))
    reached = evaluate(block.definition, ones.to(torch.float64))
    for name, t in found.items():
        if name == "y" or name.startswith("w"):
            assert torch.equal(~t.isfinite(), reached[name] > 1e-9), name
        else:
            assert t.isfinite().all(), name


@every_layout
def test_same_bits_whatever_runs_first(layout: str) -> None:
    block = make(MSCA).in_layout(layout)
    functions().set_random_order(0)
    expected = evaluate(Emulated(MSCA), block)
    for seed in (1, 2):
        functions().set_random_order(seed)
        for name, t in evaluate(Emulated(MSCA), block).items():
            assert torch.equal(t, expected[name]), name
    functions().set_random_order(0)


def test_a_failed_launch_names_its_kernel_and_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    block = make(PAIR)
    monkeypatch.setenv("GCN_EMULATOR_REFUSES", "strips_tile_kernel")
    says = (
        r"gcn_kernels::cuda_strips: launching strips_tile \(grid \d+ x 1 x 1 in clusters of 1, \d+ threads, \d+ bytes of shared"
    )
    with pytest.raises(RuntimeError, match=says):
        evaluate(Emulated(PAIR), block)


def test_refusals() -> None:
    block = make(replace(PAIR, c=3, h=5, w=5))
    x, weights, biases, *form = Emulated(block.case).arguments(block.x, block.arguments[1:])
    with pytest.raises(RuntimeError, match="dy: expected the shape"):
        torch.ops.gcn_emulated.strips_backward(x[1:], x, weights, biases, 1, *form)
    with pytest.raises(RuntimeError, match="wanted: expected one bit for each of 5"):
        torch.ops.gcn_emulated.strips_backward(x, x, weights, biases, 32, *form)
    with pytest.raises(RuntimeError, match="weights: expected"):
        torch.ops.gcn_emulated.strips(x, [w[1:] for w in weights], biases, *form, False)


def test_operators_of_saved_graphs_never_round_to_tf32() -> None:
    block = make(WHOLE)
    expected = evaluate(Emulated(WHOLE), block)
    taken()
    x, weights, biases, *form = Emulated(WHOLE).arguments(block.x, block.arguments[1:])
    y = torch.ops.gcn_emulated.strips(x, weights, biases, *form, False)
    dx, of_weights, of_biases = torch.ops.gcn_emulated.strips_backward(block.dy, x, weights, biases, 2**15 - 1, *form)
    for found, t in zip((y, dx, *of_weights, *of_biases), expected.values(), strict=True):
        assert torch.equal(found, t)
    assert taken() == {"strips_tile_kernel", "strips_finish_kernel"}
