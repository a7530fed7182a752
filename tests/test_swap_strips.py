"""Depthwise strips in existing models: found whatever they are called, fused as the forward computes them, nothing changed."""

import copy
import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import BlockA, randomise
from strips_families import MSCA, NO_STRIPS, STRIPS, C, ConvModule, MetaNeXt, StripBlock, dw
from swap_checks import (
    Double,
    assert_equal,
    compare,
    compare_compiled,
    compare_drawn,
    compare_training_compiled,
    compiled_operators,
    fused_in_graphs,
    outcome,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import gcn_kernels.swap.gain as gain
import gcn_kernels.swap.rules as rules
from gcn_kernels import convert_gcn, convert_model, revert_gcn
from gcn_kernels.swap.report import StripsForm
from gcn_kernels.swap.trial import fused_in

X = torch.randn(2, C, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The lengths of the chains of every call of the operator."""
    calls: list[list[int]] = []
    operator = rules.fused_strips

    def counting(x: Tensor, branches: Any, **options: Any) -> Tensor:
        calls.append([len(branch) for branch in branches])
        return operator(x, branches, **options)

    monkeypatch.setattr(rules, "fused_strips", counting)
    return calls


def pair(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = randomise(make()).to(dtype)
    model = copy.deepcopy(plain)
    assert convert_model(model, force=True).swapped
    return plain, model


@pytest.mark.parametrize("name", STRIPS)
def test_every_family_is_fused_and_gives_the_same_values_and_gradients(name: str, fused: list[list[int]]) -> None:
    make, expected = STRIPS[name]
    plain, model = pair(make)
    keys = list(plain.state_dict())
    for training in (False, True):
        for m in (plain, model):
            m.train(training)
        fused.clear()
        assert_equal(outcome(model, X), outcome(plain, X))
        assert sorted(fused) == sorted(expected)
        fused.clear()
        with torch.no_grad():
            assert_equal(outcome(model, X), outcome(plain, X))
        assert sorted(fused) == sorted(expected)
    assert list(model.state_dict()) == keys
    assert revert_gcn(model) and type(model) is type(plain)


@pytest.mark.parametrize("name", NO_STRIPS)
def test_what_is_none_is_left_alone_with_the_reason(name: str) -> None:
    make, reason = NO_STRIPS[name]
    model = make()
    report = convert_model(model, force=True)
    assert not report.swapped and type(model) is type(make())
    assert [reason in e.reason for e in report.refused] == ([True] if reason else [])


def test_the_module_where_the_chain_meets_is_taken() -> None:
    model = nn.Sequential(STRIPS["CAA"][0](), STRIPS["MLP"][0](), MSCA())
    report = convert_model(model, force=True)
    assert [(e.place, e.sizes) for e in report.swapped] == [
        ("0", "8: 1x11 11x1"),
        ("1.dwconv.conv", "16: 3x3"),
        ("2", "8: 5x5, then x + 1x7 7x1 + 1x11 11x1 + 1x21 21x1"),
    ]
    assert not report.refused and "deconvolutions: 3 swapped, 0 refused" in str(report)


class Inner(nn.Module):
    """A depthwise convolution of its own after another module that has one: a call each, and nothing to join."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.conv, self.inside = dw(C, 5, 5), inside

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(torch.relu(self.inside(x))))


def test_a_module_within_another_is_counted_once() -> None:
    """Where nothing is joined, the innermost modules are taken, however deep they lie within each other."""
    model = nn.Sequential(Inner(Inner(ConvModule(dw(C, 3, 3), nn.ReLU()))))
    report = convert_model(model, force=True)
    assert [e.place for e in report.swapped] == ["0.conv", "0.inside.conv", "0.inside.inside.conv"]


def test_both_families_in_one_model_and_one_module(fused: list[list[int]]) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l1, self.l2 = nn.Conv2d(C, 3, (5, 1), padding=(2, 0)), nn.Conv2d(3, 3, (1, 5), padding=(0, 2))
            self.r1, self.r2 = nn.Conv2d(C, 3, (1, 5), padding=(0, 2)), nn.Conv2d(3, 3, (5, 1), padding=(2, 0))
            self.row, self.column = dw(C, 1, 5), dw(C, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.column(self.row(x))
            return self.l2(self.l1(x)) + self.r2(self.r1(x))

    plain, model = pair(Both)
    fused.clear()
    assert_equal(outcome(model, X), outcome(plain, X))
    assert fused == [[2]]
    gcn: list[int] = []
    operator = rules.fused_gcn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "fused_gcn", lambda *a, **k: (gcn.append(1), operator(*a, **k))[1])
        model(X)
    assert gcn == [1] and revert_gcn(model) == [""]
    assert [e.family for e in convert_model(nn.Sequential(BlockA(C, 3), MSCA()), force=True).swapped] == ["gcn", "strips"]


def test_convert_gcn_leaves_strips_alone() -> None:
    model = nn.Sequential(BlockA(C, 3), MSCA())
    assert [e.place for e in convert_gcn(model, force=True).swapped] == ["0"]
    assert [e.place for e in convert_model(model, force=True).swapped] == ["1"]
    assert revert_gcn(model) == ["0", "1"]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[tuple[str, int], float]]:
    """Times of PyTorch, of which the operator takes 1: by the layout and the height of the map. Nothing is timed."""
    times = dict.fromkeys(((layout, side) for layout in ("NCHW", "channels_last") for side in gain.STRIPS_MAPS), 2.0)
    asked = gain._strips_turns

    def turns(form: Any, side: int, layout: torch.memory_format, *options: Any) -> list[tuple[float, float]]:
        name = "NCHW" if layout is torch.contiguous_format else "channels_last"
        monkeypatch.setattr(gain, "_turns", lambda *_, **__: [(times[name, side], 1.0)])
        return asked.__wrapped__(form, side, layout, *options)  # type: ignore[no-any-return]

    monkeypatch.setattr(gain, "_strips_turns", turns)
    gain.strips_gain.cache_clear()
    yield times
    gain.strips_gain.cache_clear()


