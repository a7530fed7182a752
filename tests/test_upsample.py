"""The doubling is ``conv_transpose2d`` with a 4 x 4 kernel, stride 2, padding 1, within the rule; it behaves as an operator."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, LAYOUTS
from implementations import INTERPRETED, Implementation, parameter
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from upsample_cases import CASES, check, draw, evaluate
from views import VIEWS

from gcn_kernels import FusedUpsample, backends, fused_upsample, reference
from gcn_kernels.upsample import functional
from gcn_kernels.upsample.spec import UPSAMPLE

#: Whose kernels; Triton's run on a GPU, or in its interpreter: see test_triton_interpreter.py.
every_backend = pytest.mark.parametrize("run", [parameter(Implementation(backend)) for backend in ("cpu", "triton")])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def by(run: Implementation) -> Callable[..., Tensor]:
    return lambda *tensors: fused_upsample(*tensors, backend=run.backend)


@every_backend
@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case: str, layout: str, dtype: torch.dtype, run: Implementation) -> None:
    if reason := run.why_not_for(dtype):
        pytest.skip(reason)
    arguments = draw(case, dtype, layout, run.device)
    results = evaluate(by(run), *arguments)
    check(results, *arguments)
    if arguments[0].numel() and CASES[case][2] > 1:
        assert results["y"].stride() == reference.upsample(*arguments[:3]).stride()


@every_backend
@pytest.mark.parametrize("view", VIEWS)
def test_any_strides(view: str, run: Implementation) -> None:
    arguments = [VIEWS[view](t) for t in draw("cityscapes", torch.float32, device=run.device)]
    check(evaluate(by(run), *arguments), *arguments)


@every_backend
@pytest.mark.parametrize("threads", [1, 2])
def test_bits_do_not_depend_on_threads_or_runs(threads: int, run: Implementation) -> None:
    arguments = draw("cityscapes", torch.float32, device=run.device)
    first = evaluate(by(run), *arguments)
    torch.set_num_threads(threads)
    again = evaluate(by(run), *arguments)
    assert all(torch.equal(first[name], again[name]) for name in first)


@every_backend
@pytest.mark.parametrize("corner", [False, True], ids=["middle", "corner"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite_values_reach_what_they_reach_in_pytorch(value: float, corner: bool, run: Implementation) -> None:
    """At a corner, where some of the taps lead outside: what they meet there is no number that nan could spoil."""
    x, weight, bias, dy = draw("paper", torch.float32, device=run.device)
    if corner:
        x[0, 3, 0, 15] = dy[0, 2, 31, 0] = value
    else:
        x[0, 3, 4, 5] = dy[0, 2, 7, 8] = value
    ours = evaluate(by(run), x, weight, bias, dy)
    theirs = evaluate(reference.upsample, *(t.cpu() for t in (x, weight, bias, dy)))
    for name in ours:
        assert torch.equal(ours[name].isfinite().cpu(), theirs[name].isfinite()), name


@every_backend
@pytest.mark.parametrize("wanted", range(8))
def test_only_wanted_gradients(wanted: int, run: Implementation) -> None:
    x, weight, bias, dy = draw("paper", torch.float32, device=run.device)
    expected = evaluate(by(run), x, weight, bias, dy)
    if run.backend == "triton":
        found = torch.ops.gcn_kernels.triton_upsample_backward(dy, x, weight, wanted, False)
    else:
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


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes tensors of the CPU")
def test_explicit_triton_says_why_it_cannot_run() -> None:
    with pytest.raises(RuntimeError, match=r"backend='triton' cannot run: the tensors are on device cpu; use backend='auto'"):
        fused_upsample(torch.ones(1, 3, 2, 2), torch.ones(3, 4, 4, 4), backend="triton")


def test_kernels_that_no_gpu_has_shown_faster_run_on_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "why_not", lambda backend, *_: "of the CPU" if backend == "cpu" else None)
    with FakeTensorMode():
        x, weight = torch.empty(1, 3, 2, 2, device="cuda"), torch.empty(3, 4, 4, 4, device="cuda")
        chosen = {asked: functional._decide((x, weight, None), asked, None).backend for asked in ("auto", "triton", "torch")}
    assert chosen == {"auto": "torch", "triton": "triton", "torch": "torch"}


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
