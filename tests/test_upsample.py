"""The doubling is a ``conv_transpose2d`` with stride 2, and a sum, within the rule; it behaves as an operator."""

import copy
import pickle
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, LAYOUTS
from implementations import INTERPRETED, Implementation, parameter
from suites import in_suites
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from upsample_cases import CASES, FORMS, check, compare_finite, draw, drawn, evaluate, groups_of, tap_by_tap
from views import VIEWS

from gcn_kernels import FusedUpsample, backends, fused_upsample, reference
from gcn_kernels.upsample import functional
from gcn_kernels.upsample.spec import DOUBLING, UPSAMPLE

#: Whose kernels; Triton's run on a GPU, or in its interpreter: see test_triton_interpreter.py.
every_backend = pytest.mark.parametrize("run", [parameter(Implementation(backend)) for backend in ("cpu", "triton")])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
every_form = pytest.mark.parametrize("form", FORMS)
#: Of the drawn problems, those of a part; the first is for every day.
PARTS, OF_A_PART = 6, 60


def by(run: Implementation, groups: int = 1) -> Callable[..., Tensor]:
    return lambda *tensors: fused_upsample(*tensors, groups=groups, backend=run.backend)


def test_large_maps_of_single_channels_are_pytorchs_in_channels_last_and_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def definition(x: Tensor, *_: object, **__: object) -> Tensor:
        ran.append("torch")
        return x

    def kernels(tensors: Sequence[Tensor], *_: object) -> Tensor:
        ran.append("cpu")
        return tensors[0]

    monkeypatch.setattr(functional.reference, "upsample", definition)
    monkeypatch.setattr(functional, "DOUBLING", kernels)
    monkeypatch.setattr(functional, "LARGE", 4 * 4 * 3 * 64 - 1)
    weight = torch.ones(3, 1, 2, 2)
    large = torch.ones(1, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    for x in (large, large[..., :7], large.contiguous(), large.double(), large.clone().requires_grad_()):
        fused_upsample(x, weight.to(x.dtype), groups=3)
    fused_upsample(large, weight, groups=3, backend="cpu")
    fused_upsample(large, weight, torch.ones(3), groups=3)
    fused_upsample(large, torch.ones(3, 3, 2, 2))
    assert ran == ["torch", *["cpu"] * 7]


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


@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ["cityscapes", "pixel", "one-row", "one-channel"])
@pytest.mark.parametrize("form", [form for form in FORMS if form != "4x4"])
def test_values_and_gradients_of_other_forms(form: str, case: str, layout: str, dtype: torch.dtype) -> None:
    arguments = draw(case, dtype, layout, form=form)
    definition = partial(reference.upsample, groups=groups_of(form, arguments[0]))
    results = evaluate(partial(fused_upsample, groups=groups_of(form, arguments[0])), *arguments)
    check(results, *arguments, definition=definition)
    if CASES[case][2] > 1:
        assert results["y"].stride() == definition(*arguments[:3]).stride()


@pytest.mark.parametrize("part", in_suites(range(PARTS), everyday=lambda part: part == 0))
def test_drawn_problems(part: int) -> None:
    for seed in range(part * OF_A_PART, (part + 1) * OF_A_PART):
        problem = drawn(seed, fused_upsample)
        try:
            check(evaluate(problem.run, *problem.tensors), *problem.tensors, definition=problem.definition)
        except AssertionError as error:
            raise AssertionError(problem.name) from error


