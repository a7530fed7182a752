"""Depthwise strips on the tensor cores, emulated: the error rule in 16 bits, what is not finite, and what the plan chooses."""

import math
from dataclasses import replace

import emulator
import pytest
import torch
from ahead import Job
from cases import LAYOUTS, every_layout
from rule import check, evaluate, expect
from strips_cases import CASES, LSKA, MSCA, PAIR, STRIP_BLOCK, Case, InTf32, Run, column, draw, make, row
from strips_emulated import Emulated, functions, plan, taken, wrong_reach
from strips_mutations import BANDS, DILATED, LONG, RECTANGLES, TILES, WHOLE
from suites import in_suites

reason = emulator.why_not()
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))

HALVES = (torch.bfloat16, torch.float16)
#: Problems drawn for every run of the tests, and for a thorough one.
EVERYDAY, PROOF = 20, 160
#: C, H, W of the maps of the predictions in docs/operators/strips.md, at batch 16 in NCHW on an H200.
MAPS = ((512, 64, 64), (64, 128, 128), (128, 64, 64), (320, 32, 32), (512, 16, 16))
#: As multiples of what the maps take to be read and written, forward and backward.
PREDICTED = {
    "msca": ((8.7, 19.0), (8.9, 22.9), (8.8, 19.0), (10.9, 24.6), (18.0, 50.0)),
    "strip-block": ((4.0, 9.4), (4.1, 8.8), (4.0, 10.0), (4.5, 13.0), (8.3, 28.0)),
    "pair": ((2.4, 3.7), (2.6, 4.4), (2.4, 3.7), (2.7, 4.9), (4.7, 9.2)),
}


def ahead(items: object) -> list[Job]:
    return emulator.STRIPS.jobs()


@pytest.fixture(autouse=True)
def by_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the tensor cores wherever that fits, whatever the plan would rather do."""
    monkeypatch.setenv("GCN_KERNELS_PLAN", "strips_banded=2")
    taken()


@pytest.mark.parametrize("case", [*CASES, BANDS, LONG, TILES], ids=lambda case: case.name)
def test_named_problem(case: Case) -> None:
    for dtype, layout in zip(HALVES, LAYOUTS, strict=True):
        block = make(case, dtype)
        check(evaluate(Emulated(case), block.in_layout(layout)), expect(block))
    assert case.n == 0 or "strips_banded_kernel" in taken()


@pytest.mark.parametrize("first", in_suites(range(0, PROOF, 20), everyday=lambda first: first < EVERYDAY))
def test_drawn_problems(first: int) -> None:
    for seed in range(first, first + 20):
        case = draw(seed)
        block = make(case, HALVES[seed % 2], seed)
        try:
            check(evaluate(Emulated(case), block.in_layout(list(LAYOUTS)[seed // 2 % 2])), expect(block))
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"seed {seed}, {case}: {error}") from error


#: Bands of one and of several passes, tiles, kernels of several lines, dilations, maps smaller than kernels.
IN_TF32 = [BANDS, LONG, TILES, MSCA, STRIP_BLOCK, LSKA, DILATED, RECTANGLES, *(c for c in CASES if c.name == "map1x1")]


@pytest.mark.parametrize("case", IN_TF32, ids=lambda case: case.name)
def test_tf32(case: Case) -> None:
    """As good as PyTorch's convolutions with factors that are rounded to tf32, and not as good as in float32."""
    block = make(case)
    expected = expect(block, own=InTf32(case))
    for layout in LAYOUTS:
        check(evaluate(Emulated(case, allow_tf32=True), block.in_layout(layout)), expected)
    assert taken() == {"strips_banded_kernel", "strips_finish_kernel"}


@pytest.mark.parametrize("first", in_suites(range(0, PROOF, 20), everyday=lambda first: first < EVERYDAY))
def test_drawn_problems_in_tf32(first: int) -> None:
    for seed in range(first, first + 20):
        case = draw(seed)
        block = make(case, seed=seed)
        try:
            found = evaluate(Emulated(case, allow_tf32=True), block.in_layout(list(LAYOUTS)[seed % 2]))
            check(found, expect(block, own=InTf32(case)))
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"seed {seed}, {case}: {error}") from error


def test_float32_is_never_rounded_unasked() -> None:
    block = make(BANDS)
    exact, rounded = (evaluate(Emulated(BANDS, allow_tf32=allow), block) for allow in (False, True))
    check(exact, expect(block))
    with pytest.raises(AssertionError, match="y: error"):
        check(rounded, expect(block))
    for dtype in (torch.float64, *HALVES):
        block = make(BANDS, dtype)
        found = (evaluate(Emulated(BANDS, allow_tf32=allow), block) for allow in (False, True))
        assert all(torch.equal(a, b) for a, b in zip(*(f.values() for f in found), strict=True))


@pytest.mark.parametrize("where", ["x", "dy"])
@pytest.mark.parametrize("case", [BANDS, replace(PAIR, h=20, w=37)], ids=lambda case: case.name)
def test_non_finite_values_in_tf32(case: Case, where: str) -> None:
    for value, layout in ((math.nan, "nchw"), (math.inf, "channels_last")):
        run = Emulated(case, allow_tf32=True)
        assert wrong_reach(make(case).in_layout(layout), (where, value), run) == ""