@pytest.mark.parametrize("slower", [("NCHW", 16), ("NCHW", 128), ("channels_last", 64)])
def test_a_place_that_is_slower_on_any_map_stays(timed: dict[tuple[str, int], float], slower: tuple[str, int]) -> None:
    (entry,) = convert_model(nn.Sequential(MSCA())).swapped
    assert entry.gain == (2.0, None, (2.0, 2.0))
    gain.strips_gain.cache_clear()
    timed[slower] = 0.5
    report = convert_model(nn.Sequential(MSCA()))
    assert not report.swapped and "run slower fused (0.5x [0.5, 2.0])" in report.refused[0].reason
    assert convert_model(nn.Sequential(MSCA()), force=True).swapped


def test_large_maps_of_many_channels_are_not_timed(timed: dict[tuple[str, int], float]) -> None:
    timed["NCHW", 64] = timed["channels_last", 64] = timed["NCHW", 128] = timed["channels_last", 128] = 0.1
    assert convert_model(MSCA(512)).swapped


def test_what_is_timed_is_a_converted_call(fused: list[list[int]]) -> None:
    alone = StripsForm.of(fused_in(MetaNeXt(8), [8], ("strips",))[0])
    assert (alone.channels, alone.whole) == (2, 8)
    msca = StripsForm.of(fused_in(MSCA(), [C], ("strips",))[0])
    assert (msca.channels, msca.whole) == (C, C)
    how = torch.float32, torch.device("cpu"), "auto"
    fused.clear()
    turns = gain._strips_turns.__wrapped__(msca, 16, torch.channels_last, *how)
    assert turns and fused == [[2, 2, 2]] * (len(turns) + 1)
    fused.clear()
    turns = gain._alone_turns(alone, 16, torch.contiguous_format, False, *how)
    assert turns and fused == [[1]] * (len(turns) + 1)