@every_dtype
@every_form
@pytest.mark.parametrize("view", ["contiguous", "channels_last", "sliced"])
def test_a_lateral_map_is_added_as_pytorch_adds_it(view: str, form: str, dtype: torch.dtype) -> None:
    """To the bit: what is added to is rounded to the dtype first. The gradient of the lateral map is dy itself."""
    x, weight, bias, dy = draw("cityscapes", dtype, form=form)
    lateral, dy = VIEWS[view](torch.randn_like(dy)[..., :-1, :-2]), dy[..., :-1, :-2]
    run = partial(fused_upsample, groups=groups_of(form, x))
    fused = evaluate(lambda x, w, b, a: run(x, w, b, add=a), x, weight, bias, lateral, dy)
    apart = evaluate(lambda x, w, b, a: a + run(x, w, b, size=a.shape[-2:]), x, weight, bias, lateral, dy)
    assert all(torch.equal(fused[name], apart[name]) for name in apart)
    assert torch.equal(fused["dadd"], dy)
    assert torch.equal(run(x[0], weight, bias, add=lateral[0]), fused["y"][0])
    dense = lateral.is_contiguous(memory_format=torch.channels_last)
    assert fused["y"].is_contiguous(memory_format=torch.channels_last if dense else torch.contiguous_format)


def test_only_the_gradient_of_the_lateral_map() -> None:
    x, weight, _, dy = draw("paper", torch.float32)
    lateral = torch.randn_like(dy).requires_grad_()
    fused_upsample(x, weight, add=lateral).backward(dy)
    assert lateral.grad is not None and torch.equal(lateral.grad, dy)


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
def test_not_finite_values_reach_what_they_reach_in_the_definition(value: float, corner: bool, run: Implementation) -> None:
    """At a corner, where some of the taps lead outside: what they meet there is no number that nan could spoil."""
    x, weight, bias, dy = draw("paper", torch.float32, device=run.device)
    if corner:
        x[0, 3, 0, 15] = dy[0, 2, 31, 0] = value
    else:
        x[0, 3, 4, 5] = dy[0, 2, 7, 8] = value
    # Triton's products in float32 are made of several, so that there an infinity may come out as nan.
    compare_finite(evaluate(by(run), x, weight, bias, dy), tap_by_tap, x, weight, bias, dy, nan=run.backend != "triton")


@every_form
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", ["x", "weight", "bias", "add", "dy"])
def test_not_finite_values_in_every_argument(at: str, value: float, layout: str, form: str) -> None:
    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, weight, bias, add: function(x, weight, bias, add=add, groups=groups_of(form, x))

    for place in (0, -1):
        x, weight, bias, dy = draw("cityscapes", torch.float32, layout, form=form)
        tensors = {"x": x, "weight": weight, "bias": bias, "add": torch.randn_like(dy), "dy": dy}
        tensors[at][(place,) * tensors[at].dim()] = value
        compare_finite(evaluate(of(fused_upsample), *tensors.values()), of(tap_by_tap), *tensors.values())


@every_backend
@pytest.mark.parametrize("wanted", range(8))
def test_only_wanted_gradients(wanted: int, run: Implementation) -> None:
    x, weight, bias, dy = draw("paper", torch.float32, device=run.device)
    expected = evaluate(by(run), x, weight, bias, dy)
    if run.backend == "triton":
        found = torch.ops.gcn_kernels.triton_doubling_backward(dy, x, weight, wanted, 1, False)
    else:
        found = torch.ops.gcn_kernels.upsample_backward(dy, x, weight, wanted)
    for i, (name, gradient) in enumerate(zip(("dx", "dw", "db"), found, strict=True)):
        assert torch.equal(gradient, expected[name]) if wanted >> i & 1 else gradient.numel() == 0


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad: bool) -> None:
    x, weight, bias, dy = (t.requires_grad_(requires_grad) for t in draw("one-channel", torch.float32, "channels_last"))
    x2, weight2, bias2, dy2 = (t.requires_grad_(requires_grad) for t in draw("pixel", torch.float32, form="3x3-depthwise"))
    operators = torch.ops.gcn_kernels
    for operator, arguments in (
        (operators.upsample, (x, weight, bias, False)),
        (operators.upsample_backward, (dy, x, weight, 7)),
        (operators.doubling, (x, weight, bias, dy[..., 1:, :-1].clone(), None, None, 1, False)),
        (operators.doubling, (x2, weight2, bias2, None, 1, 2, 3, True)),
        (operators.doubling_backward, (dy2[..., 1:, :], x2, weight2, 7, 3)),
    ):
        result = torch.library.opcheck(operator, arguments)
        assert set(result.values()) == {"SUCCESS"}, result


