"""What fused_strips is beside its values: registration, derivatives, compilers, layouts, determinism, special values, errors."""

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from cases import LAYOUTS, every_dtype, every_layout
from rule import check, evaluate, expect
from strips_cases import LSKA, MSCA, PAIR, STRIP_BLOCK, Case, Strips, column, make, pairs, row, square
from suites import in_suites
from torch import Tensor
from torch._subclasses import FakeTensorMode

from gcn_kernels import FusedStrips, backends, fused_strips, reference
from gcn_kernels.strips import functional, problem
from gcn_kernels.strips.spec import form_of

SMALL = Case("small", pairs(3, 5), square(3), skip=True, n=2, c=3, h=6, w=5)
NO_BIAS = replace(SMALL, name="no-bias", bias=False)


def operator_arguments(block: Strips, channels_last: bool = False) -> tuple[Any, ...]:
    case = block.case
    strips = problem.Strips(
        block.weights, block.biases, tuple(s[2] for s in case.steps), tuple(map(len, case.branches)), bool(case.stem), case.skip
    )
    biases = [b for b in block.biases if b is not None]
    return block.x, list(block.weights), biases, *form_of(strips), channels_last


# ---------------------------------------------------------------- registration


@every_layout
@pytest.mark.parametrize("case", in_suites([SMALL, NO_BIAS], everyday=lambda case: case is SMALL), ids=lambda case: case.name)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(case: Case, layout: str, requires_grad: bool) -> None:
    block = make(case, torch.float64).in_layout(layout)
    block = block.leaves() if requires_grad else block
    arguments = operator_arguments(block, layout == "channels_last")
    results = torch.library.opcheck(torch.ops.gcn_kernels.strips.default, arguments)
    assert set(results.values()) == {"SUCCESS"}, results
    x, weights, biases, *form, _ = arguments
    wanted = (1 << 1 + len(weights) + len(biases)) - 1 & ~0b10  # all but the first weight's
    backward = (block.dy, x, weights, biases, wanted, *form)
    results = torch.library.opcheck(torch.ops.gcn_kernels.strips_backward.default, backward)
    assert set(results.values()) == {"SUCCESS"}, results


def test_operator_refuses_what_the_python_side_would_not_send() -> None:
    x, weights, biases, lengths, dilations, biased, *flags = operator_arguments(make(SMALL))
    wrong = {
        "rank": (x[0], weights, biases, lengths, dilations, biased),
        "channels": (x[:, 1:], weights, biases, lengths, dilations, biased),
        "dtype": (x, [w.double() for w in weights], biases, lengths, dilations, biased),
        "even k": (x, [w[:, :, 1:] if w.shape[2] > 1 else w for w in weights], biases, lengths, dilations, biased),
        "integers": (x.to(torch.int8), [w.to(torch.int8) for w in weights], biases, lengths, dilations, biased),
        "huge lengths": (x, weights, biases, [2**63 - 1, 2**63 - 1], dilations, biased),
        "lengths": (x, weights, biases, [1], dilations, biased),
        "no steps": (x, weights, biases, [*lengths, 0], dilations, biased),
        "dilations": (x, weights, biases, lengths, dilations[1:], biased),
        "zero dilation": (x, weights, biases, lengths, [0] * len(dilations), biased),
        "biased": (x, weights, biases, lengths, dilations, [0] * len(biased)),
        "bias": (x, weights, biases[1:], lengths, dilations, biased),
    }
    for name, arguments in wrong.items():
        with pytest.raises(RuntimeError, match=r"expected"):
            torch.ops.gcn_kernels.strips.default(*arguments, *flags)
            pytest.fail(f"accepted wrong {name}")


# ---------------------------------------------------------------- derivatives


@pytest.mark.parametrize("case", [SMALL, NO_BIAS, replace(LSKA, n=1, c=2, h=7, w=6)], ids=lambda case: case.name)
def test_gradcheck_and_gradgradcheck(case: Case) -> None:
    block = make(case, torch.float64).leaves()
    names = list(block.named)

    def run(*present: Tensor) -> Tensor:
        given = dict(zip(names, present, strict=True))
        count = len(block.weights)
        order = ["x", *(f"w{i}" for i in range(count)), *(f"b{i}" for i in range(count))]
        return block.fused(*(given.get(name) for name in order))  # type: ignore[arg-type]

    tensors = tuple(block.named.values())
    assert torch.autograd.gradcheck(run, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, tensors, fast_mode=True)