def test_a_chain_inside_of_a_module_with_convolutions_that_stand_alone_is_one_call(fused: list[list[int]]) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.square, self.norm, self.msca = dw(C, 3, 3), nn.BatchNorm2d(C), MSCA()

        def forward(self, x: Tensor) -> Tensor:
            return self.square(self.msca(self.norm(self.square(x))))

    plain, model = pair(Outer)
    for _ in range(2):
        fused.clear()
        assert_equal(outcome(model, X), outcome(plain, X))
        assert sorted(fused) == [[1], [1], [2, 2, 2]]


def test_where_no_kernel_runs_nothing_is_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcn_kernels.core.backends.choose", lambda *arguments: "torch")
    report = convert_model(nn.Sequential(MSCA()))
    assert not report.swapped and "no kernels for strips of torch.float32 on cpu" in report.refused[0].reason


def test_bad_arguments() -> None:
    for families in ("strips", (), ("gcn", "strip")):
        with pytest.raises(ValueError, match="families: expected one or more of gcn, strips"):
            convert_model(MSCA(), families)


def test_copies_and_pickles_run_fused(fused: list[list[int]]) -> None:
    _, model = pair(MSCA)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        fused.clear()
        torch.testing.assert_close(other(X), model(X))
        assert fused == [[2, 2, 2]] * 2
        assert revert_gcn(other) == [""] and type(other) is MSCA


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision(dtype: torch.dtype, fused: list[list[int]]) -> None:
    plain, model = pair(MSCA, torch.float32)
    fused.clear()
    x = X.float()
    with torch.autocast("cpu", dtype=dtype):
        ours, theirs = model(x), plain(x)
    assert ours.dtype == theirs.dtype and fused == [[2, 2, 2]]
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=0.05, atol=0.05 * float(theirs.float().abs().max()))
    with torch.autocast("cpu", dtype=dtype):  # x stays float32, the convolutions do not: no term of the same sum
        single, plain_single = pair(STRIPS["singles"][0], torch.float32)[::-1]
        torch.testing.assert_close(single(x), plain_single(x), rtol=0.05, atol=0.3)


def test_a_map_of_another_dtype_under_autocast_is_no_term_of_a_repeated_sum() -> None:
    plain, model = pair(own(lambda m, x: x + m.conv_spatial1(m.conv0(x))), torch.float32)
    x = X.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for given in (x.bfloat16(), x, x):
            assert model(given).dtype == plain(given).dtype


# What a forward may do in between, on the plain module and on the converted one.


def middle_is_returned(m: Any, x: Tensor) -> Any:
    a = m.conv0(x)
    b = m.conv_spatial1(a)
    c = m.conv_spatial2(b)
    return m.conv1(c), b


def middle_is_used(m: Any, x: Tensor) -> Any:
    a = m.conv0(x)
    c = m.conv_spatial2(m.conv_spatial1(a))
    return m.conv1(c) * a


def middle_in_place(m: Any, x: Tensor) -> Any:
    a = m.conv0(x)
    a.mul_(2)
    return m.conv_spatial2(m.conv_spatial1(a))


def added_in_place_to_its_source(m: Any, x: Tensor) -> Any:
    a = m.conv0(x.detach()).detach()
    a += m.conv_spatial1(a)
    return m.conv1(a)


def map_in_place(m: Any, x: Tensor) -> Any:
    x = x.detach().clone()
    a = m.conv0(x)
    x.zero_()
    return m.conv_spatial1(a).detach()


def added_in_place_to_the_map(m: Any, x: Tensor) -> Any:
    x = x * 1
    x += m.conv0(x).detach()
    return x


def added_in_place_and_read_again(m: Any, x: Tensor) -> Any:
    x = x * 1
    x += m.conv_spatial1(x)
    return x + m.conv_spatial2(x)


