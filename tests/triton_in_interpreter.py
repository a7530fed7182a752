"""Triton's kernels in its interpreter: see test_triton_interpreter.py, which runs this file.

Problems are small and blocks are those of a GPU: the interpreter's time is a price per operation on a block.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
import triton_repairs
from cases import LAYOUTS, SMALL, Block, Case, make, square
from implementations import Implementation
from rule import Expected, check, evaluate, expect, expect_case
from suites import in_suites
from test_gradients import test_frozen_inputs_get_no_gradient as check_frozen_inputs
from test_non_finite import assert_marked_like, planted, with_zero_taps
from torch import Tensor
from views import VIEWS

from gcn_kernels import FusedGCN, fused_gcn, reference
from gcn_kernels.triton import config, fork, join, plan, sums, tuning, weight_gradient

RUN = Implementation("triton")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CASES = (
    SMALL,
    Case("paper", n=1, c=70, h=10, w=17, mid_l=21, mid_r=21, out=21, k=square(15)),
    Case("split-channels", n=1, c=200, h=4, w=5, mid_l=21, mid_r=19, out=21, k=(15, 7, 7, 15)),
    Case("map1x1", h=1, w=1, k=square(63)),
    Case("k-above-map", h=5, w=7, k=square(15)),
    Case("one-row", n=1, h=1, w=70, k=square(31)),
    Case("one-column", n=1, h=70, w=1, k=square(31)),
    Case("batch0", n=0),
    Case("batch5", n=5, c=3, h=4, w=3, k=square(3)),
    Case("mid-not-out", n=1, mid_l=7, mid_r=7, out=12),
    Case("mid_l-not-mid_r", n=1, mid_l=9, mid_r=2, out=4, k=(3, 11, 5, 9)),
    Case("split-pixels", n=2, c=5, h=24, w=24, mid_l=3, mid_r=3, out=3, k=square(3)),
    Case("k1", n=1, k=square(1)),
    Case("one-channel-everywhere", n=1, c=1, mid_l=1, mid_r=1, out=1),
    Case("wide", n=1, c=40, h=6, w=9, mid_l=80, mid_r=70, out=75, k=(5, 3, 3, 7)),
    Case("no-bias", n=1, h=6, w=6, biases=()),
    Case("one-bias", n=1, h=6, w=6, biases=("b_l1",)),
)
#: What a small tile of its own settles: more tiles, and more groups of taps, than the problems above have with a GPU's tiles.
SMALL_TILES = config.Config(config.Tile(32, 32, 16, 4, 2), config.Tile(16, 16, 16, 4, 2), config.Tile(16, 16, 16, 4, 2))

every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture(autouse=True)
def _table_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No choice that was stored on this machine is used."""
    monkeypatch.setenv(config.ENVIRONMENT, str(tmp_path / "triton.json"))
    config.choose.cache_clear()
    plan.constants.cache_clear()
    yield
    config.choose.cache_clear()
    plan.constants.cache_clear()


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "tiles_for", lambda *_: SMALL_TILES)


Trial = tuple[Case, torch.dtype, str]
TRIALS = list(product(CASES, DTYPES, LAYOUTS))


def every_day(trial: Trial) -> bool:
    """One problem in everything, and two in 16 bits and in 32, in either layout."""
    case, dtype, layout = trial
    some = (dtype, layout) in ((torch.bfloat16, "channels_last"), (torch.float32, "nchw"))
    return case is SMALL or (some and case.name in ("k-above-map", "split-channels"))


def id_of(trial: Trial) -> str:
    return f"{trial[0].name}-{trial[1]}-{trial[2]}"


@pytest.mark.parametrize("trial", in_suites(TRIALS, everyday=every_day), ids=id_of)
def test_result_and_all_gradients(trial: Trial) -> None:
    case, dtype, layout = trial
    check(evaluate(RUN, make(case, dtype).in_layout(layout)), expect_case(case, dtype))


@every_layout
@pytest.mark.parametrize("case", in_suites(CASES[:3], everyday=lambda case: case is SMALL), ids=lambda case: case.name)
def test_small_tiles(case: Case, layout: str, small_tiles: None) -> None:
    case = replace(case, c=min(case.c, 40), mid_l=min(case.mid_l, 5), mid_r=min(case.mid_r, 6))
    check(evaluate(RUN, make(case).in_layout(layout)), expect_case(case, torch.float32))


