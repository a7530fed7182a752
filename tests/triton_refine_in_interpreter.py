"""The refinement's Triton kernels in the interpreter: test_triton_interpreter.py runs this file.

Blocks of a GPU are large and few, which is what the interpreter is quick with; ``tiny`` blocks make small problems have several
of everything.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import triton
import triton_repairs
from cases import LAYOUTS
from refine_cases import CASES, NAMES, check, check_reach, draw, draw_sizes, evaluate
from suites import in_suites
from torch import Tensor
from views import VIEWS

from gcn_kernels import FusedRefine, fused_refine, reference
from gcn_kernels.triton import device
from gcn_kernels.triton.refine import kernels, ops, tile

TINY = ops.Tiles((32, 32), 32, columns=16, depth=64, gradient_rows=64, gradient_pixels=16, warps=(4, 8), stages=1)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: Problems that take the interpreter long and show no more than the others.
LONG = ("cityscapes", "several-strips")
#: The layouts and the three dtypes in turn.
TRIALS = [(case, list(LAYOUTS)[i % 2], DTYPES[i % 3]) for i, case in enumerate(CASES) if case not in LONG]
#: Views that the problems above come in.
LAID_OUT = ("contiguous", "channels_last")
EVERY_DAY = ("pixel", "two-rows", "one-channel", "batch0")
#: n, c, m, h, w: two images, tiles beyond both edges of the map, two blocks of columns, several steps of everything.
SIZES = (2, 9, 17, 6, 7)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that have several tiles, of several blocks each; sums of several programs, in several steps."""
    monkeypatch.setattr(ops, "TILES", dict.fromkeys(ops.TILES, TINY))
    monkeypatch.setattr(ops, "SUMMED_PROGRAMS", 2)
    monkeypatch.setattr(ops, "PROGRAMS", 3)
    monkeypatch.setattr(ops, "GRADIENT_PROGRAMS", 3)
    monkeypatch.setattr(device, "multiprocessors", lambda _: 1)


def ours(*tensors: Tensor) -> Tensor:
    return fused_refine(*tensors, backend="triton")


def values() -> None:
    """The rule, on a problem in memory that is nan around x and dy."""
    given, dy = draw_sizes(SIZES, torch.float32)
    given[0], dy = VIEWS["window"](given[0]), VIEWS["window"](dy)
    check(evaluate(ours, given, dy), given, dy)


def reach() -> None:
    """Not a number at a corner of x, or of dy, reaches what it meets and no more; relu lets it pass."""
    for where in ("x", "dy"):
        given, dy = draw_sizes((1, 3, 2, 3, 5), torch.float32)
        (given[0] if where == "x" else dy)[0, 1, 0, 4] = torch.nan
        check_reach(evaluate(ours, given, dy), given, dy)


@pytest.mark.parametrize("trial", in_suites(TRIALS, everyday=lambda t: t[0] in EVERY_DAY), ids=lambda t: "-".join(map(str, t)))
def test_values_and_gradients(trial: tuple[str, str, torch.dtype]) -> None:
    case, layout, dtype = trial
    given, dy = draw(case, dtype, layout)
    results = evaluate(ours, given, dy)
    check(results, given, dy)
    assert results["y"].stride() == reference.refine(*given).stride()


def test_several_blocks_of_everything(tiny: None) -> None:
    values()
    reach()


@pytest.mark.parametrize("view", in_suites(sorted({*VIEWS} - {*LAID_OUT}), everyday=lambda view: view == "sliced"))
def test_any_strides(view: str, tiny: None) -> None:
    given, dy = draw_sizes((2, 3, 4, 3, 6), torch.float32)
    given, dy = [VIEWS[view](t) for t in given], VIEWS[view](dy)
    check(evaluate(ours, given, dy), given, dy)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_special_values_in_biases(value: float) -> None:
    """relu(nan) is nan, and its gradient goes through; relu(-inf) is 0."""
    given, dy = draw_sizes((1, 3, 4, 2, 3), torch.float32)
    given[3][2] = value
    found, expected = (evaluate(run, given, dy) for run in (ours, reference.refine))
    for name in expected:
        assert torch.equal(found[name].isfinite(), expected[name].isfinite()), name


def test_half_precision_keeps_what_it_can(tiny: None) -> None:
    """Sums are float32: values whose partial sums leave the range of float16 do not."""
    x = torch.full((1, 4, 3, 3), 200.0, dtype=torch.float16)
    w1, w2 = torch.full((2, 4, 3, 3), 40.0, dtype=torch.float16), torch.zeros(4, 2, 3, 3, dtype=torch.float16)
    w1[:, ::2] *= -1
    assert torch.equal(ours(x, w1, w2), x)