def test_schemas() -> None:
    for name, schema in (DOUBLING.schemas | UPSAMPLE.schemas).items():
        assert str(getattr(torch.ops.gcn_kernels, name).default._schema) == schema


def test_derivatives_of_derivatives() -> None:
    x, weight, bias, _ = (t.requires_grad_() for t in draw("pixel", torch.float64))
    assert torch.autograd.gradcheck(fused_upsample, (x, weight, bias))
    assert torch.autograd.gradgradcheck(fused_upsample, (x, weight, bias))


@pytest.mark.parametrize("form", ["4x4", "2x2", "3x3-depthwise"])
def test_derivatives_of_derivatives_of_a_cropped_sum(form: str) -> None:
    x, weight, bias, dy = draw("pixel", torch.float64, form=form)
    lateral = dy[..., :1, :].clone()
    inputs = [t.requires_grad_() for t in (x, weight, bias, lateral)]
    groups = groups_of(form, x)

    def run(x: Tensor, weight: Tensor, bias: Tensor, add: Tensor) -> Tensor:
        return fused_upsample(x, weight, bias, add=add, groups=groups)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(lambda x, w: fused_upsample(x, w, size=(2, 1), groups=groups), inputs[:2])


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


def test_a_lateral_map_under_autocast_is_added_as_it_is() -> None:
    """Autocast changes no sum: one of a map in float32 and of what a convolution gives is in float32."""
    x, weight, _, dy = draw("paper", torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for lateral in (dy, dy.bfloat16()):
            y, apart = fused_upsample(x, weight, add=lateral), lateral + fused_upsample(x, weight)
            assert y.dtype == apart.dtype == lateral.dtype and torch.equal(y, apart)


def test_size_takes_the_first_rows_and_columns() -> None:
    x, weight, _, _ = draw("paper", torch.float32)
    assert torch.equal(fused_upsample(x, weight, size=(31, 30)), fused_upsample(x, weight)[:, :, :31, :30])
    with pytest.raises(ValueError, match="size: expected"):
        fused_upsample(x, weight, size=(33, 32))


@every_form
@pytest.mark.parametrize("size", [(17, 60), (18, 65), (1, 1)])
def test_what_is_cropped_has_no_part_in_the_gradients(size: tuple[int, int], form: str) -> None:
    arguments = draw("cityscapes", torch.float32, form=form)
    x, weight, bias, dy = arguments
    groups = groups_of(form, x)
    cropped = evaluate(lambda *t: fused_upsample(*t, groups=groups, size=size), x, weight, bias, dy[..., : size[0], : size[1]])
    rest = torch.zeros_like(dy)
    rest[..., : size[0], : size[1]] = dy[..., : size[0], : size[1]]
    whole = evaluate(by(Implementation("cpu"), groups), x, weight, bias, rest)
    assert cropped["y"].is_contiguous() and torch.equal(cropped["y"], whole["y"][..., : size[0], : size[1]])
    for name in ("dx", "dw", "db"):
        torch.testing.assert_close(cropped[name], whole[name], rtol=1e-6, atol=1e-5)


def test_compiled_in_one_graph(fresh_compiler: None) -> None:
    module, by_itself = FusedUpsample(5, 4), FusedUpsample(5, 5, kernel_size=2, groups=5)

    def run(x: Tensor, lateral: Tensor) -> Tensor:
        return module(x, add=lateral) + by_itself(x, lateral.shape[2:])[:, :4]

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 5, 6, 7), (1, 5, 9, 8)):
        x, lateral = torch.randn(size), torch.randn(size[0], 4, 2 * size[2] - 1, 2 * size[3], requires_grad=True)
        torch.testing.assert_close(compiled(x, lateral), run(x, lateral), rtol=0, atol=0)
        compiled(x, lateral).sum().backward()
        assert lateral.grad is not None
    assert module.weight.grad is not None and by_itself.weight.grad is not None