def test_double_backward_is_that_of_the_definition() -> None:
    block = make(SMALL, torch.float64).leaves()
    found = []
    for run in (block.fused, block.definition):
        tensors = tuple(block.named.values())
        first = torch.autograd.grad(run(*block.arguments), tensors, block.dy, create_graph=True)
        loss = sum((g**2).sum() for g in first)
        found.append(torch.autograd.grad(loss, tensors, allow_unused=True))
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs)


def test_saves_x_and_the_parameters_only() -> None:
    block = make(MSCA).leaves()
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        block.fused(*block.arguments)
    last = {"b2", "b4", "b6"}
    assert sorted(saved) == sorted(t.data_ptr() for name, t in block.named.items() if name not in last)


def changed_between(name: str) -> tuple[Strips, Tensor]:
    """A block, and its result before the bias ``name`` was changed."""
    block = make(MSCA).map(torch.clone).leaves()
    y = block.fused(*block.arguments)
    with torch.no_grad():
        block.named[name].add_(1)
    return block, y


def test_biases_of_last_steps_may_change_before_the_backward_pass() -> None:
    """As with conv2d; the maps that are computed again depend on the other biases."""
    block = make(MSCA).leaves()
    expected = torch.autograd.grad(block.fused(*block.arguments), tuple(block.named.values()), block.dy)
    for name in ("b2", "b4", "b6"):
        block, y = changed_between(name)
        found = torch.autograd.grad(y, tuple(block.named.values()), block.dy)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)), name
    block, y = changed_between("b1")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y, block.x, block.dy)
    block, y = changed_between("b6")
    with pytest.raises(RuntimeError, match=r"(?s)modified by an inplace operation.*biases was changed.*create_graph"):
        torch.autograd.grad(y, block.x, block.dy, create_graph=True)


def test_vmap_and_forward_mode_go_through_the_definition() -> None:
    block = make(SMALL, torch.float64)
    stacked = torch.stack([block.x, 2 * block.x])
    parameters = (*block.weights, *block.biases)

    def run(x: Tensor) -> Tensor:
        strips = Strips(SMALL, x, block.weights, block.biases, block.dy)
        return type(strips.fused)(SMALL, "auto")(x, *parameters)

    torch.testing.assert_close(torch.vmap(run)(stacked)[1], block.definition(2 * block.x, *parameters))
    _, tangent = torch.func.jvp(run, (block.x,), (torch.ones_like(block.x),))
    _, expected = torch.func.jvp(lambda x: block.definition(x, *parameters), (block.x,), (torch.ones_like(block.x),))
    torch.testing.assert_close(tangent, expected)
    gradient = torch.func.grad(lambda x: run(x).sum())(block.x)
    torch.testing.assert_close(gradient, torch.func.grad(lambda x: block.definition(x, *parameters).sum())(block.x))


# ---------------------------------------------------------------- layouts and strides

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "channel-slice": lambda t: torch.cat([t, t + 9, t - 9], 1)[:, t.shape[1] : 2 * t.shape[1]].sub_(9),
    "crop": lambda t: torch.nn.functional.pad(t, (1, 2, 3, 4))[:, :, 3:-4, 1:-2],
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "batch-last": lambda t: t.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "every-other": lambda t: t.repeat_interleave(2, 3)[..., ::2],
    "flipped-memory": lambda t: t.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
}


@pytest.mark.parametrize("view", VIEWS)
@every_layout
@pytest.mark.parametrize("case", [replace(MSCA, c=32), replace(PAIR, c=19)], ids=["c32", "c19"])
def test_strides_change_nothing(case: Case, layout: str, view: str) -> None:
    block = make(case).in_layout(layout)
    expected = evaluate(block.fused, block)
    strided = block.with_maps(VIEWS[view])
    torch.testing.assert_close(strided.x, block.x, rtol=0, atol=1e-5)
    strided = replace(strided, x=strided.x.copy_(block.x), dy=strided.dy.copy_(block.dy))
    found = evaluate(strided.fused, strided)
    for name, t in found.items():
        assert torch.equal(t, expected[name]), name


