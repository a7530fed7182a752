"""The strips' Triton kernels in the interpreter: test_triton_interpreter.py runs this file."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import triton
from cases import LAYOUTS
from rule import check, evaluate, expect
from strips_cases import Case, Run, Strips, column, make, pairs, row, square
from suites import in_suites
from torch import Tensor
from views import VIEWS

from gcn_kernels import FusedStrips, fused_strips
from gcn_kernels.strips import problem
from gcn_kernels.strips.spec import form_of
from gcn_kernels.triton import device
from gcn_kernels.triton.strips import kernels, ops, rows

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: A little of everything: several steps and branches, a stem, a skip, groups of taps and a rest of one, two lanes of outputs.
MIXED = Case("mixed", ((row(5), column(7)), (square(3),)), square(3), skip=True, n=2, c=2, h=6, w=5)
CASES = (
    MIXED,
    Case("lska", ((row(3), column(3), row(5, 3), column(5, 3)),), bias=False, n=1, c=2, h=9, w=8),
    Case("rectangles", (((7, 3, (1, 1)),), ((3, 7, (1, 2)),)), n=1, c=2, h=8, w=6),
    Case("dilated", ((square(3, 2), row(5, 3)), (column(5, 5),)), bias="10", n=1, c=2, h=8, w=8),
    Case("dilation-beyond-map", ((row(3, 30), column(3, 2**31)),), n=1, c=2, h=4, w=5),
    Case("k-beyond-map", pairs(13), square(5), skip=True, n=1, c=2, h=4, w=3),
    Case("map1x1", pairs(5), square(3), skip=True, n=1, c=3, h=1, w=1),
    Case("one-line", pairs(3), n=1, c=2, h=1, w=40),
    Case("one-file", pairs(3), n=1, c=2, h=40, w=1),
    Case("k1", ((square(1), row(3)),), square(1), skip=True, n=1, c=2, h=4, w=5),
    Case("channels", ((column(5),),), n=1, c=19, h=5, w=2),
    Case("batch9", ((row(3),),), n=9, c=1, h=2, w=3, bias=False),
    Case("batch0", pairs(5), n=0, c=3),
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of which small problems have several, several groups of taps with a rest, and several ranges of the map."""
    for name, value in {
        "ELEMENTS": 16,
        "CHANNELS": 4,
        "OUTPUTS": 4,
        "TAPS": 3,
        "ROW_LANES": 8,
        "SUMMED_SPLITS": 2,
        "SUMS": 16,
    }.items():
        monkeypatch.setattr(ops, name, value)
    monkeypatch.setattr(device, "multiprocessors", lambda _: 4)


Trial = tuple[Case, torch.dtype, str]


def every_day(trial: Trial) -> bool:
    case, dtype, layout = trial
    if case.name in ("batch0", "dilation-beyond-map"):
        return layout == "nchw" and dtype == torch.float32
    return case is MIXED and (dtype, layout) in ((torch.float32, "nchw"), (torch.bfloat16, "channels_last"))


def id_of(trial: Trial) -> str:
    return f"{trial[0].name}-{trial[1]}-{trial[2]}".replace("torch.", "")


#: Every problem in either layout, and one in every dtype.
TRIALS = [
    trial
    for trial in product(CASES, DTYPES, LAYOUTS)
    if trial[0] is MIXED or trial[1:] in ((torch.float32, "nchw"), (torch.bfloat16, "channels_last"))
]


@pytest.mark.parametrize("trial", in_suites(TRIALS, everyday=every_day), ids=id_of)
def test_values_and_gradients(trial: Trial, tiny: None) -> None:
    case, dtype, layout = trial
    block = make(case, dtype)
    check(evaluate(Run(case, "triton"), block.in_layout(layout)), expect(block))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_with_the_blocks_of_a_gpu(layout: str) -> None:
    case = Case("gpu", ((row(3), column(9)),), skip=True, n=2, c=2, h=9, w=7)
    block = make(case)
    check(evaluate(Run(case, "triton"), block.in_layout(layout)), expect(block))


@pytest.mark.parametrize("view", in_suites(VIEWS, everyday=lambda view: view == "window"))
def test_any_strides(view: str, tiny: None) -> None:
    block = make(MIXED)
    check(evaluate(Run(MIXED, "triton"), block.with_maps(VIEWS[view])), expect(block.with_maps(VIEWS[view])))


def test_expanded_and_strided_parameters(tiny: None) -> None:
    block = make(replace(MIXED, n=1, branches=((row(3), column(5)),)))
    first, *others = block.weights
    weights = (first[:1].expand(first.shape), *(w.transpose(0, 3).contiguous().transpose(0, 3) for w in others))
    biases = tuple(b[:1].expand(b.shape) for b in block.biases if b is not None)
    strided = replace(block, weights=weights, biases=biases)
    with torch.no_grad():
        found, expected = Run(block.case, "triton")(*strided.arguments), strided.definition(*strided.arguments)
    torch.testing.assert_close(found, expected)


