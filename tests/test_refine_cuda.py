"""``fused_refine`` on a GPU by its CUDA kernels: the problems and promises that the CPU kernels are held to."""

import math

import pytest
import torch
from captured import check_replayed
from cases import DTYPES, LAYOUTS, every_dtype, every_layout
from refine_cases import CASES, NAMES, Arguments, check, check_reach, draw, draw_sizes, evaluate, with_special_value
from torch import Tensor
from views import VIEWS

from gcn_kernels import FusedRefine, backends, fused_refine, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        (reason := backends.why_not("cuda", "cuda")) is not None, reason=f"the CUDA kernels do not run here: {reason}"
    ),
]


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def on_gpu(given: Arguments, dy: Tensor) -> tuple[Arguments, Tensor]:
    return [t.cuda() for t in given], dy.cuda()


def by_cuda(*tensors: Tensor) -> Tensor:
    return fused_refine(*tensors, backend="cuda")


@every_layout
@every_dtype
@pytest.mark.parametrize("case", CASES)
def test_named_problem(case: str, dtype: torch.dtype, layout: str) -> None:
    given, dy = on_gpu(*draw(case, dtype, layout))
    results = evaluate(by_cuda, given, dy)
    check(results, given, dy)
    assert results["y"].stride() == reference.refine(*given).stride()


@pytest.mark.parametrize(
    "sizes", [(2, 21, 21, 300, 200), (16, 19, 19, 64, 64), (1, 256, 200, 9, 17), (1, 64, 64, 40, 40)], ids=str
)
@every_dtype
def test_large_problem(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    for layout in LAYOUTS:
        given, dy = on_gpu(*draw_sizes(sizes, dtype, layout))
        check(evaluate(by_cuda, given, dy), given, dy)


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs compute capability 9.0"
)
@pytest.mark.parametrize(
    "sizes", [(2, 21, 21, 300, 200), (16, 19, 19, 64, 64), (1, 17, 20, 5, 136), (200, 21, 18, 1, 8)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_forward_by_the_kernel_for_hopper(sizes: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCN_KERNELS_PLAN", "refine_march=1")
    for layout in LAYOUTS:
        given, dy = on_gpu(*draw_sizes(sizes, dtype, layout))
        y = by_cuda(*given)
        check({"y": y}, given, dy)
        assert torch.equal(by_cuda(*given), y)


@pytest.mark.parametrize("part", range(5))
def test_drawn_problems(part: int) -> None:
    for seed in range(40 * part, 40 * part + 40):
        torch.manual_seed(seed)
        most = torch.tensor([2, 40, 40, 60, 130])
        sizes = tuple(int(s) for s in (torch.rand(5) ** 2 * most + 1).long())
        given, dy = on_gpu(*draw_sizes(sizes, DTYPES[seed % len(DTYPES)], ("nchw", "channels_last")[seed // 4 % 2]))
        try:
            check(evaluate(by_cuda, given, dy), given, dy)
        except AssertionError as error:
            raise AssertionError(f"sizes {sizes}, seed {seed}: {error}") from error


@pytest.mark.parametrize("view", VIEWS)
def test_any_strides(view: str) -> None:
    given, dy = on_gpu(*draw("cityscapes", torch.float32))
    given, dy = [VIEWS[view](t) for t in given], VIEWS[view](dy)
    check(evaluate(by_cuda, given, dy), given, dy)


@every_layout
@every_dtype
def test_same_bits_in_every_run(dtype: torch.dtype, layout: str) -> None:
    given, dy = on_gpu(*draw_sizes((3, 21, 21, 130, 70), dtype, layout))
    expected = evaluate(by_cuda, given, dy)
    for _ in range(3):
        for name, t in evaluate(by_cuda, given, dy).items():
            assert torch.equal(t, expected[name]), name


@pytest.mark.parametrize("wanted", range(32))
def test_only_the_gradients_asked_for(wanted: int) -> None:
    given, dy = on_gpu(*draw("cityscapes", torch.float32))
    expected = evaluate(by_cuda, given, dy)
    found = torch.ops.gcn_kernels.cuda_refine_backward(dy, *given[:4], wanted, False)
    for i, (name, gradient) in enumerate(zip(NAMES, found, strict=True)):
        assert torch.equal(gradient, expected[name]) if wanted >> i & 1 else gradient.numel() == 0


@pytest.mark.parametrize("where", ["x", "dy"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_reach_what_they_reach_in_pytorch(value: float, where: str) -> None:
    given, dy = draw("cityscapes", torch.float32)
    with_special_value(given, dy, where, value, dy.shape[3] - 1)
    results = evaluate(by_cuda, *on_gpu(given, dy))
    check_reach({name: t.cpu() for name, t in results.items()}, given, dy)


def test_tf32_is_pytorchs_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    given, _ = on_gpu(*draw("paper", torch.float32))
    exact = by_cuda(*given)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert not torch.equal(by_cuda(*given), exact)


def test_unasked_plain_convolutions_run() -> None:
    given, _ = on_gpu(*draw("paper", torch.float32))
    assert torch.equal(fused_refine(*given), fused_refine(*given, backend="torch"))


def test_a_step_is_captured_in_a_graph_and_replayed_on_other_data() -> None:
    module = FusedRefine(8, backend="cuda", device="cuda")
    x, dy = (torch.randn(2, 8, 33, 20, device="cuda") for _ in range(2))
    x.requires_grad_()
    check_replayed(module, x, dy)


def test_autocast_compile_and_opcheck(fresh_compiler: None) -> None:
    module, x = FusedRefine(8, backend="cuda", device="cuda"), torch.randn(2, 8, 9, 11, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        assert module(x).dtype == torch.bfloat16
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    assert torch.equal(compiled(x), module(x))
    (x, w1, w2, b1, b2), dy = on_gpu(*draw("one-channel", torch.float32, "channels_last"))
    for operator, arguments in (
        (torch.ops.gcn_kernels.cuda_refine, (x, w1, w2, b1, b2, False, False)),
        (torch.ops.gcn_kernels.cuda_refine_backward, (dy, x, w1, w2, None, 31, False)),
    ):
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


def test_derivatives_of_derivatives() -> None:
    given, _ = on_gpu(*draw_sizes((2, 3, 2, 2, 3), torch.float64))
    assert torch.autograd.gradgradcheck(by_cuda, [t.requires_grad_() for t in given])
