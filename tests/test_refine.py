"""Boundary refinement is ``x + conv2d(relu(conv2d(x)))`` within the rule, and behaves as an operator."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, LAYOUTS
from refine_cases import CASES, NAMES, check, check_reach, draw, draw_sizes, evaluate, with_special_value
from torch import Tensor, nn
from views import VIEWS

from gcn_kernels import FusedRefine, fused_refine, reference

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case: str, layout: str, dtype: torch.dtype) -> None:
    given, dy = draw(case, dtype, layout)
    results = evaluate(lambda *tensors: fused_refine(*tensors, backend="cpu"), given, dy)
    check(results, given, dy)
    assert results["y"].stride() == reference.refine(*given).stride()


OTHER_ISA = """
import torch
from cases import LAYOUTS
from refine_cases import CASES, check, draw, evaluate

from gcn_kernels import fused_refine

done = 0
for case in CASES:
    for layout in LAYOUTS:
        given, dy = draw(case, (torch.float32, torch.bfloat16, torch.float16)[done % 3], layout)
        check(evaluate(fused_refine, given, dy), given, dy)
        done += 1
print(done)
"""


@pytest.mark.parametrize("isa", ["avx2", "portable"])
def test_other_instruction_sets(isa: str) -> None:
    environment = {**os.environ, "GCN_KERNELS_CPU_ISA": isa}
    command = [sys.executable, "-c", OTHER_ISA]
    done = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) == 2 * len(CASES)


@pytest.mark.parametrize("view", VIEWS)
def test_any_strides(view: str) -> None:
    given, dy = draw("cityscapes", torch.float32)
    given, dy = [VIEWS[view](t) for t in given], VIEWS[view](dy)
    check(evaluate(fused_refine, given, dy), given, dy)


@pytest.mark.parametrize("missing", [(3,), (4,), (3, 4)])
def test_without_biases(missing: tuple[int, ...]) -> None:
    given, dy = draw("cityscapes", torch.float32)
    with_zeros = [torch.zeros_like(t) if i in missing else t for i, t in enumerate(given)]
    leaves = [None if i in missing else t.requires_grad_() for i, t in enumerate(given)]
    y = fused_refine(*leaves)  # type: ignore[arg-type]
    expected = evaluate(fused_refine, with_zeros, dy)
    assert torch.equal(y, expected["y"])
    kept = [i for i in range(5) if i not in missing]
    for i, gradient in zip(kept, torch.autograd.grad(y, [given[i] for i in kept], dy), strict=True):
        assert torch.equal(gradient, expected[NAMES[i]])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_do_not_depend_on_threads_or_runs(threads: int) -> None:
    given, dy = draw("several-units", torch.float32)
    first = evaluate(fused_refine, given, dy)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        again = evaluate(fused_refine, given, dy)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("case", ["paper", "cityscapes", "several-strips"])
@pytest.mark.parametrize("where", ["x", "dy"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite_values_reach_what_they_reach_in_pytorch(value: float, where: str, case: str) -> None:
    given, dy = draw(case, torch.float32)
    with_special_value(given, dy, where, value, dy.shape[3] - 9)
    check_reach(evaluate(fused_refine, given, dy), given, dy)


def test_relu_passes_nan_on_and_stops_minus_infinity() -> None:
    given, dy = draw("cityscapes", torch.float32)
    given[3][2], given[3][5] = float("nan"), -float("inf")
    given[2][:, 2, :, 0] = 0  # nan * 0 is nan
    ours, theirs = (evaluate(run, given, dy) for run in (fused_refine, reference.refine))
    for name in ours:
        assert torch.equal(ours[name].isfinite(), theirs[name].isfinite()), name
    given[3][2] = 0
    ours = evaluate(fused_refine, given, dy)
    assert ours["y"].isfinite().all()
    check(ours, given, dy)


def test_values_near_the_largest_float_stay_finite_where_they_do_in_pytorch() -> None:
    given, dy = draw("cityscapes", torch.float32)
    given[0] *= 2e37 / given[0].abs().max()
    given[1] *= 0.01
    assert torch.equal(fused_refine(*given).isfinite(), reference.refine(*given).isfinite())
    check({"y": fused_refine(*given)}, given, dy)


@pytest.mark.parametrize("wanted", range(32))
def test_only_wanted_gradients(wanted: int) -> None:
    given, dy = draw("paper", torch.float32)
    expected = evaluate(fused_refine, given, dy)
    found = torch.ops.gcn_kernels.refine_backward(dy, *given[:4], wanted)
    for i, (name, gradient) in enumerate(zip(NAMES, found, strict=True)):
        assert torch.equal(gradient, expected[name]) if wanted >> i & 1 else gradient.numel() == 0


def test_derivatives_of_derivatives() -> None:
    given, _ = draw_sizes((2, 3, 2, 2, 3), torch.float64)
    leaves = [t.requires_grad_() for t in given]
    assert torch.autograd.gradcheck(fused_refine, leaves)
    assert torch.autograd.gradgradcheck(fused_refine, leaves)
    assert torch.autograd.gradgradcheck(fused_refine, leaves[:3])


def test_training_saves_the_input_alone() -> None:
    given, _ = draw("cityscapes", torch.float32)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        fused_refine(*(t.requires_grad_() for t in given))
    assert [t.shape for t in saved] == [t.shape for t in given[:4]]


@pytest.mark.parametrize("changed", range(4))
def test_what_was_changed_before_the_backward_pass_is_an_error(changed: int) -> None:
    given, dy = draw("paper", torch.float32)
    y = fused_refine(*(t.requires_grad_() for t in given))
    with torch.no_grad():
        given[changed].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(dy)


def test_second_bias_may_change_before_the_backward_pass() -> None:
    given, dy = draw("paper", torch.float32)
    expected = evaluate(fused_refine, given, dy)
    y = fused_refine(*(t.requires_grad_() for t in given))
    with torch.no_grad():
        given[4].add_(1)
    y.backward(dy)
    assert given[0].grad is not None and torch.equal(given[0].grad, expected["dx"])


@pytest.mark.parametrize(
    ("error", "says", "change"),
    [
        (TypeError, "x: expected a torch.Tensor", {"x": 1}),
        (TypeError, "w2: expected a torch.Tensor", {"w2": None}),
        (TypeError, "x: expected one of the dtypes", {"x": torch.ones(1, 3, 2, 2, dtype=torch.int32)}),
        (ValueError, "x: expected", {"x": torch.ones(2, 2)}),
        (ValueError, r"w1: expected \[M, 3, 3, 3\]", {"w1": torch.ones(4, 2, 3, 3)}),
        (ValueError, r"w2: expected \[3, 4, 3, 3\]", {"w2": torch.ones(3, 5, 3, 3)}),
        (ValueError, r"b1: expected shape \[4\]", {"b1": torch.ones(3)}),
        (ValueError, r"b2: expected shape \[3\]", {"b2": torch.ones(4)}),
        (RuntimeError, "same dtype", {"w1": torch.ones(4, 3, 3, 3, dtype=torch.float64)}),
        (ValueError, "backend: expected", {"backend": "none"}),
        (RuntimeError, "backend='cuda' cannot run", {"backend": "cuda"}),
    ],
)
def test_errors(error: type[Exception], says: str, change: dict[str, object]) -> None:
    weights = {"w1": torch.ones(4, 3, 3, 3), "w2": torch.ones(3, 4, 3, 3), "b1": torch.ones(4), "b2": torch.ones(3)}
    arguments = {"x": torch.ones(1, 3, 2, 2), **weights, **change}
    with pytest.raises(error, match=says):
        fused_refine(**arguments)  # type: ignore[arg-type]


def test_operator_refuses_what_the_python_side_would_not_send() -> None:
    given, dy = draw("pixel", torch.float32)
    x, w1, w2, b1, b2 = given
    wrong = (
        (x[0], w1, w2, b1, b2),
        (x[:, 1:], w1, w2, b1, b2),
        (x[:, :, :0], w1, w2, b1, b2),
        (x, w1[:, :, 1:], w2, b1, b2),
        (x, w1, w2[1:], b1, b2),
        (x, w1[:0], w2[:, :0], None, b2),
        (x, w1, w2, b1[1:], b2),
        (x, w1, w2, b1, b2.double()),
        tuple(t.to(torch.int8) for t in given),
    )
    for arguments in wrong:
        with pytest.raises(RuntimeError, match=r"^(x|w1|w2|b1|b2): expected"):  # and no line of C++ before it
            torch.ops.gcn_kernels.refine(*arguments, False)
    with pytest.raises(RuntimeError, match=r"^dy: expected"):
        torch.ops.gcn_kernels.refine_backward(dy[:, :, 1:], x, w1, w2, b1, 31)


class ByHand(nn.Module):
    """What users have."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.conv2(F.relu(self.conv1(x)))
        return y


