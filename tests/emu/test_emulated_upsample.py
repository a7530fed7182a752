"""The CUDA kernels of the doubling, emulated, behind their own host file, by the error rule."""

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
from suites import in_suites
from upsample_cases import FORMS, check, drawn, evaluate, groups_of
from upsample_cases import draw as draw_named
from upsample_emulated import H200, MATHS, RTX_4090, doubling, load, make, plan, wrong_with
from upsample_mutations import ADDED, DIRECT, FLOAT, SINGLE, TILE, TILES, WIDE, WIDE_BACK, WIDE_FLOAT, Case
from views import VIEWS

from gcn_kernels import reference

reason = emulator.why_not()
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))

every_math = pytest.mark.parametrize("math", MATHS)
TILED = {"upsample_forward_kernel", "upsample_backward_kernel", "upsample_finish_kernel"}
SINGLE_CHANNELS = {"upsample_single_forward_kernel", "upsample_single_backward_kernel", "upsample_finish_kernel"}
UNTILED = {"upsample_direct_forward_kernel", "upsample_direct_backward_kernel", "upsample_finish_kernel"}
EVERY_DAY = 40


def ahead(items: object) -> list[Job]:
    return emulator.UPSAMPLE.jobs()


@cache
def functions() -> Any:
    return load(emulator.upsample_library())


@pytest.fixture(autouse=True)
def operators() -> Any:
    return functions()


def launched() -> set[str]:
    """Names of the kernels' templates that ran since the last question."""
    return without_arguments(take_launched(functions()))


@every_math
@pytest.mark.parametrize("form", FORMS)
def test_every_form_and_dtype(form: str, math: str) -> None:
    """In both layouts, with and without a crop and a map that is added; sizes straddle tiles."""
    k, by_itself = FORMS[form]
    launched()
    for layout in ("nchw", "channels_last"):
        channels = (5, 6) if math == "float64" else (21, 19)
        case = Case((2, *channels, *((19, 10) if by_itself else (5, 34))), math, k, by_itself, layout)
        for crop, add in (((0, 0), False), ((1, 2), True)):
            assert wrong_with(replace(case, crop=crop, add=add)) == ""
    assert launched() == (SINGLE_CHANNELS if by_itself else TILED)


@pytest.mark.parametrize("part", in_suites(range(3), everyday=lambda part: part == 0))
def test_drawn_problems(part: int) -> None:
    """Forms, sizes of one and of several tiles, crops, dtypes, layouts and wild strides."""
    for seed in range(part * EVERY_DAY, (part + 1) * EVERY_DAY):
        problem = drawn(seed, doubling)
        try:
            check(evaluate(problem.run, *problem.tensors), *problem.tensors, definition=problem.definition)
        except AssertionError as error:
            raise AssertionError(problem.name) from error


@pytest.mark.parametrize("case", [TILES, replace(TILES, math="float32"), WIDE, WIDE_FLOAT, WIDE_BACK, ADDED], ids=str)
def test_several_tiles_and_groups_of_channels(case: Case) -> None:
    launched()
    assert wrong_with(case) == ""
    assert launched() == TILED


def test_channels_of_which_no_tile_fits_are_read_from_device_memory() -> None:
    launched()
    for case in (DIRECT, replace(DIRECT, k=3, layout="channels_last", add=True, crop=(1, 1)), replace(DIRECT, k=2)):
        assert wrong_with(case) == ""
    assert launched() == UNTILED


