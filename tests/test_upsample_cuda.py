"""``fused_upsample`` on a GPU by its CUDA kernels: the problems and promises that the CPU kernels are held to."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from captured import check_replayed
from cases import LAYOUTS, every_dtype, every_layout
from torch import Tensor
from upsample_cases import CASES, FORMS, check, compare_finite, draw, drawn, evaluate, groups_of, tap_by_tap
from views import VIEWS

from gcn_kernels import FusedUpsample, backends, fused_upsample, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        (reason := backends.why_not("cuda", "cuda")) is not None, reason=f"the CUDA kernels do not run here: {reason}"
    ),
]
every_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


by_cuda: Callable[..., Tensor] = partial(fused_upsample, backend="cuda")


def of_form(form: str, x: Tensor) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The operator and its definition."""
    groups = groups_of(form, x)
    return partial(by_cuda, groups=groups), partial(reference.upsample, groups=groups)


@every_layout
@every_dtype
@every_form
@pytest.mark.parametrize("case", CASES)
def test_named_problem(case: str, form: str, dtype: torch.dtype, layout: str) -> None:
    tensors = draw(case, dtype, layout, "cuda", form)
    run, definition = of_form(form, tensors[0])
    check(evaluate(run, *tensors), *tensors, definition=definition)


@pytest.mark.parametrize(
    "sizes", [(2, 21, 21, 150, 100), (16, 19, 19, 64, 64), (1, 256, 128, 32, 32), (1, 64, 64, 40, 40)], ids=str
)
@every_dtype
def test_large_problem(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    n, c, o, h, w = sizes
    for layout in LAYOUTS:
        torch.manual_seed(0)
        x, dy = (
            torch.randn(s).to("cuda", dtype).contiguous(memory_format=LAYOUTS[layout])
            for s in ((n, c, h, w), (n, o, 2 * h, 2 * w))
        )
        weight, bias = (torch.randn(c, o, 4, 4) / (2 * c**0.5)).to("cuda", dtype), torch.randn(o).to("cuda", dtype)
        check(evaluate(by_cuda, x, weight, bias, dy), x, weight, bias, dy)


@pytest.mark.parametrize("part", range(5))
def test_drawn_problems(part: int) -> None:
    for seed in range(60 * part, 60 * part + 60):
        problem = drawn(seed, by_cuda)
        tensors = [t.cuda() for t in problem.tensors]
        try:
            check(evaluate(problem.run, *tensors), *tensors, definition=problem.definition)
        except AssertionError as error:
            raise AssertionError(problem.name) from error


@every_form
@pytest.mark.parametrize("view", VIEWS)
def test_any_strides(view: str, form: str) -> None:
    tensors = [VIEWS[view](t) for t in draw("cityscapes", torch.float32, "nchw", "cuda", form)]
    run, definition = of_form(form, tensors[0])
    check(evaluate(run, *tensors), *tensors, definition=definition)


@every_layout
@every_dtype
@every_form
def test_same_bits_in_every_run_and_what_is_added(form: str, dtype: torch.dtype, layout: str) -> None:
    x, weight, bias, dy = draw("cityscapes", dtype, layout, "cuda", form)
    run, _ = of_form(form, x)
    expected = evaluate(run, x, weight, bias, dy)
    for _ in range(3):
        for name, t in evaluate(run, x, weight, bias, dy).items():
            assert torch.equal(t, expected[name]), name
    lateral = torch.randn_like(dy)[..., :-1, :-2]
    assert torch.equal(run(x, weight, bias, add=lateral), lateral + run(x, weight, bias, size=lateral.shape[-2:]))


@pytest.mark.parametrize("where", ["x", "dy"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@every_form
def test_values_that_are_not_finite_reach_what_they_meet(form: str, value: float, where: str) -> None:
    for row, column in ((0, 0), (-1, -1), (3, 32)):
        x, weight, bias, dy = draw("cityscapes", torch.float32, "nchw", "cuda", form)
        {"x": x, "dy": dy}[where][0, 0, row, column] = value
        run, _ = of_form(form, x)
        compare_finite(evaluate(run, x, weight, bias, dy), partial(tap_by_tap, groups=groups_of(form, x)), x, weight, bias, dy)


@pytest.mark.parametrize("wanted", range(8))
def test_only_the_gradients_asked_for(wanted: int) -> None:
    x, weight, bias, dy = draw("cityscapes", torch.float32, device="cuda")
    expected = evaluate(by_cuda, x, weight, bias, dy)
    found = torch.ops.gcn_kernels.doubling_backward(dy, x, weight, wanted, 1)
    for i, name in enumerate(("dx", "dw", "db")):
        assert torch.equal(found[i], expected[name]) if wanted >> i & 1 else found[i].numel() == 0


def test_unasked_the_transposed_convolution_of_pytorch_runs() -> None:
    x, weight, bias, _ = draw("paper", torch.float32, device="cuda")
    assert torch.equal(fused_upsample(x, weight, bias), fused_upsample(x, weight, bias, backend="torch"))


def test_a_step_is_captured_in_a_graph_and_replayed_on_other_data() -> None:
    module = FusedUpsample(8, 6, bias=True, backend="cuda", device="cuda")
    x, dy = torch.randn(2, 8, 33, 20, device="cuda").requires_grad_(), torch.randn(2, 6, 66, 40, device="cuda")
    check_replayed(module, x, dy)


def test_autocast_compile_and_opcheck(fresh_compiler: None) -> None:
    module, x = FusedUpsample(8, 6, backend="cuda", device="cuda"), torch.randn(2, 8, 9, 11, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        assert module(x).dtype == torch.bfloat16
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    assert torch.equal(compiled(x), module(x))
    x, weight, bias, dy = draw("one-channel", torch.float32, "channels_last", "cuda")
    for operator, arguments in (
        (torch.ops.gcn_kernels.doubling, (x, weight, bias, dy[..., 1:, :-1].clone(), None, None, 1, False)),
        (torch.ops.gcn_kernels.doubling_backward, (dy, x, weight, 7, 1)),
        (torch.ops.gcn_kernels.upsample, (x, weight, bias, False)),
    ):
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


def test_derivatives_of_derivatives() -> None:
    inputs = [t.requires_grad_() for t in draw("pixel", torch.float64, device="cuda")[:3]]
    assert torch.autograd.gradgradcheck(by_cuda, inputs)
