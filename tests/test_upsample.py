"""The doubling is ``conv_transpose2d`` with a 4 x 4 kernel, stride 2, padding 1, within the rule; it behaves as an operator."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, LAYOUTS
from torch import Tensor, nn
from views import VIEWS

from gcn_kernels import FusedUpsample, fused_upsample, reference
from gcn_kernels.upsample.spec import UPSAMPLE

#: n, c, o, h, w: the paper's, odd sizes, one pixel, one line, several tiles, more channels than registers, no image.
CASES = {
    "paper": (1, 21, 21, 16, 16),
    "cityscapes": (2, 19, 19, 9, 33),
    "pixel": (2, 3, 2, 1, 1),
    "one-row": (1, 5, 30, 1, 300),
    "one-column": (1, 24, 1, 37, 1),
    "one-channel": (3, 1, 1, 5, 7),
    "wide": (1, 70, 40, 5, 6),
    "batch0": (0, 3, 4, 5, 6),
}
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def draw(case: str, dtype: torch.dtype, layout: str = "nchw") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, c, o, h, w = CASES[case]
    x, weight, bias, dy = (torch.randn(s, dtype=torch.float64) for s in ((n, c, h, w), (c, o, 4, 4), (o,), (n, o, 2 * h, 2 * w)))
    x, dy = (t.to(dtype).contiguous(memory_format=LAYOUTS[layout]) for t in (x, dy))
    return x, (weight / (2 * c**0.5)).to(dtype), bias.to(dtype), dy


def evaluate(run: object, x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor) -> dict[str, Tensor]:
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = run(*leaves)  # type: ignore[operator]
    return {"y": y.detach(), **dict(zip(("dx", "dw", "db"), torch.autograd.grad(y, leaves, dy), strict=True))}


def check(results: dict[str, Tensor], *arguments: Tensor) -> None:
    """At most twice PyTorch's own error at the same dtype, and four units in the last place of the sum of magnitudes."""
    doubled = [t.double() for t in arguments]
    expected = evaluate(reference.upsample, *doubled)
    own = evaluate(reference.upsample, *(t.contiguous() for t in arguments))
    sizes = evaluate(reference.upsample, *(t.abs() for t in doubled))
    dtype = arguments[0].dtype
    for name, result in results.items():
        assert result.dtype == dtype and result.shape == expected[name].shape
        if result.numel() == 0:
            continue
        ulp = max(torch.finfo(dtype).eps, 4 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps)
        allowed = 2 * (own[name].double() - expected[name]).abs().max() + ulp * sizes[name].abs().max()
        error = (result.double() - expected[name]).abs().max()
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case: str, layout: str, dtype: torch.dtype) -> None:
    arguments = draw(case, dtype, layout)
    results = evaluate(lambda *tensors: fused_upsample(*tensors, backend="cpu"), *arguments)
    check(results, *arguments)
    if arguments[0].numel() and CASES[case][2] > 1:
        assert results["y"].stride() == reference.upsample(*arguments[:3]).stride()


@pytest.mark.parametrize("view", VIEWS)
def test_any_strides(view: str) -> None:
    arguments = [VIEWS[view](t) for t in draw("cityscapes", torch.float32)]
    check(evaluate(fused_upsample, *arguments), *arguments)


@pytest.mark.parametrize("threads", [1, 2])
def test_bits_do_not_depend_on_threads_or_runs(threads: int) -> None:
    arguments = draw("cityscapes", torch.float32)
    first = evaluate(fused_upsample, *arguments)
    torch.set_num_threads(threads)
    again = evaluate(fused_upsample, *arguments)
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite_values_reach_what_they_reach_in_pytorch(value: float) -> None:
    x, weight, bias, dy = draw("paper", torch.float32)
    x[0, 3, 4, 5] = dy[0, 2, 7, 8] = value
    ours, theirs = (evaluate(run, x, weight, bias, dy) for run in (fused_upsample, reference.upsample))
    for name in ours:
        assert torch.equal(ours[name].isfinite(), theirs[name].isfinite()), name


@pytest.mark.parametrize("wanted", range(8))
def test_only_wanted_gradients(wanted: int) -> None:
    x, weight, bias, dy = draw("paper", torch.float32)
    expected = evaluate(fused_upsample, x, weight, bias, dy)
    found = torch.ops.gcn_kernels.upsample_backward(dy, x, weight, wanted)
    for i, (name, gradient) in enumerate(zip(("dx", "dw", "db"), found, strict=True)):
        assert torch.equal(gradient, expected[name]) if wanted >> i & 1 else gradient.numel() == 0


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad: bool) -> None:
    x, weight, bias, dy = (t.requires_grad_(requires_grad) for t in draw("one-channel", torch.float32, "channels_last"))
    for result in (
        torch.library.opcheck(torch.ops.gcn_kernels.upsample, (x, weight, bias, False)),
        torch.library.opcheck(torch.ops.gcn_kernels.upsample_backward, (dy, x, weight, 7)),
    ):
        assert set(result.values()) == {"SUCCESS"}, result


