"""Depthwise convolutions that stand alone are swapped themselves, and go on being what they are, whatever is done to them."""

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import BlockA, randomise
from strips_families import C, MetaNeXt, Mlp, dw
from swap_checks import assert_equal, compiled_operators, fused_in_graphs, outcome
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import gcn_kernels.swap.direct as direct
import gcn_kernels.swap.gain as gain
import gcn_kernels.swap.rules as rules
import gcn_kernels.swap.trial as trial
from gcn_kernels import convert_gcn, convert_model, revert_gcn
from gcn_kernels.swap.report import StripsForm

X = torch.randn(2, C, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Norm(nn.Module):
    """A depthwise convolution between layers that are nothing to join, as ConvNeXt, MobileNet and others have it."""

    def __init__(self, conv: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.norm = conv or dw(C, 5, 5), nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.conv(torch.tanh(x))))


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The maps of the operator's calls."""
    calls: list[Tensor] = []
    operator = rules.fused_strips

    def counting(x: Tensor, branches: Any, **options: Any) -> Tensor:
        calls.append(x)
        return operator(x, branches, **options)

    monkeypatch.setattr(rules, "fused_strips", counting)
    return calls


def pair(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    torch.manual_seed(0)
    plain = randomise(make()).to(dtype)
    model = copy.deepcopy(plain)
    assert convert_model(model, force=True).swapped
    return plain, model


def test_the_convolution_is_swapped_and_nothing_else(fused: list[Tensor]) -> None:
    plain, model = pair(Norm)
    assert [type(m).__name__ for m in model.modules()] == ["Norm", "FusedConv2d", "BatchNorm2d"]
    assert isinstance(model.conv, nn.Conv2d) and list(model.state_dict()) == list(plain.state_dict())
    for training in (True, False):
        plain.train(training), model.train(training)
        fused.clear()
        assert_equal(outcome(model, X), outcome(plain, X))
        assert len(fused) == 1
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        fused.clear()
        assert_equal(outcome(other, X), outcome(plain, X))
        assert len(fused) == 1
    assert revert_gcn(model) == ["conv"] and type(model.conv) is nn.Conv2d


def spectral(m: Any) -> None:
    """Its weight is another one each time it is read in training: it may be read once."""
    torch.manual_seed(5)
    parametrizations.spectral_norm(m.conv)


def hooked(m: Any) -> None:
    m.conv.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    m.conv.register_forward_hook(lambda module, inputs, output: output.mul_(3))


def pruned(m: Any) -> None:
    torch.manual_seed(5)
    prune.random_unstructured(m.conv, "weight", 0.5)


#: What is done to a model after the swap, and whether the operator goes on computing it.
CHANGES: dict[str, tuple[Callable[[Any], object], bool]] = {
    "hooks": (hooked, True),
    "weight norm": (lambda m: parametrizations.weight_norm(m.conv), True),
    "spectral norm": (spectral, True),
    "pruning": (pruned, True),
    "another weight": (lambda m: m.conv.weight.data.neg_(), True),
    "no bias": (lambda m: setattr(m.conv, "bias", None), True),
    "a longer kernel": (lambda m: setattr(m.conv, "weight", nn.Parameter(m.conv.weight.repeat(1, 1, 1, 3)[..., :13])), False),
    "stride": (lambda m: setattr(m.conv, "stride", (2, 1)), False),
    "padding": (lambda m: setattr(m.conv, "padding", (0, 1)), False),
    "dilation": (lambda m: (setattr(m.conv, "dilation", (2, 2)), setattr(m.conv, "padding", "same")), True),
    "another kind of padding": (
        lambda m: (
            setattr(m.conv, "padding_mode", "circular"),
            setattr(m.conv, "_reversed_padding_repeated_twice", [2, 2, 2, 2]),
        ),
        False,
    ),
    "groups": (
        lambda m: (setattr(m.conv, "groups", 1), setattr(m.conv, "weight", nn.Parameter(torch.ones(C, C, 5, 5).double()))),
        False,
    ),
    "a method of its own": (lambda m: setattr(m.conv, "_conv_forward", lambda x, w, b: x * w.sum() + b.sum()), False),
    "a forward of its own": (lambda m: setattr(m.conv, "forward", lambda x: x * 2), False),
    "another module": (lambda m: setattr(m, "conv", nn.Identity()), False),
    "single precision": (lambda m: m.float(), False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_done_to_it_counts(change: str, fused: list[Tensor]) -> None:
    plain, model = pair(Norm)
    for m in (plain, model):
        CHANGES[change][0](m)
    for training in (True, True, False):
        plain.train(training), model.train(training)
        fused.clear()
        assert_equal(outcome(model, X), outcome(plain, X))
        assert len(fused) == CHANGES[change][1]


@pytest.mark.parametrize("what", ["F.conv2d", "_conv_forward", "forward"])
def test_what_is_put_in_the_place_of_functions_runs(what: str, fused: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, model = pair(Norm)
    conv2d = F.conv2d
    if what == "F.conv2d":
        monkeypatch.setattr(F, "conv2d", lambda *a, **k: conv2d(*a, **k) * 2)
    elif what == "_conv_forward":
        monkeypatch.setattr(nn.Conv2d, "_conv_forward", lambda self, x, w, b: conv2d(x, w, b, 1, 2, 1, C) + 1)
    else:
        monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: self._conv_forward(x, self.weight * 2, self.bias))
    fused.clear()
    assert_equal(outcome(model, X), outcome(plain, X))
    assert len(fused) == (what == "forward")


@pytest.mark.parametrize("x", [X[0], X[:0], X[:, :3], X[..., :0], X.float(), X.transpose(2, 3), X.half()])
def test_any_input_gives_what_it_gave(x: Tensor) -> None:
    plain, model = pair(lambda: nn.Sequential(dw(C, 3, 5)))
    assert_equal(outcome(model, x), outcome(plain, x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit.script
def test_transforms_modes_and_traces() -> None:
    plain, model = pair(Norm)
    plain.eval(), model.eval()
    y = plain(X)
    assert copy.deepcopy(model).to("meta")(X.to("meta")).shape == y.shape
    torch.testing.assert_close(torch.func.vmap(model)(X[:, None])[:, 0], torch.func.vmap(plain)(X[:, None])[:, 0])
    for f in (model, plain):
        _, tangent = torch.func.jvp(f, (X,), (torch.ones_like(X),))
        torch.testing.assert_close(tangent, torch.func.jvp(plain, (X,), (torch.ones_like(X),))[1])
    torch.testing.assert_close(torch.jit.script(model)(X), y)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(X), y)
    exported = torch.export.export(model, (X,))
    assert "gcn_kernels" not in str(exported.graph)
    torch.testing.assert_close(exported.module()(X), y)
    with torch.device("cpu"):
        torch.testing.assert_close(model(X), y)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = model.float()(X.float()), plain.float()(X.float())
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=0.05, atol=0.05 * float(theirs.abs().max()))


@fused_in_graphs
def test_under_compile_the_operator_is_traced() -> None:
    plain, model = pair(Norm)
    _, operators = compiled_operators(model.eval(), X)
    assert [name for name in operators if "strips" in name] == ["gcn_kernels.strips.default"]
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(X), plain.eval()(X))


def test_inside_of_another_converted_module_it_is_a_part_of_what_that_computes(fused: list[Tensor]) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.inner = BlockA(C, C), Norm()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.block(x)) + self.inner(x)

    plain, model = pair(Outer)
    plain.eval(), model.eval()
    fused.clear()
    assert_equal(outcome(model, X), outcome(plain, X))
    assert len(fused) == 2


class Functional(Norm):
    """Its convolution is only a place for parameters: nobody calls it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(F.conv2d(torch.tanh(x), self.conv.weight, self.conv.bias, padding=2, groups=C))


class OwnForward(nn.Conv2d):
    """A convolution with another forward."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * 2, self.bias, 1, 2, 1, self.groups)


@pytest.mark.parametrize(
    "make",
    [Functional, lambda: Norm(OwnForward(C, C, 5, padding=2, groups=C)), lambda: Norm(parametrizations.weight_norm(dw(C, 5, 5)))],
    ids=["not called", "another forward", "parametrized before"],
)
def test_where_the_convolution_cannot_be_swapped_what_calls_it_is(make: Callable[[], nn.Module], fused: list[Tensor]) -> None:
    plain, model = pair(make)
    assert revert_gcn(copy.deepcopy(model)) == [""]
    fused.clear()
    assert_equal(outcome(model, X), outcome(plain, X))
    assert len(fused) == 1


def test_one_entry_for_each_convolution() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.strided, self.never = dw(C, 3, 3), dw(C, 3, 3, stride=2), dw(C, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.strided(torch.tanh(self.first(torch.tanh(self.first(x))))))

    report = convert_model(nn.Sequential(Two()), force=True)
    assert [(e.place, e.swapped) for e in report.entries] == [("0.first", True), ("0.strided", False), ("0.never", False)]
    first, strided, never = report.entries
    assert first.reason == "2 calls in a forward" and first.sizes == f"{C}: 3x3"
    assert "it has kernel (3, 3), stride (2, 2)" in strided.reason and "no forward computes it" in never.reason


def test_converting_again_changes_nothing() -> None:
    _, model = pair(Norm)
    classes = [type(m) for m in model.modules()]
    for change in (lambda: None, lambda: parametrizations.weight_norm(model.conv)):
        change()
        (entry,) = convert_model(model, force=True).entries
        assert (entry.place, entry.swapped, entry.reason) == ("conv", False, "it already runs fused")
        assert [type(m) for m in model.modules()][:1] == classes[:1]
    assert revert_gcn(Norm()) == []


def test_beside_a_block_that_was_converted_before(fused: list[Tensor]) -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.block = dw(C, 5, 5), BlockA(C, C)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.block(x)).tanh()

    torch.manual_seed(0)
    plain = randomise(Beside()).double()
    model = copy.deepcopy(plain)
    assert [e.place for e in convert_gcn(model, force=True).swapped] == ["block"]
    assert [e.place for e in convert_model(model, force=True).swapped] == ["conv"]
    fused.clear()
    assert_equal(outcome(model, X), outcome(plain, X))
    assert len(fused) == 1