def test_expanded_and_strided_parameters() -> None:
    block = make(PAIR)
    strided = replace(
        block,
        weights=tuple(torch.stack([w, w], -1)[..., 0] for w in block.weights),
        biases=tuple(torch.stack([b, b], -1)[..., 0] for b in block.biases if b is not None),
        dy=torch.ones(()).expand_as(block.dy),
    )
    assert not strided.weights[0].is_contiguous()
    check(evaluate(block.fused, strided), expect(strided))


@every_layout
@every_dtype
def test_layout_of_the_results_follows_x(layout: str, dtype: torch.dtype) -> None:
    block = make(MSCA, dtype).in_layout(layout).leaves()
    y = block.fused(*block.arguments)
    (dx,) = torch.autograd.grad(y, block.x, block.dy)
    assert y.dtype == dx.dtype == dtype
    assert y.is_contiguous(memory_format=LAYOUTS[layout])
    assert dx.stride() == block.x.stride()


def test_unbatched_and_empty() -> None:
    block = make(SMALL)
    parameters = (*block.weights, *block.biases)
    assert torch.equal(block.fused(block.x[0], *parameters), block.fused(block.x, *parameters)[0])
    empty = make(replace(SMALL, n=0)).leaves()
    grads = torch.autograd.grad(empty.fused(*empty.arguments), tuple(empty.named.values()), empty.dy)
    assert all(g.shape == t.shape and not g.any() for g, t in zip(grads, empty.named.values(), strict=True))


# ---------------------------------------------------------------- determinism and special values


@every_layout
@pytest.mark.parametrize("case", [MSCA, STRIP_BLOCK, LSKA, Case("tall", pairs(7, 21), n=1, h=150)], ids=lambda case: case.name)
def test_same_bits_for_any_number_of_threads(case: Case, layout: str) -> None:
    block = make(case).in_layout(layout)
    torch.set_num_threads(1)
    expected = evaluate(block.fused, block)
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        for name, t in evaluate(block.fused, block).items():
            assert torch.equal(t, expected[name]), (threads, name)


@every_layout
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("case", [MSCA, STRIP_BLOCK, LSKA, replace(PAIR, h=20, w=37)], ids=lambda case: case.name)
def test_non_finite_values_reach_what_they_should_and_no_more(case: Case, value: float, layout: str) -> None:
    """Where values of x can be seen from is where indicators, convolved with kernels of ones, are above zero."""
    block = make(case).in_layout(layout)
    for where in ((0, 0, 0, 0), (0, 2, case.h - 1, case.w - 1), (1, case.c - 1, case.h // 2, 3)):
        x, seen = block.x.clone(memory_format=torch.preserve_format), torch.zeros_like(block.x)
        x[where], seen[where] = value, 1
        found = evaluate(block.fused, replace(block, x=x))
        ones = replace(block, x=seen, weights=tuple(map(torch.ones_like, block.weights)), dy=torch.ones_like(block.dy))
        ones = replace(ones, biases=tuple(None if b is None else torch.zeros_like(b) for b in block.biases))
        reached = evaluate(block.definition, ones.to(torch.float64))
        for name, t in found.items():
            if name == "y" or name.startswith("w"):
                assert torch.equal(~t.isfinite(), reached[name] > 1e-9), (name, where)
            else:
                assert t.isfinite().all(), (name, where)


def test_large_results_are_those_of_the_definition() -> None:
    """Those whose memory is made ready before they are written."""
    block = make(replace(PAIR, name="large", n=1, c=16, h=161, w=163))
    expected = expect(block)
    for layout in LAYOUTS:
        check(evaluate(block.fused, block.in_layout(layout)), expected)


@every_layout
def test_nan_in_the_output_gradient(layout: str) -> None:
    block = make(MSCA).in_layout(layout)
    dy, seen = block.dy.clone(memory_format=torch.preserve_format), torch.zeros_like(block.dy)
    dy[1, 3, 5, 20], seen[1, 3, 5, 20] = math.nan, 1
    found = evaluate(block.fused, replace(block, dy=dy))
    ones = replace(block.map(torch.ones_like), dy=seen)
    reached = evaluate(block.definition, ones.to(torch.float64))
    for name in ("x", *(f"b{i}" for i in range(len(block.biases)))):
        assert torch.equal(found[name].isnan(), reached[name] > 1e-9), name
    for name in (f"w{i}" for i in range(len(block.weights))):
        assert not found[name].isnan()[[c for c in range(block.case.c) if c != 3]].any(), name


def test_kernels_that_have_run_on_no_gpu_run_on_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "why_not", lambda backend, *_: "of the CPU" if backend == "cpu" else None)
    monkeypatch.setattr(functional._how, "known", {})
    runs: list[str] = []
    monkeypatch.setattr(functional.reference, "strips", lambda x, *_, **__: runs.append("torch") or x)
    monkeypatch.setattr(functional, "CUDA_STRIPS", lambda tensors, _: runs.append("cuda") or tensors[0])
    monkeypatch.setattr(functional, "TRITON_STRIPS", lambda tensors, _: runs.append("triton") or tensors[0])
    with FakeTensorMode():
        x, weight = torch.empty(1, 3, 5, 5, device="cuda"), torch.empty(3, 1, 1, 3, device="cuda")
        for backend in ("auto", "cuda", "triton", "torch"):
            fused_strips(x, [[(weight, None)]], backend=backend)
    assert runs == ["torch", "cuda", "triton", "torch"]


def test_tf32_on_a_gpu_is_pytorchs_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "why_not", lambda *_: None)
    monkeypatch.setattr(functional._how, "known", {})
    with FakeTensorMode():
        x, weight = torch.empty(1, 3, 5, 5, device="cuda"), torch.empty(3, 1, 1, 3, device="cuda")
        for allowed in (True, False):
            told: list[object] = []
            monkeypatch.setattr(functional, "CUDA_STRIPS", lambda tensors, options, told=told: told.extend(options) or tensors[0])
            monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
            fused_strips(x, [[(weight, None)]], backend="cuda")
            assert told[-1] is allowed