def test_large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiles of a large GPU, on problems that are small enough for an emulator."""
    monkeypatch.setenv("GCN_EMULATED_GPU", "large-blocks")
    cases = [Case((1, 21, 21, 5, 40)), Case((1, 70, 30, 3, 9), "float16"), Case((1, 21, 21, 5, 40), "float32")]
    assert call("upsample_emulated:wrong", str(emulator.upsample_library()), cases) == []


@pytest.mark.parametrize("form", ["4x4", "4x4-depthwise"])
@pytest.mark.parametrize("sizes", [(0, 3, 4, 5, 6), (2, 3, 2, 1, 1), (1, 1, 1, 1, 33), (1, 2, 1, 33, 1)], ids=str)
def test_no_image_and_sizes_of_one(sizes: tuple[int, int, int, int, int], form: str) -> None:
    for arithmetic in ("bfloat16", "float64"):
        assert wrong_with(Case(sizes, arithmetic, *FORMS[form])) == ""


@pytest.mark.parametrize("form", ["4x4", "3x3-depthwise"])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_any_strides(view: Any, form: str) -> None:
    x, weight, bias, dy = draw_named("cityscapes", torch.float32, form=form)
    add, groups = torch.randn_like(dy), groups_of(form, x)
    tensors = [view(t) for t in (x, weight, bias, add, dy)]
    found = evaluate(lambda x, w, b, a: doubling(x, w, b, add=a, groups=groups), *tensors)
    check(found, *tensors, definition=lambda x, w, b, a: reference.upsample(x, w, b, add=a, groups=groups))
    assert found["dx"].stride() == torch.empty_like(tensors[0]).stride()
    assert found["dw"].stride() == torch.empty_like(tensors[1]).stride()


def test_rows_of_an_even_length_that_start_at_an_odd_element() -> None:
    """What is no pair in memory is not read as one: the emulator watches alignment."""

    def moved(t: torch.Tensor) -> torch.Tensor:
        return torch.cat((t.new_zeros(1), t.flatten()))[1:].view(t.shape)

    (x, weight, bias, add, dy), of = make(replace(ADDED, math="bfloat16", crop=(0, 0)))
    expected = evaluate(of(doubling), x, weight, bias, add, dy)
    for tensors in ((moved(x), weight, bias, add, dy), (x, weight, bias, moved(add), dy), (x, weight, bias, add, moved(dy))):
        found = evaluate(of(doubling), *tensors)
        assert all(torch.equal(t, expected[name]) for name, t in found.items())


@pytest.mark.parametrize("case", [TILE, FLOAT, SINGLE], ids=str)
def test_what_is_added_is_added_as_pytorch_adds_it(case: Case) -> None:
    """To the bit: what is added to is rounded to the dtype first."""
    (x, weight, bias, add, _), of = make(replace(case, add=True, crop=(1, 1)))
    groups = x.shape[1] if case.by_itself else 1
    apart = add + doubling(x, weight, bias, size=add.shape[-2:], groups=groups)
    assert torch.equal(of(doubling)(x, weight, bias, add), apart)


@pytest.mark.parametrize("case", [TILE, FLOAT, SINGLE], ids=str)
def test_only_the_gradients_asked_for(case: Case) -> None:
    (x, weight, _, dy), _ = make(replace(case, sizes=(2, 5, 5 if case.by_itself else 4, 3, 4)))
    groups = x.shape[1] if case.by_itself else 1
    expected = torch.ops.gcn_emulated.doubling_backward(dy, x, weight, 7, groups)
    for wanted in range(8):
        found = torch.ops.gcn_emulated.doubling_backward(dy, x, weight, wanted, groups)
        for i in range(3):
            assert torch.equal(found[i], expected[i]) if wanted >> i & 1 else found[i].numel() == 0


def test_without_a_bias() -> None:
    for case in (TILE, FLOAT, SINGLE):
        (x, weight, bias, _), of = make(case)
        assert torch.equal(of(doubling)(x, weight, None), of(doubling)(x, weight, torch.zeros_like(bias)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["x", "dy"])
def test_values_that_are_not_finite_reach_what_they_meet_in_the_definition(where: str, value: float) -> None:
    """At corners, where some of the taps lead outside, and on both sides of the border of two tiles."""
    scale = 1 if where == "x" else 2
    for row, column in ((0, 0), (-1, -1), (2 * scale, 31 * scale), (2 * scale, 32 * scale)):
        special = (where, value, row, column)
        for sizes, arithmetic, k, by_itself in (
            ((1, 21, 19, 3, 40), "bfloat16", 4, False),
            ((1, 24, 8, 3, 40), "bfloat16", 3, False),
            ((1, 8, 24, 3, 40), "float16", 2, False),
            ((1, 3, 4, 3, 40), "float32", 4, False),
            ((1, 3, 4, 3, 40), "float64", 3, False),
            ((1, 3, 3, 3, 40), "float32", 4, True),
            ((1, 3, 3, 3, 40), "float32", 2, True),
        ):
            case = Case(sizes, arithmetic, k, by_itself, special=special)
            assert wrong_with(case) == "", case


def test_same_bits_whatever_runs_first() -> None:
    for case in (TILES, FLOAT, SINGLE, DIRECT):
        tensors, of = make(case)
        functions().set_random_order(0)
        expected = evaluate(of(doubling), *tensors)
        functions().set_random_order(1)
        for name, t in evaluate(of(doubling), *tensors).items():
            assert torch.equal(t, expected[name]), name
    functions().set_random_order(0)


def test_operators_of_earlier_graphs() -> None:
    (x, weight, bias, dy), _ = make(TILE)
    operators = torch.ops.gcn_emulated
    assert torch.equal(operators.upsample(x, weight, bias, False), doubling(x, weight, bias))
    for ours, found in zip(
        operators.upsample_backward(dy, x, weight, 7), operators.doubling_backward(dy, x, weight, 7, 1), strict=True
    ):
        assert torch.equal(ours, found)


def test_a_failed_launch_names_its_kernel_and_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCN_EMULATOR_REFUSES", "upsample_forward_kernel")
    (x, weight, bias, _), _ = make(TILE)
    with pytest.raises(RuntimeError, match=r"gcn_kernels::doubling: launching upsample_forward \(grid \d+ x 1 x 1"):
        doubling(x, weight, bias)


def test_refusals() -> None:
    (x, weight, bias, dy), _ = make(replace(TILE, math="float32"))
    operators = torch.ops.gcn_emulated
    for wrong, says in (
        ((x[0], weight, bias, None, None, None, 1, False), "x: expected"),
        ((x, weight[1:], bias, None, None, None, 1, False), "weight: expected"),
        ((x, weight, bias, None, None, None, 2, False), "groups: expected"),
        ((x, weight, bias[1:], None, None, None, 1, False), "bias: expected"),
        ((x, weight, bias, dy[:, 1:], None, None, 1, False), "add: expected"),
        ((x, weight, bias, None, 99, 1, 1, False), "height, width: expected at most"),
    ):
        with pytest.raises(RuntimeError, match=says):
            operators.doubling(*wrong)
    with pytest.raises(RuntimeError, match="dy: expected the dtype"):
        operators.doubling_backward(dy.double(), x, weight, 1, 1)
    with pytest.raises(RuntimeError, match="wanted: expected a mask"):
        operators.doubling_backward(dy, x, weight, 8, 1)


@pytest.mark.parametrize("gpu", [H200, RTX_4090], ids=["h200", "rtx4090"])
def test_plans_of_the_papers_sizes(gpu: tuple[int, int, int]) -> None:
    """Their tiles fit, and the predictions are no less than the floors."""
    for arithmetic in MATHS:
        for wanted in (-1, 7):
            found = plan(functions(), (16, 21, 21, 256, 256, 512, 512, 4, 0, 0), arithmetic, wanted, gpu)
            assert found["resident"] * found["shared_bytes"] <= gpu[2] and found["shared_bytes"] <= gpu[1]
            assert found["seconds"] >= found["floor"]
            if arithmetic != "float64":
                assert found["why_direct"] == ""
