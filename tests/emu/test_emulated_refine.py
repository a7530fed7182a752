"""The CUDA kernels of boundary refinement, emulated, behind their own host file, by the error rule."""

import math
from dataclasses import replace
from functools import cache
from typing import Any

import emulator
import pytest
import torch
from ahead import Job
from emulated_library import take_launched, without_arguments
from isolated import call
from refine_cases import CASES, NAMES, check
from refine_emulated import H200, MATHS, RTX_4090, load, make, plan, run, wrong_with
from refine_mutations import IN_TURNS, TILE, TILES, WIDE, Case
from suites import in_suites
from views import VIEWS

reason = emulator.why_not()
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))

every_math = pytest.mark.parametrize("math", MATHS)
TILED, DIRECT = (
    {"refine_forward_kernel", "refine_backward_kernel", "refine_finish_kernel"},
    {"refine_direct_conv_kernel", "refine_direct_grad_kernel"},
)


def ahead(items: object) -> list[Job]:
    return emulator.REFINE.jobs()


@cache
def functions() -> Any:
    return load(str(emulator.refine_library()))


@pytest.fixture(autouse=True)
def operators() -> Any:
    return functions()


def launched() -> set[str]:
    """Names of the kernels' templates that ran since the last question."""
    return without_arguments(take_launched(functions()))


#: Every arithmetic sees every named problem, in one of the layouts.
NAMED = [
    Case(CASES[name], math, ("nchw", "channels_last")[(i + j) % 2])
    for i, name in enumerate(name for name in CASES if name != "batch0")
    for j, math in enumerate(MATHS)
]


@pytest.mark.parametrize("case", in_suites(NAMED, everyday=lambda case: case.math == "bfloat16"), ids=lambda case: str(case))
def test_named_problem(case: Case) -> None:
    assert wrong_with(case) == ""


@every_math
def test_dtype(math: str) -> None:
    launched()
    for layout in ("nchw", "channels_last"):
        assert wrong_with(replace(TILE, math=math, layout=layout)) == ""
    assert launched() == (DIRECT if math == "float64" else TILED)


@pytest.mark.parametrize("case", [WIDE, IN_TURNS], ids=["wide", "in-turns"])
def test_more_channels_than_a_group(case: Case) -> None:
    launched()
    assert wrong_with(case) == ""
    assert launched() == TILED


def test_many_tiles() -> None:
    assert wrong_with(TILES) == ""


def test_no_image() -> None:
    given, dy = make(replace(TILE, sizes=(0, 3, 4, 5, 6)))
    results = run(given, dy)
    assert [tuple(t.shape) for t in results.values()] == [tuple(t.shape) for t in (given[0], *given)]
    assert all(not t.any() for t in results.values())


@pytest.mark.proof
@every_math
def test_drawn_problems(math: str) -> None:
    for seed in range(12):
        torch.manual_seed(seed)
        most = torch.tensor([2, 40, 40, 30, 50])
        n, c, m, h, w = (int(s) for s in (torch.rand(5) ** 2 * most + 1).long())
        case = Case((n, c, m, h, w), math, ("nchw", "channels_last")[seed % 2])
        assert wrong_with(case) == "", f"seed {seed}: {case}"


@pytest.mark.parametrize("case", [Case((1, 140, 3, 2, 2), "float16"), Case((1, 3, 100, 2, 2), "float32")], ids=str)
def test_channels_of_which_no_tile_fits_go_a_convolution_a_launch(case: Case) -> None:
    launched()
    assert wrong_with(case) == ""
    assert launched() == DIRECT