def no_grad_around_the_stem(m: Any, x: Tensor) -> Any:
    with torch.no_grad():
        a = m.conv0(x)
    return m.conv_spatial2(m.conv_spatial1(a)) + a


def asked_by_a_function(m: Any, x: Tensor) -> Any:
    return m.conv_spatial2(Double.apply(m.conv_spatial1(m.conv0(x)))) + x


def condition_on_the_middle(m: Any, x: Tensor) -> Any:
    a = m.conv0(x)
    return m.conv_spatial1(a) if float(a.mean().detach()) < 1e9 else a


def unknown_attribute(m: Any, x: Tensor) -> Any:
    a = m.conv_spatial1(m.conv0(x))
    assert getattr(a, "no_such_attribute", None) is None
    return m.conv_spatial2(a)


def twice_the_same(m: Any, x: Tensor) -> Any:
    a = m.conv_spatial1(m.conv0(x))
    return a + a + x


def other_terms(m: Any, x: Tensor) -> Any:
    a = m.conv0(x)
    return (a + m.conv_spatial1(a)) + (m.conv_spatial2(a) + x) + 1 + x.mean()


def scaled(m: Any, x: Tensor) -> Any:
    return torch.add(m.conv0(x), m.conv_spatial1(x), alpha=2) + sum([m.conv_spatial2(x), m.conv0(x)])


def slice_and_view(m: Any, x: Tensor) -> Any:
    return m.conv0(x.transpose(2, 3)).transpose(2, 3) + m.conv_spatial1(x[:1])


def without_batch(m: Any, x: Tensor) -> Any:
    return m.conv_spatial1(m.conv0(x[0]))


FORWARDS = [
    middle_is_returned,
    middle_is_used,
    middle_in_place,
    added_in_place_to_its_source,
    map_in_place,
    added_in_place_to_the_map,
    no_grad_around_the_stem,
    asked_by_a_function,
    condition_on_the_middle,
    unknown_attribute,
    twice_the_same,
    other_terms,
    scaled,
    slice_and_view,
    without_batch,
]


def own(forward: Callable[[Any, Tensor], Any]) -> type[nn.Module]:
    return type("Own", (StripBlock,), {"forward": forward, "__module__": __name__})


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda f: f.__name__)
def test_whatever_the_forward_does(forward: Callable[[Any, Tensor], Any]) -> None:
    torch.manual_seed(0)
    plain = randomise(own(forward)()).double()
    model = copy.deepcopy(plain)
    assert convert_model(model, verify=False, force=True).swapped
    compare(outcome(model, X), outcome(plain, X))
    with torch.no_grad():
        compare(outcome(model, X), outcome(plain, X))


def test_a_result_that_was_passed_over_has_no_place_in_the_graph() -> None:
    _, model = pair(own(middle_is_returned))
    y, middle = model(X)
    with pytest.raises(RuntimeError, match="asks for the result of a convolution after"):
        torch.autograd.grad(y.sum(), middle)


def test_gradients_of_a_result_that_the_forward_gives_away() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        a = m.conv0(x)
        return m.conv_spatial1(a), a

    for m in pair(own(forward)):
        y, a = m(X)
        assert torch.autograd.grad(y.sum(), a)[0].abs().sum() > 0