def test_a_block_around_it_is_watched_once(fused: list[Tensor], watched: list[int]) -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = dw(C, 5, 5)
            self.l1, self.l2 = nn.Conv2d(C, 3, (5, 1), padding=(2, 0)), nn.Conv2d(3, C, (1, 5), padding=(0, 2))
            self.r1, self.r2 = nn.Conv2d(C, 3, (1, 5), padding=(0, 2)), nn.Conv2d(3, C, (5, 1), padding=(2, 0))

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x.tanh())
            return self.l2(self.l1(y)) + self.r2(self.r1(y))

    plain, model = pair(Around)
    assert [type(m).__name__ for m in (model, model.conv)] == ["FusedAround", "FusedConv2d"]
    for x in (X, X[..., :5], X):
        fused.clear()
        torch.testing.assert_close(model(x), plain(x))
        assert len(fused) == 1
    assert len(watched) == 1


class Final(type(nn.Conv2d)):  # type: ignore[misc]
    """A class of which there may be no subclass."""

    def __new__(cls, name: str, bases: Any, body: Any) -> Any:
        if any(isinstance(base, cls) for base in bases):
            raise TypeError("no subclasses")
        return super().__new__(cls, name, bases, body)


class FinalConv(nn.Conv2d, metaclass=Final):
    """A convolution of such a class."""