def test_large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiles of a large GPU, on problems that are small enough for an emulator."""
    sizes = {"bfloat16": (1, 21, 21, 20, 33), "float16": (1, 48, 40, 4, 9), "float32": (1, 30, 27, 4, 9)}
    monkeypatch.setenv("GCN_EMULATED_GPU", "large-blocks")
    cases = [Case(s, arithmetic, "channels_last") for arithmetic, s in sizes.items()]
    assert call("refine_emulated:wrong", str(emulator.refine_library()), cases) == []


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("of", ["maps", "parameters"])
def test_any_strides(of: str, view: Any) -> None:
    given, dy = make(replace(TILE, math="float32"))
    if of == "maps":
        given[0], dy = view(given[0]), view(dy)
    else:
        given[1:] = map(view, given[1:])
    found = run(given, dy)
    check(found, given, dy)
    for name, argument in zip(NAMES, given, strict=True):
        assert found[name].stride() == torch.empty_like(argument).stride()


#: Rows of an even length are read and written in pairs of pixels; every number of channels that are no whole piece.
EVEN = [Case((1, c, 24 - c % 7, 5, 34), math) for math, most in (("float16", 8), ("float32", 4)) for c in range(16, 16 + most)]


@pytest.mark.parametrize("case", in_suites(EVEN, everyday=lambda case: case.sizes[1] in (16, 19)), ids=str)
def test_pairs_of_pixels_and_packed_channels(case: Case) -> None:
    assert wrong_with(case) == ""


def test_rows_of_an_even_length_that_start_at_an_odd_element() -> None:
    """What is no pair in memory is not read as one: the emulator watches alignment."""

    def moved(t: torch.Tensor) -> torch.Tensor:
        return torch.cat((t.new_zeros(1), t.flatten()))[1:].view(t.shape)

    given, dy = make(replace(TILE, sizes=(1, 5, 6, 4, 40)))
    expected = run(given, dy)
    found = run([moved(given[0]), *given[1:]], moved(dy))
    assert all(torch.equal(t, expected[name]) for name, t in found.items())


@pytest.mark.parametrize("missing", [(3,), (4,), (3, 4)])
def test_without_biases(missing: tuple[int, ...]) -> None:
    given, dy = make(TILE)
    with_zeros = [torch.zeros_like(t) if i in missing else t for i, t in enumerate(given)]
    expected = run(with_zeros, dy)
    found = run([None if i in missing else t for i, t in enumerate(given)], dy)
    assert all(torch.equal(t, expected[name]) for name, t in found.items())


@pytest.mark.parametrize("math", ["bfloat16", "float64"])
def test_only_the_gradients_asked_for(math: str) -> None:
    given, dy = make(replace(TILE, sizes=(1, 5, 4, 3, 4), math=math))
    expected = run(given, dy)
    for wanted in range(32):
        found = run(given, dy, wanted=wanted)
        for i, name in enumerate(NAMES):
            assert torch.equal(found[name], expected[name]) if wanted >> i & 1 else found[name].numel() == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["x", "dy"])
def test_values_that_are_not_finite_reach_what_they_reach_in_pytorch(where: str, value: float) -> None:
    for case in (
        Case((1, 21, 19, 5, 40), special=(where, value, 39), negative=True),
        Case((1, 24, 24, 5, 40), special=(where, value, 17)),
        Case((1, 3, 4, 3, 31), "float32", special=(where, value, 30)),
        Case((1, 3, 4, 3, 31), "float64", special=(where, value, 0)),
    ):
        assert wrong_with(case) == "", case


def test_an_infinite_gradient_of_a_neighbouring_tile_is_no_nan() -> None:
    """Its product with a zero would be."""
    given, dy = make(Case((1, 8, 8, 5, 31)))
    for t in given:
        t.abs_()
    dy[0, 0, 2, 30] = math.inf
    assert run(given, dy)["dw2"][0, :, 1, 1].eq(math.inf).all()


def test_same_bits_whatever_runs_first() -> None:
    for case in (TILE, replace(TILE, math="float64")):
        given, dy = make(case)
        functions().set_random_order(0)
        expected = run(given, dy)
        for seed in (1, 2):
            functions().set_random_order(seed)
            for name, t in run(given, dy).items():
                assert torch.equal(t, expected[name]), name
    functions().set_random_order(0)


def test_tf32_is_a_choice() -> None:
    given, dy = make(replace(TILE, math="float32"))
    exact, rounded = run(given, dy), run(given, dy, allow_tf32=True)
    assert not torch.equal(exact["y"], rounded["y"])


def test_a_failed_launch_names_its_kernel_and_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCN_EMULATOR_REFUSES", "refine_forward_kernel")
    with pytest.raises(RuntimeError, match=r"gcn_kernels::cuda_refine: launching refine_forward \(grid \d+ x 1 x 1"):
        run(*make(TILE))


def test_refusals() -> None:
    given, dy = make(TILE)
    x, w1, w2, b1, b2 = given
    operators = torch.ops.gcn_emulated
    for wrong, says in (
        ((x[0], w1, w2, b1, b2), "x: expected"),
        ((x, w1[1:], w2, b1, b2), "w2: expected"),
        ((x, w1, w2, b1[1:], b2), "b1: expected"),
        ((x, w1, w2, b1, b2.double()), "b2: expected the dtype"),
    ):
        with pytest.raises(RuntimeError, match=says):
            operators.cuda_refine(*wrong, False, False)
    with pytest.raises(RuntimeError, match="dy: expected the shape of x"):
        operators.cuda_refine_backward(dy[:, :, 1:], *given[:4], 1, False)
    with pytest.raises(RuntimeError, match="wanted: expected a mask"):
        operators.cuda_refine_backward(dy, *given[:4], 32, False)


@pytest.mark.parametrize("gpu", [H200, RTX_4090], ids=["h200", "rtx4090"])
def test_plans_of_the_papers_sizes(gpu: tuple[int, int, int]) -> None:
    """Their tiles fit, and blocks share a multiprocessor where there is room; the predictions are no less than the floors."""
    for arithmetic in ("bfloat16", "tf32", "float32"):
        for wanted in (-1, 31):
            found = plan(functions(), (16, 21, 21, 512, 512), arithmetic, wanted, gpu)
            assert found["why_direct"] == ""
            assert found["resident"] * found["shared_bytes"] <= gpu[2] and found["shared_bytes"] <= gpu[1]
            assert found["seconds"] >= found["floor"]