def test_numbers_beyond_tf32_are_not_infinite() -> None:
    """The largest numbers of float32 would be rounded to infinity."""
    case = Case("large", ((row(3),),), n=1, c=1, h=20, w=20, bias=False)
    block = make(case)
    x, weight = torch.full_like(block.x, torch.finfo(torch.float32).max), torch.full_like(block.weights[0], 0.25)
    y = Emulated(case, allow_tf32=True)(x, weight, None)
    torch.testing.assert_close(y, Run(case, None)(x, weight, None), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_multiply_adds_if_asked_for(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCN_KERNELS_PLAN", "strips_banded=1")
    for case, layout in ((WHOLE, "nchw"), (LSKA, "channels_last")):
        block = make(case, dtype)
        check(evaluate(Emulated(case), block.in_layout(layout)), expect(block))
    assert "strips_tile_kernel" in (names := taken()) and "strips_banded_kernel" not in names


@every_layout
@pytest.mark.parametrize("where", ["x", "dy"])
@pytest.mark.parametrize("case", [BANDS, STRIP_BLOCK, WHOLE, DILATED, replace(PAIR, h=20, w=37)], ids=lambda case: case.name)
def test_non_finite_values_reach_what_they_should_and_no_more(case: Case, where: str, layout: str) -> None:
    for value in (math.nan, math.inf):
        assert wrong_reach(make(case, torch.bfloat16).in_layout(layout), (where, value), Emulated(case)) == ""


def test_a_map_of_infinities() -> None:
    block = make(WHOLE, torch.bfloat16)
    found = evaluate(Emulated(WHOLE), replace(block, x=torch.full_like(block.x, math.inf)))
    for name, t in found.items():
        assert t.isfinite().all() if name == "x" or name.startswith("b") else not t.isfinite().any(), name


def test_zero_weights_hide_nothing() -> None:
    case = Case("middle", ((column(7),),), n=1, c=2, h=20, w=20, bias=False)
    block = make(case, torch.bfloat16)
    x = block.x.clone()
    x[0, 0, 10, 10] = math.inf
    found = evaluate(Emulated(case), replace(block, x=x, weights=(torch.zeros_like(block.weights[0]),)))
    assert found["y"][0, 0, 7:14, 10].isnan().all()
    assert int(found["y"].isnan().sum()) == 7


@every_layout
@pytest.mark.parametrize("case", [BANDS, LSKA], ids=lambda case: case.name)
def test_only_the_gradients_asked_for(case: Case, layout: str) -> None:
    block = make(case, torch.float16).in_layout(layout).leaves()
    expected = expect(make(case, torch.float16))
    for i, (name, leaf) in enumerate(block.named.items()):
        y = Emulated(case, wanted=1 << i)(*block.arguments)
        (alone,) = torch.autograd.grad(y, leaf, block.dy)
        check({name: alone}, expected)


def test_same_bits_whatever_runs_first() -> None:
    block = make(BANDS, torch.bfloat16)
    found = []
    for seed in (0, 1, 2):
        functions().set_random_order(seed)
        found.append(evaluate(Emulated(BANDS), block))
    functions().set_random_order(0)
    for name, t in found[0].items():
        assert all(torch.equal(t, again[name]) for again in found), name


def test_what_the_plan_takes() -> None:
    large = replace(MSCA, n=16, c=512, h=64, w=64)
    assert plan(functions(), large, torch.bfloat16)["banded"]
    assert not plan(functions(), large, torch.bfloat16, overrides="strips_banded=1")["banded"]
    assert not plan(functions(), large, torch.float32, overrides="strips_banded=2")["banded"]
    assert plan(functions(), large, "tf32", overrides="strips_banded=2")["banded"]
    assert not plan(functions(), large, "tf32", overrides="strips_banded=1")["banded"]
    # Sums of the many lines of such a kernel have no room beside its maps.
    far = replace(RECTANGLES, branches=(((51, 5, (1, 1)),),), h=64, w=64)
    assert not plan(functions(), far, torch.bfloat16, backward=True, overrides="strips_banded=2")["why_direct"]


@pytest.mark.parametrize("form", PREDICTED)
def test_predictions_are_what_the_docs_say(form: str) -> None:
    """Only on the smallest maps are multiply-adds predicted to be faster, backward."""
    for (c, h, w), most in zip(MAPS, PREDICTED[form], strict=True):
        case = replace({"msca": MSCA, "strip-block": STRIP_BLOCK, "pair": PAIR}[form], n=16, c=c, h=h, w=w)
        for backward, ratio in enumerate(most):
            said = plan(functions(), case, torch.bfloat16, backward=bool(backward))
            assert said["banded"] or (backward and (h, w) == (16, 16))
            assert ratio - 0.11 < said["seconds"] / said["floor"] <= ratio, (c, h, w, backward)