def test_a_class_without_subclasses_and_what_may_not_be_read(fused: list[Tensor]) -> None:
    plain, model = pair(lambda: Norm(FinalConv(C, C, 5, padding=2, groups=C)))
    assert revert_gcn(copy.deepcopy(model)) == [""]
    fused.clear()
    assert_equal(outcome(model, X), outcome(plain, X))
    assert len(fused) == 1
    spectral_norm = Norm(parametrizations.spectral_norm(dw(C, 5, 5))).train()
    before = {name: t.clone() for name, t in spectral_norm.state_dict().items()}
    convert_model(spectral_norm, force=True)
    assert all(torch.equal(t, before[name]) for name, t in spectral_norm.state_dict().items())


def test_one_left_out_leaves_the_other_in() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = dw(C, 3, 3), nn.Conv2d(C, C, 5, padding=2, dilation=(1,), groups=C)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).tanh())

    assert [e.place for e in convert_model(nn.Sequential(Two()), force=True, exclude=["0.second"]).entries] == ["0.first"]
    report = convert_model(Two(), force=True)
    assert [(e.place, e.swapped) for e in report.entries] == [("first", True), ("second", False)]


def test_weights_in_channels_last_give_the_result_their_layout(fused: list[Tensor]) -> None:
    plain, model = pair(Norm)
    for m in (plain, model):
        m.to(memory_format=torch.channels_last)
    assert model.conv(X).stride() == plain.conv(X).stride()


