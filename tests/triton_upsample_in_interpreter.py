"""What the doubling's Triton kernels have of their own, in the interpreter: test_triton_interpreter.py runs this file."""

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import triton
import triton_repairs
from suites import in_suites
from torch import Tensor
from upsample_cases import FORMS, check, compare_finite, evaluate, tap_by_tap
from views import VIEWS

from gcn_kernels import fused_upsample, reference
from gcn_kernels.triton import device
from gcn_kernels.triton.upsample import depthwise, kernels, ops

TINY = ops.Tiles(16, channels=4, outputs=4, columns=16, warps=4, stages=1)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of which small problems have several, and several ranges of cells."""
    monkeypatch.setattr(ops, "TILES", dict.fromkeys(ops.TILES, TINY))
    monkeypatch.setattr(ops, "SUMMED_PLACES", 16)
    monkeypatch.setattr(ops, "SUMMED_SPLITS", 2)
    for name, value in (("ELEMENTS", 32), ("GRADIENT_ELEMENTS", 32), ("CHANNELS", 4), ("GRADIENT_PROGRAMS", 1)):
        monkeypatch.setattr(ops, f"DEPTHWISE_{name}", value)
    monkeypatch.setattr(device, "multiprocessors", lambda _: 16)


def problem(c: int = 6, o: int = 5, h: int = 5, w: int = 6, form: str = "4x4") -> list[Tensor]:
    """In memory that is nan around x and dy."""
    k, by_itself = FORMS[form]
    o = c if by_itself else o
    shapes = ((2, c, h, w), (c, 1 if by_itself else o, k, k), (o,), (2, o, 2 * h, 2 * w))
    x, weight, bias, dy = (torch.randn(s) for s in shapes)
    return [VIEWS["window"](x), weight, bias, VIEWS["window"](dy)]


def ours(*tensors: Tensor, **options: object) -> Tensor:
    return fused_upsample(*tensors, **options, backend="triton")  # type: ignore[arg-type]


def contained(form: str = "4x4") -> None:
    """A nan at a corner of x, and one in the last row of dy and an even column, reach what they meet and no more.

    An output in an even column has a tap of 4 x 4 with the pixel to its left that 3 x 3 does not have.
    """
    x, weight, bias, dy = problem(h=4, w=3, form=form)
    x[0, 1, 0, 2] = dy[1, 2, 7, 2] = torch.nan
    groups = 6 if FORMS[form][1] else 1
    compare_finite(
        evaluate(partial(ours, groups=groups), x, weight, bias, dy), partial(tap_by_tap, groups=groups), x, weight, bias, dy
    )


def cropped_sum(function: Callable[..., Tensor], groups: int) -> Callable[..., Tensor]:
    return lambda x, weight, bias, add: function(x, weight, bias, add=add, groups=groups)


def test_triton_upsample_with_several_blocks_of_everything(tiny: None) -> None:
    arguments = problem(c=9, o=9, h=4, w=7)
    check(evaluate(ours, *arguments), *arguments)
    contained()


@pytest.mark.parametrize("form", FORMS)
def test_triton_upsample_of_every_form(form: str, tiny: None) -> None:
    """With several blocks of everything, cropped, with a lateral map; pixels or channels are neighbours in memory."""
    by_itself = FORMS[form][1]
    x, weight, bias, dy = problem(6, 7, 3, 4, form)
    if by_itself:
        x = x.contiguous(memory_format=torch.channels_last)
    lateral, groups = torch.randn_like(dy), 6 if by_itself else 1
    lateral, dy = VIEWS["window"](lateral[..., :-1, :-2]), dy[..., :-1, :-2]
    arguments = (x, weight, bias, lateral, dy)
    found = evaluate(cropped_sum(ours, groups), *arguments)
    check(found, *arguments, definition=cropped_sum(reference.upsample, groups))
    contained(form)
    half = [t.bfloat16() for t in (x, weight, bias, lateral)]
    fused = cropped_sum(ours, groups)(*half)
    assert torch.equal(fused, half[3] + ours(*half[:3], groups=groups, size=fused.shape[-2:]))


def test_triton_upsample_graphs_of_earlier_versions_compute_the_same(tiny: None) -> None:
    x, weight, bias, dy = problem(2, 3, 2, 2)
    operators = torch.ops.gcn_kernels
    new = operators.triton_doubling(x, weight, bias, None, None, None, 1, False, False)
    assert torch.equal(operators.triton_upsample(x, weight, bias, False, False), new)
    old, new = operators.triton_upsample_backward, operators.triton_doubling_backward
    for a, b in zip(old(dy, x, weight, 7, False), new(dy, x, weight, 7, 1, False), strict=True):
        assert torch.equal(a, b)


def test_triton_upsample_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyTorch's convolutions would: factors are rounded to tf32, sums are float32."""
    monkeypatch.setattr("gcn_kernels.backends.allow_tf32", lambda: True)

    def rounded(t: Tensor) -> Tensor:
        return torch.from_numpy(triton_repairs.to_tf32(t.contiguous().numpy()))

    x, weight, bias, dy = problem()
    found = evaluate(ours, x, weight, bias, dy)
    expected = evaluate(reference.upsample, *(t.double() for t in (rounded(x), rounded(weight), bias, rounded(dy))))
    exact = evaluate(reference.upsample, *(t.double() for t in (x, weight, bias, dy)))
    for name in ("y", "dx", "dw"):
        assert (found[name] - expected[name]).abs().max() < 1e-5 < (found[name] - exact[name]).abs().max()