# ---------------------------------------------------------------- autocast, compilers, export


def test_autocast_computes_in_its_dtype() -> None:
    block = make(MSCA).leaves()
    with torch.autocast("cpu", torch.bfloat16):
        y = block.fused(*block.arguments)
    assert y.dtype == torch.bfloat16
    rounded = make(MSCA).to(torch.bfloat16)
    assert torch.equal(y, rounded.fused(*rounded.arguments))
    gradients = torch.autograd.grad(y, tuple(block.named.values()), block.dy.to(torch.bfloat16))
    assert {g.dtype for g in gradients} == {torch.float32}


# ---------------------------------------------------------------- module


def test_module_is_the_block_written_by_hand() -> None:
    torch.manual_seed(1)
    module = FusedStrips(12, [[(1, 7), (7, 1)], [(1, 5, (1, 3)), (5, 1, (3, 1))]], stem=(5, 5), skip=True)
    keys = {"stem", *(f"branches.{b}.{i}" for b in range(2) for i in range(2))}
    assert set(module.state_dict()) == {f"{key}.{kind}" for key in keys for kind in ("weight", "bias")}
    x = torch.randn(2, 12, 14, 15)
    assert module.stem is not None
    a = module.stem(x)
    y = a + sum(branch[1](branch[0](a)) for branch in module.branches)  # type: ignore[index, operator]
    torch.testing.assert_close(module(x), y)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), module(x))


def test_from_convs_shares_the_convolutions() -> None:
    convs = [torch.nn.Conv2d(6, 6, (1, 5), padding=(0, 2), groups=6), torch.nn.Conv2d(6, 6, 3, padding="same", groups=6)]
    module = FusedStrips.from_convs([[convs[0]]], convs[1], True).eval()
    assert module.branches[0][0] is convs[0] and module.stem is convs[1]  # type: ignore[index]
    x = torch.randn(1, 6, 7, 8)
    torch.testing.assert_close(module(x), convs[1](x) + convs[0](convs[1](x)))


DENSE = torch.nn.Conv2d(6, 6, 3, padding=1)
WRONG_CONVS = {
    "dense": DENSE,
    "stride": torch.nn.Conv2d(6, 6, 3, padding=1, groups=6, stride=2),
    "valid": torch.nn.Conv2d(6, 6, 3, groups=6),
    "even": torch.nn.Conv2d(6, 6, 4, padding="same", groups=6),
    "reflected": torch.nn.Conv2d(6, 6, 3, padding=1, groups=6, padding_mode="reflect"),
    "multiplied": torch.nn.Conv2d(6, 12, 3, padding=1, groups=6),
}