def contained(where: tuple[int, ...], value: float, in_dy: bool, layout: str = "nchw") -> None:
    """A value of x or dy that is not finite reaches what it meets, and no more."""
    case = Case("contained", ((row(5), column(3)),), n=1, c=2, h=5, w=6)
    block = make(case).in_layout(layout)
    name = "dy" if in_dy else "x"
    planted, seen = getattr(block, name).clone(), torch.zeros_like(block.x)
    planted[where], seen[where] = value, 1
    found = evaluate(Run(case, "triton"), replace(block, **{name: planted}))
    ones = block.map(torch.ones_like).to(torch.float64)
    biases = tuple(torch.zeros_like(b) for b in ones.biases if b is not None)
    reached = evaluate(block.definition, replace(ones, biases=biases, **{name: seen.double()}))
    for result, t in found.items():
        if (result == "y") if in_dy else (result not in ("y", "w0", "w1")):
            assert t.isfinite().all(), result
        else:
            assert torch.equal(~t.isfinite(), reached[result] > 1e-9), result


@pytest.mark.parametrize("layout", in_suites(LAYOUTS, everyday=lambda layout: layout == "nchw"))
@pytest.mark.parametrize("value", in_suites([torch.nan, -torch.inf], everyday=lambda value: value != value), ids=str)
@pytest.mark.parametrize("in_dy", [False, True], ids=["x", "dy"])
def test_values_that_are_not_finite(in_dy: bool, value: float, layout: str, tiny: None) -> None:
    contained((0, 1, 0, 5) if in_dy else (0, 0, 4, 0), value, in_dy, layout)


def test_same_bits_again_and_for_each_gradient_alone(tiny: None) -> None:
    block = make(replace(MIXED, n=1, branches=((row(3), column(5)),))).leaves()
    run = Run(block.case, "triton")
    together = torch.autograd.grad(run(*block.arguments), tuple(block.named.values()), block.dy)
    again = torch.autograd.grad(run(*block.arguments), tuple(block.named.values()), block.dy)
    for (name, leaf), found, other in zip(block.named.items(), together, again, strict=True):
        assert torch.equal(found, other), name
        if name in ("x", "w1", "b0"):
            assert torch.equal(found, torch.autograd.grad(run(*block.arguments), leaf, block.dy)[0]), name