@pytest.mark.parametrize("c, o", [(1, 1), (3, 40)])
def test_triton_upsample_registration(c: int, o: int) -> None:
    """Schema, shapes and autograd; tracing into the kernels needs a compiler: see test_triton_upsample.py."""
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    x, weight, bias, dy = problem(c, o, 2, 3)
    operators = torch.ops.gcn_kernels
    torch.library.opcheck(operators.triton_upsample.default, (x, weight, bias, True, False), test_utils=tests)
    torch.library.opcheck(operators.triton_upsample_backward.default, (dy, x, weight, 7, False), test_utils=tests)
    cropped = dy[..., 1:, :-1].clone()
    options: tuple[object, ...]
    for options in ((cropped, None, None, 1, True, False), (None, 3, 2, 1, False, False)):
        torch.library.opcheck(operators.triton_doubling.default, (x, weight, bias, *options), test_utils=tests)
    torch.library.opcheck(operators.triton_doubling_backward.default, (cropped, x, weight, 5, 1, False), test_utils=tests)


def test_triton_upsample_derivatives_of_derivatives() -> None:
    def second(run: object) -> tuple[Tensor, ...]:
        leaves = [t.clone().requires_grad_() for t in tensors[:3]]
        first = torch.autograd.grad(run(*leaves), leaves[:2], tensors[3], create_graph=True)  # type: ignore[operator]
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves[:2])

    tensors = problem(2, 3, 2, 2)
    for found, expected in zip(second(ours), second(reference.upsample), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_triton_upsample_refuses_what_it_cannot_do() -> None:
    x, weight, bias, dy = problem()
    with pytest.raises(RuntimeError, match=r"float64.*backend='auto'"):
        fused_upsample(x.double(), weight.double(), backend="triton")
    operators = torch.ops.gcn_kernels
    for wrong in ((x[0], weight, bias), (x[:, 1:], weight, bias), (x, weight[:, :, 1:], bias), (x, weight, bias[1:])):
        with pytest.raises(RuntimeError, match=r"^(x|weight|bias): expected"):
            operators.triton_upsample(*wrong, False, False)
    with pytest.raises(RuntimeError, match=r"^weight: expected torch.float32"):
        operators.triton_upsample(x, weight.half(), bias, False, False)
    with pytest.raises(RuntimeError, match=r"^dy: expected"):
        operators.triton_upsample_backward(dy[:, 1:], x, weight, 7, False)
    larger, wider, none = torch.ones(2, 5, 11, 12), torch.ones(2, 5, 10, 13), (None, None)
    for rest in (
        (larger, *none, 1),
        (wider, *none, 1),
        (dy.half(), *none, 1),
        (dy[:, 1:], *none, 1),
        (dy, 1, 1, 1),
        (None, 1, None, 1),
        (None, 11, 2, 1),
        (None, *none, 3),
        (None, *none, 6),
    ):
        with pytest.raises(RuntimeError, match=r"^(add|height, width|groups|weight): expected"):
            operators.triton_doubling(x, weight, bias, *rest, False, False)
    with pytest.raises(RuntimeError, match=r"^weight: expected"):
        operators.triton_upsample(x, weight[..., 1:, 1:], bias, False, False)


FAULTS = {
    "no mask at the first row": ("is_below(row[:, None] - t[None, :], height)", "(row[:, None] - t[None, :] < height)"),
    "column of corners not masked": ("rows_inside & is_below(column[:, None] - s[None, :], width)", "rows_inside"),
    "corners exchanged": ("- t.to(tl.int64) * x_h - s.to(tl.int64) * x_w", "- s.to(tl.int64) * x_h - t.to(tl.int64) * x_w"),
    "parities exchanged": ("(M, 2, 2, OB)), (1, 3, 0, 2))", "(M, 2, 2, OB)), (2, 3, 0, 1))"),
    "outputs of a pixel's own cell only": ("down, right = corner // T, corner % T", "down, right = 0, 0"),
    "last channels dropped": ("for first in range(0, channels, CB):", "for first in range(0, channels - CB, CB):"),
    "bias forgotten": ("if BIASED:", "if False:"),
    "other blocks' weights": ("across = tl.arange(0, S * CB), block * (4 * OB) +", "across = tl.arange(0, S * CB), 0 * block +"),
    "last split forgotten": ("mask=(split < splits)[:, None]", "mask=(split < splits - 1)[:, None]"),
    "last tile of a split forgotten": ("end = tl.minimum(begin + size, tiles)", "end = tl.minimum(begin + size - 1, tiles)"),
    "nan spreads to taps outside": ("if tl.max(tl.where(total == total, 0, 1)) > 0:", "if False:"),
    "nan in dy forgotten": ("met = add_product(tl.trans(left_there)", "met = met + 0 * add_product(tl.trans(left_there)"),
}
#: The same with the form that they are a mistake for, and in depthwise.py where that is one of each channel by itself.
FAULTS_OF_FORMS = {
    "nan meets a tap that there is not": ("3x3", "K)[None, :], part, 0.0)", "K)[None, :] | True, part, 0.0)"),
    "nan in dy meets a tap that there is not": ("3x3", "inside = inside & _has_tap(", "inside = inside | False & _has_tap("),
    "sums of taps that there are not": ("3x3", "mask=(o < outputs) & _has_tap(corner, a, b, K)", "mask=o < outputs"),
    "a pixel's cell is the next one": ("2x2", "PADDING: tl.constexpr = 0 if K == 2 else 1", "PADDING: tl.constexpr = 1"),
    "nan spreads to taps of one channel": ("4x4-depthwise", "tl.where(met, left * right, 0.0)", "left * right"),
    "columns of taps exchanged": ("4x4-depthwise", "tl.interleave(left, right)", "tl.interleave(right, left)"),
    "taps of the gradient shifted": ("2x2-depthwise", "sums = added + (of_bias,)", "sums = added[1:] + (of_bias, of_bias)"),
    "last range forgotten": ("3x3-depthwise", "begin = split * size", "begin = split * (size + 1)"),
}
CANARIES = ("corners exchanged", "last split forgotten", "columns of taps exchanged")


@pytest.mark.parametrize("name", in_suites([*FAULTS, *FAULTS_OF_FORMS], everyday=lambda name: name in CANARIES))
def test_planted_fault_is_caught(name: str, tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above fail with a mistake in the kernels' own text."""
    # What is not written is nan, and not by chance what an earlier run left there.
    torch.use_deterministic_algorithms(True)
    form, right, wrong = FAULTS_OF_FORMS.get(name) or ("4x4", *FAULTS[name])
    by_itself = FORMS[form][1]
    source = Path(str((depthwise if by_itself else kernels).__file__)).read_text()
    assert source.count(right) == 1, f"{right!r} occurs {source.count(right)} times"
    changed = tmp_path / "changed.py"
    changed.write_text(source.replace(right, wrong))
    spec = importlib.util.spec_from_file_location("changed", changed)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(ops, "depthwise" if by_itself else "kernels", module)
    with pytest.raises((AssertionError, IndexError, triton.runtime.errors.InterpreterError)):
        arguments = problem(c=9, o=6, form=form)
        groups = 9 if by_itself else 1
        definition = partial(reference.upsample, groups=groups)
        check(evaluate(partial(ours, groups=groups), *arguments), *arguments, definition=definition)
        contained(form)