def test_module_is_what_is_written_by_hand() -> None:
    torch.manual_seed(0)
    plain = ByHand(5)
    torch.manual_seed(0)
    module = FusedRefine(5)
    assert plain.state_dict().keys() == module.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), module.state_dict().values(), strict=True))
    x = torch.randn(2, 5, 6, 7)
    torch.testing.assert_close(module(x), plain(x))
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))
    assert module(x[0]).shape == (5, 6, 7) and FusedRefine(5, mid_channels=7, bias=False)(x).shape == x.shape
    for bad in ({"channels": 0}, {"channels": 3, "mid_channels": 0}, {"channels": 3, "backend": "none"}):
        with pytest.raises(ValueError, match="expected"):
            FusedRefine(**bad)  # type: ignore[arg-type]


@pytest.mark.proof
@pytest.mark.parametrize("layout", LAYOUTS)
@every_dtype
@pytest.mark.parametrize("part", range(10))
def test_drawn_problems(part: int, dtype: torch.dtype, layout: str) -> None:
    """200 for each dtype and layout: everything in ten parts of 20."""
    for seed in range(20 * part, 20 * part + 20):
        torch.manual_seed(seed)
        most = torch.tensor([2, 40, 40, 30, 130])
        sizes = tuple(int(s) for s in (torch.rand(5) ** 2 * most + 1).long())
        given, dy = draw_sizes(sizes, dtype, layout)
        try:
            check(evaluate(fused_refine, given, dy), given, dy)
        except AssertionError as error:
            raise AssertionError(f"sizes {sizes}, seed {seed}: {error}") from error