def test_a_hook_inside_of_a_watched_module_sees_a_tensor() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.row, self.column, self.inner = dw(C, 1, 5), dw(C, 5, 1), Norm()

        def forward(self, x: Tensor) -> Tensor:
            return self.column(self.row(self.inner(x)))

    _, model = pair(Outer, torch.float32)
    seen: list[type] = []
    model.inner.conv.register_forward_hook(lambda module, inputs, output: seen.append(type(output)))
    with torch.no_grad():
        model(X.float().contiguous(memory_format=torch.channels_last))
    assert seen == [Tensor]


#: Times of PyTorch on a map of so many rows, of which the operator takes 1: by the way.
Times = dict[tuple[str, int], float]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Times]:
    """Nothing is timed."""
    times: Times = {}

    def turns(form: Any, side: int, layout: torch.memory_format, training: bool, *how: Any) -> list[tuple[float, float]]:
        way = "training" if training else "inference"
        return [(times.get((f"{way}, channels_last" if layout is torch.channels_last else way, side), 2.0), 1.0)]

    monkeypatch.setattr(gain, "_alone_turns", turns)
    gain.alone_gain.cache_clear()
    yield times
    gain.alone_gain.cache_clear()


def test_small_maps_are_left_to_pytorch_where_it_is_faster(timed: Times, fused: list[Tensor]) -> None:
    timed.update({("inference", 7): 0.5, ("inference", 14): 1.4, ("training", 28): 1.0, ("training, channels_last", 56): 1.0})
    model = nn.Sequential(dw(C, 5, 5))
    (entry,) = convert_model(model).swapped
    assert entry.gain == (2.0, None, (2.0, 2.0))
    for shape, training, layout, runs in (
        ((1, C, 28, 28), False, torch.contiguous_format, True),
        ((2, C, 14, 28), False, torch.contiguous_format, True),
        ((1, C, 14, 28), False, torch.contiguous_format, False),
        ((1, C, 28, 28), False, torch.channels_last, False),
        ((1, C, 55, 56), True, torch.contiguous_format, False),
        ((1, C, 56, 56), True, torch.contiguous_format, True),
        ((4, C, 56, 56), True, torch.channels_last, False),
    ):
        x = torch.zeros(shape).contiguous(memory_format=layout)
        for autocast in (False, True):  # whose 16 bits were not timed
            fused.clear()
            with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                model(x)
            assert bool(fused) == (runs or autocast)
    assert pickle.loads(pickle.dumps(model))[0]._gcn_how == model[0]._gcn_how


def test_maps_smaller_than_any_that_was_timed_are_left_to_pytorch(timed: Times, fused: list[Tensor]) -> None:
    model = nn.Sequential(dw(C, 5, 5))
    assert convert_model(model).swapped
    for height, training, layout in (
        (6, False, torch.contiguous_format),
        (6, True, torch.contiguous_format),
        (6, True, torch.channels_last),
        (7, False, torch.contiguous_format),
        (7, True, torch.contiguous_format),
        (7, True, torch.channels_last),
    ):
        fused.clear()
        with torch.set_grad_enabled(training):
            model(torch.zeros(1, C, height, 7).contiguous(memory_format=layout))
        assert bool(fused) == (height == 7)


@pytest.mark.parametrize(
    "saved, swapped",
    [((90e-6, 190e-6), False), ((110e-6, 190e-6), True), ((90e-6, 210e-6), True)],
    ids=["none", "inference", "training"],
)
def test_a_gain_that_a_call_in_a_model_would_lose_is_none(
    saved: tuple[float, float], swapped: bool, monkeypatch: pytest.MonkeyPatch, timed: Times
) -> None:
    """The operator takes 10 us, of which a ratio alone would make a gain of ten or twenty."""
    inference, training = (s + 10e-6 * times for s, times in zip(saved, (1.5, 1.2), strict=True))
    monkeypatch.setattr(gain, "_alone_turns", lambda _, side, layout, trains, *how: [(training if trains else inference, 10e-6)])
    report = convert_model(nn.Sequential(dw(C, 5, 5)))
    assert bool(report.swapped) == swapped and report.entries


def test_a_backend_that_was_asked_for_runs_on_every_map(timed: Times, fused: list[Tensor]) -> None:
    timed.update({("inference", 14): 1.0, ("training", 14): 1.0, ("training, channels_last", 56): 1.0})
    model = nn.Sequential(dw(C, 5, 5))
    assert convert_model(model, backend="cpu").swapped
    for other in (model, pickle.loads(pickle.dumps(model))):
        for layout in (torch.contiguous_format, torch.channels_last):
            for training in (False, True):
                fused.clear()
                with torch.set_grad_enabled(training):
                    other(torch.zeros(1, C, 5, 5).contiguous(memory_format=layout))
                assert fused