@pytest.mark.parametrize("name", WRONG_CONVS)
def test_from_convs_refuses(name: str) -> None:
    with pytest.raises(ValueError, match=r"branches\[0\]\[0\]: expected a depthwise Conv2d"):
        FusedStrips.from_convs([[WRONG_CONVS[name]]])


def test_module_arguments_are_checked() -> None:
    good = torch.nn.Conv2d(6, 6, 3, padding=1, groups=6)
    for message, build in {
        "channels": lambda: FusedStrips(0, [[3]]),
        "branches": lambda: FusedStrips(4, []),
        "odd k": lambda: FusedStrips(4, [[(2, 1)]]),
        "dilation from 1 to": lambda: FusedStrips(4, [[(3, 1, 0)]]),
        "expected one of auto": lambda: FusedStrips(4, [[3]], backend="gpu"),
        "expected 6 channels": lambda: FusedStrips.from_convs([[good, torch.nn.Conv2d(4, 4, 3, padding=1, groups=4)]]),
    }.items():
        with pytest.raises(ValueError, match=message):
            build()
    with pytest.raises(TypeError, match=r"nn\.Conv2d with its own forward"):
        FusedStrips.from_convs([[torch.nn.Linear(3, 3)]])  # type: ignore[list-item]


# ---------------------------------------------------------------- errors


def step(kh: int = 3, kw: int = 1, c: int = 4, **options: Any) -> tuple[Tensor, None]:
    return torch.zeros(c, 1, kh, kw, **options), None


class Subclass(Tensor):
    """A tensor of which nobody knows what its operations do."""


