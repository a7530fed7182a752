"""What the doubling's Triton kernels have of their own, in the interpreter: test_triton_interpreter.py runs this file."""

import importlib.util
from pathlib import Path

import pytest
import torch
import triton
import triton_repairs
from suites import in_suites
from torch import Tensor
from upsample_cases import check, evaluate
from views import VIEWS

from gcn_kernels import fused_upsample, reference
from gcn_kernels.triton import device
from gcn_kernels.triton.upsample import kernels, ops

TINY = ops.Tiles(16, channels=4, outputs=4, columns=16, warps=4, stages=1)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of which small problems have several, and several ranges of cells."""
    monkeypatch.setattr(ops, "TILES", dict.fromkeys(ops.TILES, TINY))
    monkeypatch.setattr(ops, "SUMMED_PLACES", 16)
    monkeypatch.setattr(ops, "SUMMED_SPLITS", 2)
    monkeypatch.setattr(device, "multiprocessors", lambda _: 16)


def problem(c: int = 6, o: int = 5, h: int = 5, w: int = 6) -> list[Tensor]:
    """In memory that is nan around x and dy."""
    x, weight, bias, dy = (torch.randn(s) for s in ((2, c, h, w), (c, o, 4, 4), (o,), (2, o, 2 * h, 2 * w)))
    return [VIEWS["window"](x), weight, bias, VIEWS["window"](dy)]


def ours(*tensors: Tensor) -> Tensor:
    return fused_upsample(*tensors, backend="triton")


def contained() -> None:
    """A nan at a corner of x, and one of dy at another, reach what they meet and no more."""
    x, weight, bias, dy = problem(h=4, w=3)
    x[0, 1, 0, 2] = dy[1, 2, 7, 0] = torch.nan
    found, expected = (evaluate(run, x, weight, bias, dy) for run in (ours, reference.upsample))
    for name in expected:
        assert torch.equal(found[name].isfinite(), expected[name].isfinite()), name


def test_triton_upsample_with_several_blocks_of_everything(tiny: None) -> None:
    arguments = problem(c=9, o=9, h=4, w=7)
    check(evaluate(ours, *arguments), *arguments)
    contained()


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
        operators.triton_upsample_backward(dy[:, :, 1:], x, weight, 7, False)


FAULTS = {
    "no mask at the first row and column": ("index.to(tl.uint32, bitcast=True) < tl.cast(size, tl.uint32)", "index < size"),
    "column of corners not masked": ("rows_inside & _is_below(column[:, None] - s[None, :], width)", "rows_inside"),
    "corners exchanged": ("- t.to(tl.int64) * x_h - s.to(tl.int64) * x_w", "- s.to(tl.int64) * x_h - t.to(tl.int64) * x_w"),
    "parities exchanged": ("(M, 2, 2, OB)), (1, 3, 0, 2))", "(M, 2, 2, OB)), (2, 3, 0, 1))"),
    "outputs of a pixel's own cell only": ("down, right = corner // 2, corner % 2", "down, right = 0, 0"),
    "last channels dropped": ("for first in range(0, channels, CB):", "for first in range(0, channels - CB, CB):"),
    "bias forgotten": ("if BIASED:", "if False:"),
    "other blocks' weights": ("across = tl.arange(0, 4 * CB), block * (4 * OB) +", "across = tl.arange(0, 4 * CB), 0 * block +"),
    "last split forgotten": ("mask=(split < splits)[:, None]", "mask=(split < splits - 1)[:, None]"),
    "last tile of a split forgotten": ("end = tl.minimum(begin + size, tiles)", "end = tl.minimum(begin + size - 1, tiles)"),
    "nan spreads to taps outside": ("if tl.max(tl.where(total == total, 0, 1)) > 0:", "if False:"),
    "nan in dy forgotten": ("met = add_product(tl.trans(left_there)", "met = met + 0 * add_product(tl.trans(left_there)"),
}
CANARIES = ("corners exchanged", "last split forgotten")


@pytest.mark.parametrize("name", in_suites(FAULTS, everyday=lambda name: name in CANARIES))
def test_planted_fault_is_caught(name: str, tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above fail with a mistake in the kernels' own text."""
    # What is not written is nan, and not by chance what an earlier run left there.
    torch.use_deterministic_algorithms(True)
    source, (right, wrong) = Path(str(kernels.__file__)).read_text(), FAULTS[name]
    assert source.count(right) == 1, f"{right!r} occurs {source.count(right)} times"
    changed = tmp_path / "changed.py"
    changed.write_text(source.replace(right, wrong))
    spec = importlib.util.spec_from_file_location("changed", changed)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(ops, "kernels", module)
    with pytest.raises((AssertionError, IndexError, triton.runtime.errors.InterpreterError)):
        arguments = problem(c=9, o=6)
        check(evaluate(ours, *arguments), *arguments)
        contained()