def test_derivatives_of_derivatives(tiny: None) -> None:
    block = make(Case("second", pairs(3), square(3), skip=True, n=1, c=2, h=3, w=4)).leaves()

    def second(run: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = tuple(block.named.values())
        first = torch.autograd.grad(run(*block.arguments), leaves, block.dy, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves[:4])

    for found, expected in zip(second(Run(block.case, "triton")), second(block.definition), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def operator_arguments(block: Strips) -> tuple[Tensor, list[Tensor], list[Tensor], tuple[object, ...]]:
    case = block.case
    dilations = tuple(size[2] for size in case.steps)
    lengths = tuple(map(len, case.branches))
    strips = problem.Strips(block.weights, block.biases, dilations, lengths, case.stem is not None, case.skip)
    return block.x, list(block.weights), [b for b in block.biases if b is not None], form_of(strips)


def test_registration(tiny: None) -> None:
    """Schema, shapes and autograd; tracing into the kernels needs a compiler: see test_triton_traced.py."""
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    block = make(Case("small", pairs(3), square(3), skip=True, n=1, c=2, h=3, w=4, bias="110"))
    x, weights, biases, form = operator_arguments(block)
    operators = torch.ops.gcn_kernels
    torch.library.opcheck(operators.triton_strips.default, (x, weights, biases, *form, True), test_utils=tests)
    wanted = 0b101011
    torch.library.opcheck(
        operators.triton_strips_backward.default, (block.dy, x, weights, biases, wanted, *form), test_utils=tests
    )


def test_refuses_what_it_cannot_do() -> None:
    block = make(MIXED)
    with pytest.raises(RuntimeError, match=r"float64.*backend='auto'"):
        fused_strips(block.x.double(), [[(block.weights[1].double(), None)]], backend="triton")
    x, weights, biases, (lengths, dilations, biased, *flags) = operator_arguments(block)
    form = (lengths, dilations, biased, *flags)
    strips, backward = torch.ops.gcn_kernels.triton_strips, torch.ops.gcn_kernels.triton_strips_backward
    wrong = {
        "rank": (x[0], weights, biases, *form),
        "channels": (x[:, 1:], weights, biases, *form),
        "dtype": (x, [w.half() for w in weights], biases, *form),
        "even k": (x, [w[..., 1:] if w.shape[3] > 1 else w for w in weights], biases, *form),
        "bias": (x, weights, [b[1:] for b in biases], *form),
        "biases": (x, weights, biases[1:], *form),
        "lengths": (x, weights, biases, [1], dilations, biased, *flags),
        "dilations": (x, weights, biases, lengths, [0] * len(dilations), biased, *flags),
    }
    for name, arguments in wrong.items():
        with pytest.raises(RuntimeError, match=r"expected"):
            strips(*arguments, False)
            pytest.fail(f"accepted wrong {name}")
    with pytest.raises(RuntimeError, match=r"^dy: expected"):
        backward(block.dy[:, :, 1:], x, weights, biases, 1, *form)


def test_module_by_request() -> None:
    module = FusedStrips(2, [[(1, 3), (3, 1)]], backend="triton")
    x = torch.randn(1, 2, 4, 3)
    torch.testing.assert_close(module(x), module.branches[0][1](module.branches[0][0](x)))


FAULTS = {
    "no zeros before the first row": (".to(tl.uint32, bitcast=True) < size)[:, None]", " < along)[:, None]"),
    "no zeros beyond the last row": (".to(tl.uint32, bitcast=True) < size)[:, None]", " >= 0)[:, None]"),
    "no zeros beside the map": ("& is_below(to, across)[:, None]\n        source", "\n        source"),
    "neighbours where they are apart": ("window += (tl.load(source + j * step,", "window += (tl.load(source + j * stride_along,"),
    "lanes beside each other": ("block // d_along * (R * d_along) + block % d_along", "block * R"),
    "rest of the taps forgotten": ("if REST > 0:", "if False:"),
    "groups with the first one's taps": (
        "+ tl.cast(skipped, tl.int64) * w_along, w_along, there, R, T)",
        ", w_along, there, R, T)",
    ),
    "kernel not turned": ("kernel = w + w_first + channel * w_c", "kernel = w + channel * w_c"),
    "other channels' weights": ("kernel = w + w_first + channel * w_c", "kernel = w + w_first"),
    "bias forgotten": ("    if BIASED:\n        value = tl.load(bias", "    if False:\n        value = tl.load(bias"),
    "addend forgotten": ("if ADDED:", "if False:"),
    "last tile of a range forgotten": ("end = tl.minimum(begin + size, tiles)", "end = tl.minimum(begin + size - 1, tiles)"),
    "sums of every line in the first": ("_along + line * tap_across", "_along"),
    "last range forgotten": ("mask=(split < splits)[:, None]", "mask=(split < splits - 1)[:, None]"),
    "nan spreads to taps outside": ("if wrong > 0:", "if False:"),
    "nan of g spreads": ("(at < along) & (place >= 0)", "(place >= 0)"),
    "rows: no zeros before the first column": ("inside[:, None] & (at >= 0) &", "inside[:, None] &"),
    "rows: no zeros after the last column": ("(at >= 0) & (at < width)\n    quad", "(at >= 0)\n    quad"),
    "rows: no zeros above and below": ("inside = exists & (at >= 0) & (at < height)", "inside = exists"),
    "rows: quads taken apart in another order": ("first, third = tl.split(even)", "third, first = tl.split(even)"),
    "rows: every group from the first quads": ("source + (group + 2) * step", "source + 2 * step"),
    "rows: rest of the taps forgotten": ("if REST > 0:", "if False:"),
    "rows: taps from the quad's first on": ("weights, w_column, PHASE, 4)", "weights, w_column, 0, 4 - PHASE)"),
    "rows: another channel's bias": ("tl.load(bias + c)", "tl.load(bias)"),
    "rows: addend forgotten": ("if ADDED:", "if False:"),
}
CANARIES = ("rows: rest of the taps forgotten", "neighbours where they are apart", "last range forgotten")


@pytest.mark.parametrize("name", in_suites(FAULTS, everyday=lambda name: name in CANARIES))
def test_planted_fault_is_caught(name: str, tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above fail with a mistake in the kernels' own text."""
    # What is not written is nan, and not by chance what an earlier run left there.
    torch.use_deterministic_algorithms(True)
    changes = rows if name.startswith("rows") else kernels
    source, (right, wrong) = Path(str(changes.__file__)).read_text(), FAULTS[name]
    assert source.count(right) == 1, f"{right!r} occurs {source.count(right)} times"
    changed = tmp_path / "changed.py"
    changed.write_text(source.replace(right, wrong))
    spec = importlib.util.spec_from_file_location("changed", changed)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(ops, "rows" if changes is rows else "kernels", module)
    last = row(11) if changes is rows else column(7)
    case = Case("faults", ((row(3, 2), last),), square(3), skip=True, n=1, c=2, h=6, w=5)
    # With nan in memory around x and dy: a crop of a channels_last map, every second element of an NCHW one.
    block = make(case).with_maps(VIEWS["sliced" if changes is rows else "window"])
    with pytest.raises((AssertionError, IndexError, triton.runtime.errors.InterpreterError)):
        check(evaluate(Run(case, "triton"), block), expect(block))
        contained((0, 0, 4, 0), torch.nan, False)
        contained((0, 1, 0, 5), torch.nan, True)