def test_without_biases_and_what_is_not_asked_for(tiny: None) -> None:
    given, dy = draw_sizes((2, 3, 4, 3, 6), torch.float32)
    x, w1, w2, b1, b2 = given
    assert torch.equal(ours(x, w1, w2), ours(x, w1, w2, torch.zeros_like(b1), torch.zeros_like(b2)))
    backward = torch.ops.gcn_kernels.triton_refine_backward
    together = dict(zip(NAMES, backward(dy, x, w1, w2, b1, 0b11111, False), strict=True))
    for wanted in (0, 1, 2, 4, 8, 16, 5, 10):
        for i, (name, gradient) in enumerate(zip(NAMES, backward(dy, x, w1, w2, b1, wanted, False), strict=True)):
            assert torch.equal(gradient, together[name]) if wanted >> i & 1 else gradient.numel() == 0


def test_sums_of_many_channels_have_fewer_programs(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    given, dy = draw_sizes((2, 3, 4, 4, 8), torch.float32)
    monkeypatch.setattr(ops, "MOST_SUMS", 1)
    check(evaluate(ours, given, dy), given, dy)


def test_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyTorch's convolutions would: factors are rounded to tf32, sums are float32."""
    monkeypatch.setattr("gcn_kernels.backends.allow_tf32", lambda: True)

    def rounded(t: Tensor) -> Tensor:
        return torch.from_numpy(triton_repairs.to_tf32(t.contiguous().numpy()))

    given, dy = draw_sizes((1, 5, 6, 4, 5), torch.float32)
    x, w1, w2, b1, b2 = (t.double() for t in given)
    x_, w1_, w2_ = (rounded(t).double() for t in given[:3])
    u = torch.relu(torch.conv2d(x_, w1_, b1, padding=1))
    expected = x + torch.conv2d(rounded(u.float()).double(), w2_, b2, padding=1)
    exact = reference.refine(x, w1, w2, b1, b2)
    y = ours(*given)
    # A value between that rounds to the other side is off by 2^-11.
    assert (y - expected).abs().mean() < 1e-5 < (y - exact).abs().mean()
    check_sizes = evaluate(ours, given, dy)
    precise = evaluate(reference.refine, [t.double() for t in given], dy.double())
    for name, value in precise.items():
        assert (check_sizes[name] - value).abs().max() <= 5e-3 * value.abs().max(), name


@pytest.mark.parametrize("biased", [True, False])
def test_registration(biased: bool) -> None:
    """Schema, shapes and autograd; tracing into the kernels needs a compiler: see test_triton_traced.py."""
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    (x, w1, w2, b1, b2), dy = draw_sizes((1, 2, 3, 2, 3), torch.float32)
    biases = (b1, b2) if biased else (None, None)
    operators = torch.ops.gcn_kernels
    torch.library.opcheck(operators.triton_refine.default, (x, w1, w2, *biases, True, False), test_utils=tests)
    arguments = (dy, x, w1, w2, biases[0], 0b11111, False)
    torch.library.opcheck(operators.triton_refine_backward.default, arguments, test_utils=tests)


def test_derivatives_of_derivatives() -> None:
    given, dy = draw_sizes((1, 2, 3, 2, 2), torch.float32)

    def second(run: object) -> tuple[Tensor, ...]:
        leaves = [t.clone().requires_grad_() for t in given]
        first = torch.autograd.grad(run(*leaves), leaves[:3], dy, create_graph=True)  # type: ignore[operator]
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves[:4])

    for found, expected in zip(second(ours), second(reference.refine), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_module_and_autocast() -> None:
    module, x = FusedRefine(5, mid_channels=3, backend="triton"), torch.randn(5, 4, 3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and y.shape == x.shape
    assert x.grad is not None and x.grad.dtype == torch.float32 and module.conv1.weight.grad is not None


def test_refuses_what_it_cannot_do() -> None:
    given, dy = draw_sizes((1, 3, 4, 2, 2), torch.float32)
    with pytest.raises(RuntimeError, match=r"float64.*backend='auto'"):
        ours(*(t.double() for t in given))
    x, w1, w2, b1, b2 = given
    wrong: tuple[tuple[Tensor, ...], ...] = (
        *((x[0], w1, w2, b1, b2), (x[:, 1:], w1, w2, b1, b2), (x, w1[:, :, 1:], w2, b1, b2), (x, w1, w2[1:], b1, b2)),
        *((x, w1[:0], w2[:, :0], b1[:0], b2), (x, w1, w2, b1[1:], b2), (x, w1, w2, b1, b2[1:]), (x, w1, w2, b1, b2.half())),
    )
    operators = torch.ops.gcn_kernels
    for arguments in wrong:
        with pytest.raises(RuntimeError, match=r"^(x|w1|w2|b1|b2): expected"):
            operators.triton_refine(*arguments, False, False)
    with pytest.raises(RuntimeError, match=r"^dy: expected"):
        operators.triton_refine_backward(dy[:, :, 1:], x, w1, w2, b1, 31, False)


#: By name: the file, what is right and what is wrong.
FAULTS: dict[str, tuple[ModuleType, str, str]] = {
    "no zeros above the map": (tile, "(row >= 0) & (row < height)", "(row < height)"),
    "no zeros right of the map": (tile, "(column >= 0) & (column < width)", "(column >= 0)"),
    "taps turned": (tile, "(tap // 3 - 1) * (Q + 2 * WIDER) + tap % 3 - 1", "(tap % 3 - 1) * (Q + 2 * WIDER) + tap // 3 - 1"),
    "an area read at the wrong margin": (tile, "BY: tl.constexpr = WIDER - MARGIN", "BY: tl.constexpr = 1"),
    "last taps dropped": (tile, "range(0, 9 * PITCH, K):\n        seen", "range(0, 9 * PITCH - K, K):\n        seen"),
    "weights of the first outputs": (tile, "across = first + tl.arange(0, N)", "across = tl.arange(0, N)"),
    "every image the first": (tile, "tile // across // down,", "tile // across // down * 0,"),
    "a tile's sums replace those before": (tile, "tl.store(target, before + total", "tl.store(target, total"),
    "sums begin with what lay there": (tile, "(k < earlier * 9 * PITCH)", "(k < 9 * PITCH)"),
    "pixels beyond the map take part": (tile, "load_taps(area, place, inside,", "load_taps(area, place, place >= 0,"),
    "only the last pixels in a bias": (tile, "total += tl.sum(", "total = tl.sum("),
    "relu stops nan": (kernels, "tl.where(total <= 0, 0.0, total)", "tl.where(total > 0, total, 0.0)"),
    "u is not zero outside of the map": (kernels, "u = tl.where(inside[:, None] & (m < middle)[None, :], u, 0.0)", "u = u"),
    "gradient passes where u is zero": (kernels, "tl.where(u <= 0, 0.0, g)", "tl.where(u < 0, 0.0, g)"),
    "first bias forgotten": (kernels, "total += tl.load(b1 + m", "total += 0 * tl.load(b1 + m"),
    "second bias forgotten": (kernels, "total += tl.load(bias + c", "total += 0 * tl.load(bias + c"),
    "x itself forgotten": (kernels, "total += tl.load(own", "total += 0 * tl.load(own"),
    "taps not reversed": (kernels, "at = 8 - tap if FLIPPED else tap", "at = tap"),
    "last program's sums forgotten": (kernels, "mask = (program < programs)", "mask = (program < programs - 1)"),
    "programs beyond the first forgotten": (kernels, "for first in range(0, programs, S):", "for first in range(0, S, S):"),
    "last pixels of a tile left out": (kernels, "for start in range(0, R * Q, P):", "for start in range(0, R * Q - P, P):"),
}  # fmt: skip
CANARIES = ("an area read at the wrong margin", "gradient passes where u is zero")


def load(name: str, source: str, folder: Path) -> ModuleType:
    """A module of this source."""
    (folder / f"{name}.py").write_text(source)
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def plant(fault: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put kernels with a mistake in their own text in the place of the right ones."""
    file, right, wrong = FAULTS[fault]
    sources = {module: Path(str(module.__file__)).read_text() for module in (tile, kernels)}
    assert sources[file].count(right) == 1, f"{right!r} occurs {sources[file].count(right)} times"
    sources[file] = sources[file].replace(right, wrong)
    load("planted_tile", sources[tile], folder)
    planted = load("planted_kernels", sources[kernels].replace("gcn_kernels.triton.refine.tile", "planted_tile"), folder)
    monkeypatch.setattr(ops, "kernels", planted)


@pytest.mark.parametrize("fault", in_suites(FAULTS, everyday=lambda fault: fault in CANARIES))
def test_planted_fault_is_caught(fault: str, tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above fail with a mistake in the kernels' own text."""
    # What is not written is nan, and not by chance what an earlier run left there.
    torch.use_deterministic_algorithms(True)
    plant(fault, tmp_path, monkeypatch)
    with pytest.raises((AssertionError, IndexError, triton.runtime.errors.InterpreterError)):
        values()
        reach()