@pytest.mark.parametrize("view", in_suites(VIEWS, everyday=lambda view: view == next(iter(VIEWS))))
def test_any_strides(view: str) -> None:
    block = make(SMALL)
    seen = replace(block.map(VIEWS[view]), dy=VIEWS[view](block.dy))
    check(evaluate(RUN, seen), expect(seen))


class RoundedConv(torch.autograd.Function):
    """A convolution whose products round their factors to tf32, as PyTorch's own on a GPU."""

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, padding: tuple[int, int]) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, w)
        ctx.padding = padding
        return torch.nn.functional.conv2d(tf32(x), tf32(w), padding=padding)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
        x, w = ctx.saved_tensors
        d_x = torch.nn.grad.conv2d_input(x.shape, tf32(w), tf32(dy), padding=ctx.padding)
        return d_x, torch.nn.grad.conv2d_weight(tf32(x), w.shape, tf32(dy), padding=ctx.padding), None


def tf32(t: Tensor) -> Tensor:
    return torch.from_numpy(triton_repairs.to_tf32(t.detach().contiguous().numpy()))


def gcn_in_tf32(x: Tensor, w_l1: Tensor, w_l2: Tensor, w_r1: Tensor, w_r2: Tensor, *biases: Tensor) -> Tensor:
    b_l1, b_l2, b_r1, b_r2 = (b[:, None, None] for b in biases)
    u_l = RoundedConv.apply(x, w_l1, (w_l1.shape[2] // 2, 0)) + b_l1
    u_r = RoundedConv.apply(x, w_r1, (0, w_r1.shape[3] // 2)) + b_r1
    y_l = RoundedConv.apply(u_l, w_l2, (0, w_l2.shape[3] // 2)) + b_l2
    y_r = RoundedConv.apply(u_r, w_r2, (w_r2.shape[2] // 2, 0)) + b_r2
    return y_l + y_r  # type: ignore[no-any-return]


@every_layout
def test_tf32_where_pytorch_would_use_it(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule, with convolutions in tf32 for PyTorch's own; and the errors are those of tf32, not of float32."""
    monkeypatch.setattr("gcn_kernels.backends.allow_tf32", lambda: True)
    block = make(SMALL)
    in_float32 = expect(block)
    own = {name: (t.double() - in_float32.values[name]).abs().max().item() for name, t in evaluate(gcn_in_tf32, block).items()}
    allowed = {name: 2 * own[name] + in_float32.allowed[name] for name in own}
    found = evaluate(RUN, block.in_layout(layout))
    check(found, Expected(in_float32.values, allowed))
    assert (found["y"].double() - in_float32.values["y"]).abs().max() > 4 * in_float32.allowed["y"]


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("values", [(torch.nan,), (-torch.inf,)], ids=str)
@pytest.mark.parametrize("place", in_suites(["corner", "middle"], everyday=lambda place: place == "corner"))
def test_special_values_in_x(values: tuple[float, ...], place: str, dtype: torch.dtype) -> None:
    """As test_non_finite.py, on k > map with taps that no group takes and with zero taps."""
    case = Case("k>map", n=1, c=19, h=6, w=9, mid_l=21, mid_r=20, out=4, k=(7, 5, 11, 7))
    block = with_zero_taps(make(case, dtype))
    block = replace(block, x=planted(block.x, values, place))
    expected = evaluate(reference.gcn, block.to(torch.float64))
    found = evaluate(RUN, block)
    for name in ("y", "x", "b_l1", "b_l2"):
        assert_marked_like(found[name], expected[name], name)
    for name in ("w_l1", "w_r1"):
        assert_marked_like(found[name].isfinite().float(), expected[name].isfinite().float(), name)


def test_same_bits_again() -> None:
    block = make(CASES[2])
    first, second = evaluate(RUN, block), evaluate(RUN, block)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("asked", [("x",), ("w_l1",), ("w_r2",), ("b_l1", "b_r2"), ("w_l2", "w_r1")], ids="+".join)
def test_gradients_asked_for_alone(asked: tuple[str, ...]) -> None:
    check_frozen_inputs(asked, RUN)


def test_a_gradient_does_not_depend_on_what_else_is_asked_for() -> None:
    block = make(SMALL)
    together = RUN.backward_operator(*RUN.backward_arguments(block, 0b111111111))
    for i, gradient in enumerate(together):
        assert torch.equal(RUN.backward_operator(*RUN.backward_arguments(block, 1 << i))[i], gradient)


def test_nothing_wanted_comes_back_empty() -> None:
    gradients = RUN.backward_operator(*RUN.backward_arguments(make(SMALL), 0))
    assert [g.numel() for g in gradients] == [0] * 9


def test_double_backward() -> None:
    block = make(replace(SMALL, n=1, c=3, h=4, w=5))

    def second_order(run: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = block.leaves()
        x, w = leaves.x, leaves.weights[0]
        first = torch.autograd.grad(run(*leaves.arguments), (x, w), leaves.dy, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), (x, w))

    for ours, theirs in zip(second_order(RUN), second_order(reference.gcn), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", [SMALL, Case("batch0", n=0), Case("no-bias", biases=())], ids=lambda case: case.name)
def test_operators_are_registered_as_torch_expects(case: Case) -> None:
    """Schema, shapes and autograd; tracing into the kernels needs a compiler: see test_triton_traced.py."""
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    block = make(case)
    for channels_last in (False, True):
        arguments = RUN.operator_arguments(block.leaves(), channels_last)
        torch.library.opcheck(RUN.forward_operator, arguments, test_utils=tests)
    torch.library.opcheck(RUN.backward_operator, RUN.backward_arguments(block, 0b010000101), test_utils=tests)


def test_float64_is_refused_with_the_reason() -> None:
    with pytest.raises(RuntimeError, match=r"float64.*backend='auto'"):
        fused_gcn(*make(SMALL, torch.float64).arguments, backend="triton")


def test_algorithms_are_the_other_backends() -> None:
    with pytest.raises(RuntimeError, match=r"algo='direct'.*'triton'"):
        fused_gcn(*make(SMALL).arguments, backend="triton", algo="direct")


def test_autocast_and_module() -> None:
    module = FusedGCN(6, 3, 5, backend="triton")
    x = torch.randn(1, 6, 7, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and x.grad is not None and x.grad.dtype == torch.float32


def test_autotune_prints_and_stores_the_fastest(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fastest = config.Tile(64, 64, 32, 4, 1)
    monkeypatch.setattr(tuning, "CANDIDATES", {"fork": [], "join": [fastest], "weight_gradient": []})

    def pretend(step: Callable[[], None]) -> float:
        step()
        stage = plan.Stage(plan.Branch(3, 5), plan.Branch(3, 5), 9, wide_first=False)
        return 1.0 if plan.constants(stage, "sm_90", torch.bfloat16, False).config.join == fastest else 2.0

    monkeypatch.setattr(tuning, "_milliseconds", pretend)
    chosen = tuning.autotune(9, 3, 5, size=(4, 6), device="cpu")
    printed = capsys.readouterr().out
    assert chosen.join == fastest and chosen.fork == config.TABLE["sm_90", "16"].fork
    assert "1.0000 ms" in printed and str(config.path()) in printed
    assert list(json.loads(config.path().read_text())) == ["sm_90/16/C16/k5"]
    assert config.choose("sm_90", "16", 9, 5) == chosen


@dataclass(frozen=True)
class Fault:
    """A mistake: ``right`` in a kernel's source becomes ``wrong``."""

    name: str
    file: ModuleType
    right: str
    wrong: str


FAULTS = [
    Fault("no mask at the end of a line", fork, "exists & (at >= 0) & (at < axis)", "exists & (at >= 0)"),
    Fault("no mask at the start of a line", fork, "exists & (at >= 0) & (at < axis)", "exists & (at < axis)"),
    Fault("wrong tap of a group", fork, "tap = step % each * G", "tap = step % each"),
    Fault("left-over taps forgotten", fork, "range(blocks * left)", "range(0)"),
    Fault("tiles do not overlap", fork, "tile * (P - OVERLAP) + row", "tile * P + row"),
    Fault("last rows of a tile dropped", fork, "& (row < P - OVERLAP)", "& (row < P - OVERLAP - 1)"),
    Fault("shift of a group the wrong way", fork, "source = row + b * INNER", "source = row - b * INNER"),
    Fault("interleaved lines not respected", fork, "source = row + b * INNER", "source = row + b"),
    Fault("bias forgotten", fork, "if BIASED:", "if False:"),
    Fault("last channels dropped", fork, "tl.cdiv(channels - begin, BK)", "(channels - begin) // BK"),
    Fault("every split does the first channels", fork, "begin = split * blocks * BK", "begin = 0"),
    Fault("strides exchanged", fork, "line.to(tl.int64) * x_across", "line.to(tl.int64) * x_axis"),
    Fault("padding keeps what x brings", fork, "total = tl.where((m < mid)[None, :], total, 0.0)", "total = total"),
    Fault("a branch missing", join, "total, a_h, w_h, pixel", "total, a_v, w_v, pixel"),
    Fault("second bias missing", join, "if BIASED_H:", "if False:"),
    Fault("tap off by one", join, "shift = tap - taps // 2", "shift = tap - taps // 2 + 1"),
    Fault("no mask at the border", join, "& (to >= 0) & (to < axis)", ""),
    Fault("last columns dropped", join, "& (column < columns)[None, :],\n    )", "& (column < columns - 1)[None, :],\n    )"),
    Fault("last pixels counted twice", weight_gradient, "begin = split * size", "begin = tl.maximum(split * size - PIXELS, 0)"),
    Fault("shift of the wrong sign", weight_gradient, "shift = direction * (tap", "shift = -direction * (tap"),
    Fault("every branch along W", weight_gradient, "vertical = tile < tiles_v\n", "vertical = tile < 0\n"),
    Fault("first split only", sums, "for split in range(splits):", "for split in range(1):"),
    Fault("taps not reversed", sums, "taps - 1 - tap if REVERSED else tap", "tap"),
    Fault("weights of a branch transposed", sums, "target = tap.to(tl.int64) * mid + m", "target = m.to(tl.int64) * taps + tap"),
]
#: Problems that together have what a fault may touch: two tiles, interleaved lines, left-over taps, splits, rows of padding.
WITNESSES = (
    Case("witness", n=2, c=19, h=9, w=10, mid_l=21, mid_r=21, out=5, k=(7, 5, 7, 5)),
    Case("split-witness", n=1, c=150, h=4, w=5, mid_l=5, mid_r=3, out=4, k=(5, 3, 3, 5)),
    Case("split-pixels", n=2, c=5, h=24, w=24, mid_l=3, mid_r=3, out=3, k=square(3)),
)


#: One of each file, that the first witness shows.
CANARIES = ("wrong tap of a group", "a branch missing", "shift of the wrong sign", "taps not reversed")


@pytest.mark.parametrize("fault", in_suites(FAULTS, everyday=lambda fault: fault.name in CANARIES), ids=lambda fault: fault.name)
def test_planted_fault_is_caught(fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of test_result_and_all_gradients fails, or a guard ends the run, with a mistake in a kernel's own text."""
    # What is not written is nan, and not by chance what an earlier run left there.
    torch.use_deterministic_algorithms(True)
    _plant(fault, tmp_path, monkeypatch)
    with pytest.raises((AssertionError, IndexError, triton.runtime.errors.InterpreterError)):
        for case in WITNESSES:
            for layout in LAYOUTS:
                check(evaluate(RUN, _with_nan_beside(make(case)).in_layout(layout)), expect_case(case, torch.float32))
        _special_value_stays_where_it_belongs()


@pytest.mark.proof
def test_witnesses_pass_without_a_fault() -> None:
    for case in WITNESSES:
        for layout in LAYOUTS:
            check(evaluate(RUN, make(case).in_layout(layout)), expect_case(case, torch.float32))
    _special_value_stays_where_it_belongs()


def _with_nan_beside(block: Block) -> Block:
    """The same values in memory that is nan around them."""
    return replace(block, x=VIEWS["window"](block.x))


def _special_value_stays_where_it_belongs() -> None:
    """An infinity in x stays one, and reaches neighbours alone, also through channels that merely pad the middle maps."""
    case = Case("infinity", n=1, c=5, h=3, w=40, mid_l=3, mid_r=3, out=3, k=(3, 3, 5, 3))
    block = make(case)
    block = replace(block, x=planted(block.x, (-torch.inf,), "corner"))
    expected = evaluate(reference.gcn, block.to(torch.float64))
    found = evaluate(RUN, block)
    assert_marked_like(found["y"], expected["y"], "y")
    assert_marked_like(found["w_r1"].isfinite().float(), expected["w_r1"].isfinite().float(), "w_r1")


def _plant(fault: Fault, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(str(fault.file.__file__)).read_text()
    assert source.count(fault.right) == 1, f"{fault.right!r} occurs {source.count(fault.right)} times"
    changed = folder / "changed.py"
    changed.write_text(source.replace(fault.right, fault.wrong))
    spec = importlib.util.spec_from_file_location("changed", changed)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("fork", "join", "weight_gradient", "pack", "sum_splits"):
        if hasattr(module, name):
            monkeypatch.setattr(fault.file, name, getattr(module, name))


@triton.jit
def _arithmetic(x, y, out, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(out + i, tl.load(x + i) * tl.load(y + i) + tl.load(x + i))


@triton.jit
def _product(a, b, out, B: tl.constexpr):
    i = tl.arange(0, B)
    at = i[:, None] * B + i[None, :]
    tl.store(out + at, tl.dot(tl.load(a + at), tl.load(b + at)))


@triton.jit
def _copy(x, out, n, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(out + i, tl.load(x + i), mask=i < n)


class TestRepairs:
    """The interpreter as it is repaired here is the yardstick, so it is measured too."""

    def test_bfloat16_arithmetic(self) -> None:
        x, y = torch.randn(64).bfloat16(), torch.randn(64).bfloat16()
        out = torch.empty(64, dtype=torch.bfloat16)
        _arithmetic[(1,)](x, y, out, 64)
        assert torch.equal(out, x * y + x)

    def test_bfloat16_product(self) -> None:
        a, b = torch.randn(16, 16).bfloat16(), torch.randn(16, 16).bfloat16()
        out = torch.empty(16, 16)
        _product[(1,)](a, b, out, 16)
        torch.testing.assert_close(out, a.float() @ b.float(), rtol=1e-5, atol=1e-5)

    def test_rounding_to_bfloat16(self) -> None:
        values = torch.cat([torch.randn(1000), torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, 3.4e38, 1.00390625])])
        ours = torch.from_numpy(triton_repairs.to_bfloat16(values.numpy()).view(np.int16)).view(torch.bfloat16)
        assert torch.equal(ours.nan_to_num(7.0), values.bfloat16().nan_to_num(7.0))
        assert torch.equal(ours.isnan(), values.isnan())

    def test_rounding_to_tf32(self) -> None:
        values = np.array([1 + 2**-11, 1 + 2**-12, -(1 + 2**-11), np.inf, np.nan], np.float32)
        expected = np.array([1 + 2**-10, 1, -(1 + 2**-10), np.inf, np.nan], np.float32)
        np.testing.assert_array_equal(triton_repairs.to_tf32(values), expected)

    def test_tf32_is_cut_off(self) -> None:
        values = np.array([1 + 2**-10, 1 + 2**-11 + 2**-12, -(1 + 2**-11), np.inf, np.nan], np.float32)
        expected = np.array([1 + 2**-10, 1, -1, np.inf, np.nan], np.float32)
        np.testing.assert_array_equal(triton_repairs.cut_to_tf32(values), expected)

    @pytest.mark.parametrize("short", ["read", "write"])
    def test_out_of_bounds_is_an_error(self, short: str) -> None:
        x, out = torch.zeros(8 if short == "read" else 16), torch.zeros(16 if short == "read" else 8)
        with pytest.raises((IndexError, triton.runtime.errors.InterpreterError), match=f"would {short} 8 values"):
            _copy[(1,)](x, out, 16, 16)
        _copy[(1,)](torch.zeros(16), torch.zeros(8), 8, 16)