def test_schemas() -> None:
    for name, schema in UPSAMPLE.schemas.items():
        assert str(getattr(torch.ops.gcn_kernels, name).default._schema) == schema


def test_derivatives_of_derivatives() -> None:
    x, weight, bias, _ = (t.requires_grad_() for t in draw("pixel", torch.float64))
    assert torch.autograd.gradcheck(fused_upsample, (x, weight, bias))
    assert torch.autograd.gradgradcheck(fused_upsample, (x, weight, bias))


def test_vmap_and_grad_go_through_the_definition() -> None:
    x, weight, _, _ = draw("one-channel", torch.float32)
    batched = torch.func.vmap(fused_upsample, in_dims=(0, None))(x, weight)
    torch.testing.assert_close(batched, fused_upsample(x, weight))
    gradient = torch.func.grad(lambda w: fused_upsample(x, w).square().sum())(weight)
    assert gradient.shape == weight.shape and gradient.abs().sum() > 0


def test_autocast() -> None:
    x, weight, bias, _ = draw("paper", torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = fused_upsample(x, weight, bias)
    assert torch.equal(y, fused_upsample(*(t.bfloat16() for t in (x, weight, bias))))


def test_size_takes_the_first_rows_and_columns() -> None:
    x, weight, _, _ = draw("paper", torch.float32)
    assert torch.equal(fused_upsample(x, weight, size=(31, 30)), fused_upsample(x, weight)[:, :, :31, :30])
    with pytest.raises(ValueError, match="size: expected"):
        fused_upsample(x, weight, size=(33, 32))


def test_compiled_in_one_graph(fresh_compiler: None) -> None:
    module = FusedUpsample(5, 4)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 5, 6, 7), (1, 5, 9, 8)):
        x = torch.randn(size)
        torch.testing.assert_close(compiled(x), module(x), rtol=0, atol=0)
        compiled(x).sum().backward()
    assert module.weight.grad is not None


def test_exported_program_calls_the_operator() -> None:
    program = torch.export.export(FusedUpsample(5, 4).requires_grad_(False), (torch.randn(2, 5, 6, 7),))
    assert [str(n.target) for n in program.graph.nodes if n.op == "call_function"] == ["gcn_kernels.upsample.default"]


@pytest.mark.parametrize(
    ("error", "says", "change"),
    [
        (TypeError, "x: expected a torch.Tensor", {"x": 1}),
        (TypeError, "x: expected one of the dtypes", {"x": torch.ones(1, 3, 2, 2, dtype=torch.int32)}),
        (ValueError, "x: expected", {"x": torch.ones(2, 2)}),
        (ValueError, r"weight: expected \[3, O, 4, 4\]", {"weight": torch.ones(2, 4, 4, 4)}),
        (ValueError, r"bias: expected shape \[4\]", {"bias": torch.ones(3)}),
        (RuntimeError, "same dtype", {"weight": torch.ones(3, 4, 4, 4, dtype=torch.float64)}),
        (ValueError, "backend: expected", {"backend": "none"}),
        (RuntimeError, "no kernels for this operator", {"backend": "cuda"}),
    ],
)
def test_errors(error: type[Exception], says: str, change: dict[str, object]) -> None:
    arguments = {"x": torch.ones(1, 3, 2, 2), "weight": torch.ones(3, 4, 4, 4), "bias": torch.ones(4)} | change
    with pytest.raises(error, match=says):
        fused_upsample(**arguments)  # type: ignore[arg-type]


def test_operator_refuses_what_the_python_side_would_not_send() -> None:
    x, weight, bias, dy = draw("pixel", torch.float32)
    integers = tuple(t.to(torch.int8) for t in (x, weight, bias))
    wrong = ((x[0], weight, bias), (x[:, 1:], weight, bias), (x, weight[:, :, 1:], bias), (x, weight, bias[1:]), integers)
    for arguments in wrong:
        with pytest.raises(RuntimeError, match=r"^(x|weight|bias): expected"):  # and no line of C++ before it
            torch.ops.gcn_kernels.upsample(*arguments, False)
    with pytest.raises(RuntimeError, match=r"^dy: expected"):
        torch.ops.gcn_kernels.upsample_backward(dy[:, :, 1:], x, weight, 7)


def test_module_is_a_transposed_convolution() -> None:
    torch.manual_seed(0)
    plain = nn.ConvTranspose2d(5, 4, 4, stride=2, padding=1)
    torch.manual_seed(0)
    module = FusedUpsample(5, 4, bias=True)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), module.state_dict().values(), strict=True))
    x = torch.randn(2, 5, 6, 7)
    torch.testing.assert_close(module(x), F.conv_transpose2d(x, module.weight, module.bias, stride=2, padding=1))
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))
    assert module(x[0]).shape == (4, 12, 14)