def test_exported_program_calls_the_operator() -> None:
    program = torch.export.export(FusedUpsample(5, 4).requires_grad_(False), (torch.randn(2, 5, 6, 7),))
    assert [str(n.target) for n in program.graph.nodes if n.op == "call_function"] == ["gcn_kernels.doubling.default"]


@pytest.mark.parametrize(
    ("error", "says", "change"),
    [
        (TypeError, "x: expected a torch.Tensor", {"x": 1}),
        (TypeError, "x: expected one of the dtypes", {"x": torch.ones(1, 3, 2, 2, dtype=torch.int32)}),
        (ValueError, "x: expected", {"x": torch.ones(2, 2)}),
        (ValueError, r"weight: expected \[3, O, k, k\] with k of 2, 3 or 4", {"weight": torch.ones(2, 4, 4, 4)}),
        (ValueError, r"weight: expected \[3, O, k, k\]", {"weight": torch.ones(3, 4, 5, 5)}),
        (ValueError, r"weight: expected \[3, O, k, k\]", {"weight": torch.ones(3, 4, 2, 3)}),
        (ValueError, r"weight: expected \[3, 1, k, k\]", {"groups": 3}),
        (ValueError, "groups: expected 1, or 3", {"groups": 2}),
        (ValueError, "groups: expected 1, or as many as x has channels, got 1.0", {"groups": 1.0}),
        (ValueError, "groups: expected 1, or as many as x has channels, got None", {"groups": None}),
        (ValueError, "size: expected two whole numbers .*got 4", {"size": 4}),
        (ValueError, "size: expected two whole numbers .*got '44'", {"size": "44"}),
        (ValueError, "size: expected two whole numbers .*got .4.0, 4.0.", {"size": (4.0, 4.0)}),
        (TypeError, "add: expected a torch.Tensor", {"add": 1}),
        (ValueError, r"add: expected \[1, 4, H', W'\]", {"add": torch.ones(1, 3, 4, 4)}),
        (ValueError, r"add: expected \[1, 4, H', W'\]", {"add": torch.ones(4, 4, 4)}),
        (ValueError, r"add: expected \[1, 4, H', W'\]", {"add": torch.ones(1, 4, 5, 4)}),
        (ValueError, r"add: expected a map of the size \(3, 4\)", {"add": torch.ones(1, 4, 4, 4), "size": (3, 4)}),
        (RuntimeError, "x and add should have the same dtype", {"add": torch.ones(1, 4, 4, 4, dtype=torch.float64)}),
        (ValueError, r"bias: expected shape \[4\]", {"bias": torch.ones(3)}),
        (RuntimeError, "same dtype", {"weight": torch.ones(3, 4, 4, 4, dtype=torch.float64)}),
        (ValueError, "backend: expected", {"backend": "none"}),
        (RuntimeError, "backend='cuda' cannot run: .*use backend='auto'", {"backend": "cuda"}),
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


@pytest.mark.parametrize("form", [form for form in FORMS if form != "4x4"])
def test_every_gpu_backend_takes_every_form(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "why_not", lambda backend, *_: "of the CPU" if backend == "cpu" else None)
    with FakeTensorMode():
        k, by_itself = FORMS[form]
        x, weight = torch.empty(1, 3, 2, 2, device="cuda"), torch.empty(3, 1 if by_itself else 4, k, k, device="cuda")
        groups = groups_of(form, x)
        chosen = {
            asked: functional._decide((x, weight, None, None), None, groups, asked, None).backend
            for asked in ("auto", "cuda", "triton")
        }
    assert chosen == {"auto": "torch", "cuda": "cuda", "triton": "triton"}


def test_kernels_that_no_gpu_has_shown_faster_run_on_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "why_not", lambda backend, *_: "of the CPU" if backend == "cpu" else None)
    with FakeTensorMode():
        x, weight = torch.empty(1, 3, 2, 2, device="cuda"), torch.empty(3, 4, 4, 4, device="cuda")
        chosen = {
            asked: functional._decide((x, weight, None, None), None, 1, asked, None).backend
            for asked in ("auto", "triton", "torch")
        }
    assert chosen == {"auto": "torch", "triton": "triton", "torch": "torch"}


def test_operator_refuses_what_the_python_side_would_not_send() -> None:
    x, weight, bias, dy = draw("pixel", torch.float32)
    integers = tuple(t.to(torch.int8) for t in (x, weight, bias))
    wrong = ((x[0], weight, bias), (x[:, 1:], weight, bias), (x, weight[:, :, 1:], bias), (x, weight, bias[1:]), integers)
    for arguments in wrong:
        with pytest.raises(RuntimeError, match=r"^(x|weight|bias): expected"):  # and no line of C++ before it
            torch.ops.gcn_kernels.upsample(*arguments, False)
    with pytest.raises(RuntimeError, match=r"^dy: expected"):
        torch.ops.gcn_kernels.upsample_backward(dy[:, 1:], x, weight, 7)
    larger, none = torch.ones(2, 2, 3, 2), (None, None)
    for rest in (
        (larger, *none, 1),
        (dy.half(), *none, 1),
        (dy[:, 1:], *none, 1),
        (dy, 1, None, 1),
        (None, 3, 2, 1),
        (None, -1, 2, 1),
        (None, *none, 3),
        (None, *none, 2),
    ):
        with pytest.raises(RuntimeError, match=r"^(add|height, width|groups|weight): expected"):
            torch.ops.gcn_kernels.doubling(x, weight, bias, *rest, False)
    with pytest.raises(RuntimeError, match=r"^dy: expected"):
        torch.ops.gcn_kernels.doubling_backward(larger, x, weight, 7, 1)


def test_graphs_of_earlier_versions_compute_the_same() -> None:
    x, weight, bias, dy = draw("cityscapes", torch.float32)
    assert torch.equal(torch.ops.gcn_kernels.upsample(x, weight, bias, False), fused_upsample(x, weight, bias))
    old, new = torch.ops.gcn_kernels.upsample_backward, torch.ops.gcn_kernels.doubling_backward
    for a, b in zip(old(dy, x, weight, 7), new(dy, x, weight, 7, 1), strict=True):
        assert torch.equal(a, b)


def test_module_is_a_transposed_convolution() -> None:
    torch.manual_seed(0)
    plain = nn.ConvTranspose2d(5, 4, 4, stride=2, padding=1)
    torch.manual_seed(0)
    module = FusedUpsample(5, 4, bias=True)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), module.state_dict().values(), strict=True))
    x = torch.randn(2, 5, 6, 7)
    torch.testing.assert_close(module(x), F.conv_transpose2d(x, module.weight, module.bias, stride=2, padding=1))
    with pytest.raises(ValueError, match="kernel_size: expected one of 2, 3, 4"):
        FusedUpsample(5, 4, kernel_size=5)
    with pytest.raises(ValueError, match="groups: expected 1, or as many"):
        FusedUpsample(5, 4, groups=5)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))
    assert module(x[0]).shape == (4, 12, 14)


@every_form
def test_modules_of_every_form(form: str) -> None:
    k, by_itself = FORMS[form]
    options = {"padding": int(k > 2), "output_padding": int(k == 3), "groups": 5 if by_itself else 1}
    plain = nn.ConvTranspose2d(5, 5, k, stride=2, **options)
    module = FusedUpsample(5, 5, kernel_size=k, groups=5 if by_itself else 1, bias=True)
    module.load_state_dict(plain.state_dict())
    x = torch.randn(2, 5, 6, 7)
    torch.testing.assert_close(module(x), plain(x), rtol=1e-5, atol=1e-5)
    lateral = torch.randn(2, 5, 11, 14)
    torch.testing.assert_close(module(x, add=lateral), lateral + plain(x)[:, :, :11], rtol=1e-5, atol=1e-5)