CHANGES: dict[str, Callable[[Any], object]] = {
    "forward hook": lambda m: m.conv_spatial1.register_forward_hook(lambda module, inputs, output: output * 2),
    "backward hook": lambda m: m.conv0.register_full_backward_hook(lambda module, a, b: tuple(2 * g for g in a)),
    "pruning": lambda m: prune.l1_unstructured(m.conv0, "weight", 0.5),
    "weight_norm": lambda m: parametrizations.weight_norm(m.conv_spatial1),
    "stride": lambda m: setattr(m.conv_spatial2, "stride", (2, 1)),
    "dilation": lambda m: (setattr(m.conv0, "dilation", (3, 1)), setattr(m.conv0, "padding", (6, 2))),
    "replaced": lambda m: setattr(m, "conv_spatial1", nn.Sequential(m.conv_spatial1, nn.ReLU())),
    "wrapped": lambda m: setattr(m, "conv0", ConvModule(m.conv0, nn.Tanh())),
    "patched forward": lambda m: setattr(m.conv0, "forward", lambda x: x * 2),
    "bias removed": lambda m: setattr(m.conv0, "bias", None),
    "frozen": lambda m: m.conv_spatial1.requires_grad_(False),
    "channels_last": lambda m: m.to(memory_format=torch.channels_last),
    "weight written": lambda m: m.conv0.weight.data.mul_(3),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("make", [StripBlock, own(middle_is_used)], ids=["StripBlock", "used twice"])
def test_what_is_done_after_the_swap_counts(make: type[nn.Module], change: Callable[[Any], object]) -> None:
    plain, model = pair(make)
    for m in (plain, model):
        m(X)
        torch.manual_seed(1)
        change(m)
    for _ in range(3):  # watched, and perhaps repeated
        assert_equal(outcome(model, X), outcome(plain, X))


@fused_in_graphs
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["MSCA", "LSKA", "LSK", "CPCA", "singles", "InceptionNeXt"])
def test_under_compile(name: str) -> None:
    make, expected = STRIPS[name]
    plain, model = pair(make)
    y, called = compiled_operators(model, X)
    torch.testing.assert_close(y, plain(X), rtol=1e-9, atol=1e-9)
    assert sum("gcn_kernels.strips" in call for call in called) == len(expected), called
    compare_training_compiled(plain, model, X)


@pytest.mark.usefixtures("fresh_compiler")
def test_forwards_under_compile() -> None:
    for forward in (
        middle_is_returned,
        middle_is_used,
        middle_in_place,
        added_in_place_and_read_again,
        no_grad_around_the_stem,
        twice_the_same,
        other_terms,
        scaled,
    ):
        compare_compiled(*pair(own(forward)), X)


def run_draws(first: int, count: int) -> int:
    """Compare drawn forwards over drawn convolutions, changed and called in drawn modes, with the plain module's."""
    compared = 0
    for seed in range(first, first + count):
        draw = random.Random(seed)
        sizes = [draw.choice([(1, 3), (3, 1), (3, 3), (1, 7), (7, 1), (5, 5)]) for _ in range(4)]
        program = [(draw.choice("ccccsssxirm"), draw.randrange(8), draw.randrange(8), draw.randrange(4)) for _ in range(9)]

        class Drawn(nn.Module):
            def __init__(self, sizes: Any = sizes) -> None:
                super().__init__()
                self.convs = nn.ModuleList(dw(4, *k, dilation=d) for k, d in zip(sizes, (1, 2, 1, 3), strict=True))

            def forward(self, x: Tensor, program: Any = program, kept: int = draw.randrange(10)) -> Any:
                values = [x]
                for what, i, j, conv in program:
                    a, b = values[i % len(values)], values[j % len(values)]
                    if what == "c":
                        values.append(self.convs[conv](a))
                    elif what == "s":
                        values.append(a + b)
                    elif what == "x":
                        values.append(a * 0.5)
                    elif what == "i" and a is not x and not torch.is_grad_enabled():
                        a += b
                    elif what == "r" and a is not x and not torch.is_grad_enabled():
                        F.relu(a, inplace=True)
                    elif what == "m":
                        values[i % len(values)] = b
                return values[-1], values[kept % len(values)]

        compared += compare_drawn(Drawn, 4, draw, seed)
    return compared


def test_drawn_forwards() -> None:
    assert run_draws(0, 150) > 1000


@pytest.mark.proof
def test_many_drawn_forwards() -> None:
    assert run_draws(1000, 2000) > 10000