def test_what_pytorch_computes_is_asked_little(timed: Times, fused: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question takes microseconds in a model, and such a call is to take no longer than before the swap."""
    _, model = pair(Norm, torch.float32)
    x = X.float().contiguous(memory_format=torch.channels_last)

    def asked(*arguments: object) -> Any:
        pytest.fail("something is asked that takes long")

    monkeypatch.setattr(nn.Module, "__getattr__", asked)
    monkeypatch.setattr(torch, "is_autocast_enabled", asked)
    for name in ("watched", "observed", "hooked", "takes", "go_together"):
        monkeypatch.setattr(direct, name, asked)
    conv = model._modules["conv"]
    fused.clear()
    with torch.no_grad():
        conv(x)
    assert not fused


class Scaled(nn.Conv2d):
    """A convolution whose weight is not the parameter of that name."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        if (own := self._parameters.get("weight")) is None:
            raise AttributeError("weight")
        return 2 * own


class Lent(nn.Conv2d):
    """One that looks for its weight and bias in a way of its own."""

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        return found + 1 if name in ("weight", "bias") else found


@pytest.mark.parametrize("kind", [Scaled, Lent])
def test_a_convolution_that_reads_its_weight_in_its_own_way(kind: Any, fused: list[Tensor]) -> None:
    def make() -> nn.Module:
        conv = kind(C, C, 5, padding=2, groups=C)
        for p in conv.parameters():
            nn.init.normal_(p)
        return Norm(conv)

    plain, model = pair(make)
    assert_equal(outcome(model, X), outcome(plain, X))
    assert fused


def test_a_class_made_of_a_swapped_one_reads_its_weight_in_its_own_way(fused: list[Tensor]) -> None:
    plain, model = pair(Norm)
    for conv in (plain.conv, model.conv):
        conv.__class__ = type("Other", (type(conv),), {"weight": Scaled.weight})
    fused.clear()
    assert_equal(outcome(model, X), outcome(plain, X))
    assert fused


def test_where_no_map_gains_it_stays(timed: Times) -> None:
    ways = {"inference": 112, "training": 56, "training, channels_last": 56}
    timed.update(dict.fromkeys(ways.items(), 1.0))
    report = convert_model(nn.Sequential(dw(C, 5, 5)))
    assert not report.swapped and "not expected to run faster" in report.refused[0].reason
    assert convert_model(nn.Sequential(dw(C, 5, 5)), force=True).swapped


def test_what_is_timed_is_a_step_in_training(fused: list[Tensor]) -> None:
    form = StripsForm.of(trial.fused_in(Norm(), [C], ("strips",))[0])
    for training in (False, True):
        fused.clear()
        how = torch.float32, torch.device("cpu"), "auto"
        with torch.inference_mode():
            turns = gain._alone_turns(form, 16, torch.channels_last, training, *how)
        assert turns and len(fused) == (len(turns) + 1) * training, "without a gradient PyTorch's runs"
        assert all(x.requires_grad for x in fused)


@pytest.mark.filterwarnings("error::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_of_a_convolution_that_stands_alone_holds_no_sizes() -> None:
    plain, model = pair(Mlp, torch.float32)
    x = X.float().contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        traced = torch.jit.trace(model, (x,))
        torch.testing.assert_close(traced(x[..., :5]), plain(x[..., :5]))


@pytest.mark.parametrize("make", [Mlp, MetaNeXt], ids=["straight", "sliced"])
def test_alone_and_without_a_gradient_pytorch_runs_channels_last(make: Callable[[], nn.Module], fused: list[list[int]]) -> None:
    plain, model = pair(make, torch.float32)
    x = X.float()
    channels_last = x.contiguous(memory_format=torch.channels_last)
    calls = []
    for _ in range(3):
        for given, modes in (
            (x, [torch.no_grad()]),
            (channels_last, [torch.no_grad()]),
            (channels_last, []),
            (channels_last, [torch.no_grad(), torch.autocast("cpu", torch.bfloat16)]),
        ):
            fused.clear()
            with ExitStack() as stack:
                for mode in modes:
                    stack.enter_context(mode)
                found, expected = model(given), plain(given)
            torch.testing.assert_close(found, expected)
            assert found.stride() == expected.stride()
            calls.append(bool(fused))
    assert calls == [True, False, True, True] * 3