X = torch.zeros(1, 4, 5, 5)
ERRORS: dict[str, tuple[type[Exception], str, Callable[[], object]]] = {
    "rank": (ValueError, r"expected \[N, C, H, W\]", lambda: fused_strips(X[0, 0], [[step()]])),
    "no pixels": (ValueError, "at least 1", lambda: fused_strips(X[..., :0], [[step()]])),
    "no branches": (ValueError, "at least one branch", lambda: fused_strips(X, [])),
    "empty branch": (ValueError, "at least one step", lambda: fused_strips(X, [[step()], []])),
    "channels": (ValueError, r"branches\[0\]\[1\] weight: expected \[4, 1", lambda: fused_strips(X, [[step(), step(c=5)]])),
    "even": (ValueError, "odd kh and kw", lambda: fused_strips(X, [[step(2)]])),
    "bias": (ValueError, "stem bias: expected shape", lambda: fused_strips(X, [[step()]], stem=(step()[0], torch.ones(3)))),
    "dilation": (ValueError, "dilation from 1 to", lambda: fused_strips(X, [[(*step(), 0)]])),
    "large dilation": (ValueError, r"stem: expected a dil", lambda: fused_strips(X, [[step()]], stem=(*step(), 2**31 + 1))),
    "huge dilation": (ValueError, r"dilation .* got \(1, 1180", lambda: fused_strips(X, [[(*step(), (1, 2**70))]])),
    "fraction": (ValueError, "dilation .* got 1.5", lambda: fused_strips(X, [[(*step(), 1.5)]])),  # type: ignore[list-item]
    "backend": (ValueError, "expected one of", lambda: fused_strips(X, [[step()]], backend="gpu")),
    "no tuple": (TypeError, "expected \\(weight, bias\\)", lambda: fused_strips(X, [[step()[0]]])),  # type: ignore[list-item]
    "no tensor": (TypeError, "expected a torch.Tensor", lambda: fused_strips(X, [[(None, None)]])),  # type: ignore[list-item]
    "integers": (TypeError, "dtypes", lambda: fused_strips(X.int(), [[step()]])),
    "mixed": (RuntimeError, "same dtype", lambda: fused_strips(X, [[step(dtype=torch.float64)]])),
    "devices": (RuntimeError, "same device", lambda: fused_strips(X, [[step(device="meta")]])),
    "cuda": (RuntimeError, "backend='cuda' cannot run: ", lambda: fused_strips(X, [[step()]], backend="cuda")),
    "triton": (RuntimeError, "'triton' cannot run: the tensors are on", lambda: fused_strips(X, [[step()]], backend="triton")),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error(name: str) -> None:
    kind, message, call = ERRORS[name]
    with pytest.raises(kind, match=message):
        call()


def test_checks_in_python_name_what_the_kernels_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain tensors of the CPU go to the kernels, which check; another kind of call is checked once for its form."""
    made: list[int] = []
    check_ = problem.check
    monkeypatch.setattr(problem, "check", lambda *given: made.append(1) or check_(*given))
    monkeypatch.setattr(functional._how, "known", {})
    wrapped = torch.zeros(4, 1, 3, 1).as_subclass(Subclass)
    straight: list[Callable[[], object]] = [
        lambda: fused_strips(X, [[step()]]),
        lambda: fused_strips(X, [[step()]], skip=True),
        lambda: fused_strips(X, [[step(1, 3)]]),
        lambda: fused_strips(X, [[(*step(), 2)]]),
        lambda: fused_strips(X, [[step(), step()]]),
        lambda: fused_strips(X, [[step()], [step()]]),
        lambda: fused_strips(X, [[step()]], stem=step()),
        lambda: fused_strips(X, [[(step()[0], torch.zeros(4))]]),
        lambda: fused_strips(X.to(memory_format=torch.channels_last), [[step()]], backend="cpu"),
        lambda: fused_strips(X.requires_grad_(), ([(step()[0], torch.nn.Parameter(torch.zeros(4)), (1, 2))],)),
    ]
    for run in straight:
        run()
    assert not made
    X.requires_grad_(False)
    others: list[Callable[[], object]] = [
        lambda: fused_strips(X, [[step()]], backend="torch"),
        lambda: fused_strips(X[0], [[step()]]),
        lambda: fused_strips(X, [[(wrapped, None)]]),
        lambda: torch.func.vmap(lambda x: fused_strips(x, [[step()]]))(torch.stack([X, X])),
        lambda: fused_strips(X, [[[*step(1, 3), (1, 1)]]]),  # type: ignore[list-item]
    ]
    for count, run in enumerate(others, 1):
        for _ in range(2):
            run()
            assert len(made) == count
    for name in ("mixed", "channels", "bias", "devices"):  # what is refused is refused again
        for _ in range(2):
            test_error(name)
    with FakeTensorMode(), pytest.raises(ValueError, match=r"expected \[4, 1"):  # whose operators would make do with any sizes
        fused_strips(torch.empty(1, 4, 5, 5), [[(torch.empty(3, 1, 3, 3), None)]])
    with torch.autocast("cpu", torch.bfloat16):
        assert fused_strips(X, [[step()]]).dtype == torch.bfloat16


def test_sizes_of_numpy() -> None:
    one, three = np.int64(1), np.int64(3)
    module = FusedStrips(4, [[(one, three, three)]], stem=three)
    assert module.branches[0][0].kernel_size == (1, 3) and module.branches[0][0].dilation == (3, 3)  # type: ignore[index]
    weight = torch.randn(4, 1, 1, 3)
    x = torch.randn(1, 4, 5, 9)
    assert torch.equal(fused_strips(x, [[(weight, None, (one, three))]]), fused_strips(x, [[(weight, None, (1, 3))]]))


def test_torch_backend_is_the_definition() -> None:
    block = make(MSCA)
    y = type(block.fused)(MSCA, "torch")(*block.arguments)  # type: ignore[arg-type]
    assert torch.equal(y, block.definition(*block.arguments))  # type: ignore[arg-type]
    step_ = (torch.ones(4, 1, 1, 3), None)
    torch.testing.assert_close(fused_strips(X + 1, [[step_]]), reference.strips(X + 1, [[step_]]))
    torch.testing.assert_close(
        fused_strips(X + 1, [[row_step(row(3)), row_step(column(3, 2))]]),
        reference.strips(X + 1, [[row_step(row(3)), row_step(column(3, 2))]]),
    )


def row_step(size: tuple[int, int, tuple[int, int]]) -> tuple[Tensor, None, tuple[int, int]]:
    return torch.ones(4, 1, *size[:2]), None, size[2]
