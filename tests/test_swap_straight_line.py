"""A block of straight-line code goes to the operator without being watched, until anything that it runs is another."""

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import BLOCKS, BlockA, channels, line, randomise
from strips_families import STRIPS, C, StripBlock, dw
from swap_checks import assert_equal, outcome
from test_module_children import ON_A_BLOCK
from torch import Tensor, nn

from gcn_kernels import convert_gcn, convert_model
from gcn_kernels.swap import repeat, straight_line


class Wrapped(nn.Module):
    """A convolution behind a module of its own, as public code wraps it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Straight(nn.Module):
    """A block whose forward is straight-line code, with a wrapper and a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_l1, self.conv_l2 = line(6, 3, 5, 0), line(3, 3, 5, 1)
        self.conv_r1, self.conv_r2 = line(6, 3, 5, 1), line(3, 3, 5, 0)
        self.wrapper, self.left = Wrapped(self.conv_r1), nn.Sequential(self.conv_l1, nn.Identity(), self.conv_l2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.left(x)
        y += self.conv_r2(self.wrapper(x))
        return y


X = torch.randn(2, 6, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def pair(make: Callable[[], nn.Module] = Straight) -> tuple[nn.Module, nn.Module]:
    """A plain block and its converted copy, which has run once."""
    torch.manual_seed(0)
    plain = randomise(make()).double()
    model = copy.deepcopy(plain)
    assert convert_gcn(model, force=True).swapped
    model(X), plain(X)
    return plain, model


@pytest.mark.parametrize("name", ["A", "B", "E", "F", "G", "H", "I", "K", "leftovers", "shared-width"])
def test_one_run_is_watched(name: str, watched: list[int]) -> None:
    block = BLOCKS[name]()
    assert convert_gcn(block, force=True).swapped
    for size in ((9, 8), (4, 7)):
        block(torch.randn(1, channels(block), *size))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        block(torch.randn(1, channels(block), 9, 8))
    assert len(watched) == 1


@pytest.mark.parametrize("name", ["C", "D", "J", "optional-input"])
def test_a_forward_that_is_not_straight_is_always_watched(name: str, watched: list[int]) -> None:
    block = BLOCKS[name]()
    assert convert_gcn(block, force=True).swapped
    for _ in range(3):
        block(torch.randn(1, channels(block), 9, 8))
    assert len(watched) == 3


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", [Straight, lambda: BlockA(6, 3, (5, 5))], ids=["wrapped", "A"])
@pytest.mark.parametrize("change", ON_A_BLOCK.values(), ids=ON_A_BLOCK)
def test_what_is_done_to_a_convolution_counts(change: Callable[[nn.Module], object], make: Callable[[], nn.Module]) -> None:
    plain, model = pair(make)
    for m in (plain, model):
        torch.manual_seed(1)
        change(m)
        m(X[:1])
    assert_equal(outcome(model, X), outcome(plain, X))
    assert_equal(outcome(model, X), outcome(plain, X))


def twice(m: nn.Module, x: Tensor) -> Tensor:
    return m.left(x) + m.left(x)  # type: ignore[operator]


def shadow_a_child(m: nn.Module) -> None:
    m.__dict__["conv_r2"] = lambda x: -m._modules["conv_r2"](x)  # type: ignore[misc]


def replace_in_place(m: nn.Module) -> None:
    m._modules["left"]._modules["1"] = nn.ReLU()  # type: ignore[union-attr]


def longer(m: nn.Module) -> None:
    m.left.append(nn.ReLU())  # type: ignore[operator,union-attr]


def exchanged(m: nn.Module) -> None:
    m.conv_l1.weight, m.conv_r2.weight = m.conv_r2.weight, m.conv_l1.weight  # type: ignore[union-attr,assignment]


def same_shape_elsewhere(m: nn.Module) -> None:
    m.wrapper.conv = copy.deepcopy(m.wrapper.conv)  # type: ignore[union-attr]
    with torch.no_grad():
        m.wrapper.conv.weight.mul_(3)  # type: ignore[operator,union-attr]


def own_forward_of_the_wrapper(m: nn.Module) -> None:
    m.wrapper.forward = lambda x: m.conv_r1(x) * 2  # type: ignore[union-attr,operator,assignment]


def hook_of_the_wrapper(m: nn.Module) -> None:
    m.wrapper.register_forward_hook(lambda module, inputs, output: output * 2)  # type: ignore[union-attr,operator]


def compiled_child(m: nn.Module) -> None:
    m.conv_r2._compiled_call_impl = lambda x: nn.Conv2d.forward(m.conv_r2, x) * 2  # type: ignore[union-attr,arg-type]


def own_conv_forward(m: nn.Module) -> None:
    m.conv_r2._conv_forward = lambda x, w, b: F.conv2d(x, w, b, padding=(2, 0)) * 2  # type: ignore[union-attr,assignment]


def wider_weight(m: nn.Module) -> None:
    m.conv_r2.weight = nn.Parameter(torch.ones(3, 3, 3, 1, dtype=torch.float64))  # type: ignore[union-attr]


def weight_as_an_attribute(m: nn.Module) -> None:
    conv: Any = m.conv_r2
    weight = conv.weight.detach() * 2
    del conv.weight
    conv.weight = weight


def bias_as_a_buffer(m: nn.Module) -> None:
    conv: Any = m.conv_r2
    bias = conv.bias.detach() * 2
    del conv.bias
    conv.register_buffer("bias", bias)


@pytest.mark.parametrize(
    "change",
    [
        shadow_a_child,
        replace_in_place,
        longer,
        exchanged,
        same_shape_elsewhere,
        own_forward_of_the_wrapper,
        hook_of_the_wrapper,
        compiled_child,
        own_conv_forward,
        wider_weight,
        weight_as_an_attribute,
        bias_as_a_buffer,
    ],
    ids=lambda change: change.__name__,
)
def test_what_is_done_to_the_block_counts(change: Callable[[nn.Module], object]) -> None:
    plain, model = pair()
    for m in (plain, model):
        change(m)
    assert_equal(outcome(model, X), outcome(plain, X))
    assert_equal(outcome(model, X), outcome(plain, X))


def other_code(monkeypatch: pytest.MonkeyPatch, own: type[nn.Module], wrapper: type[nn.Module]) -> None:
    monkeypatch.setattr(own.forward, "__code__", twice.__code__)


def other_forward(monkeypatch: pytest.MonkeyPatch, own: type[nn.Module], wrapper: type[nn.Module]) -> None:
    monkeypatch.setattr(own, "forward", twice)


def forward_of_the_wrapper_class(monkeypatch: pytest.MonkeyPatch, own: type[nn.Module], wrapper: type[nn.Module]) -> None:
    monkeypatch.setattr(wrapper, "forward", lambda self, x: self.conv(x) * 2)


def call_of_the_wrapper_class(monkeypatch: pytest.MonkeyPatch, own: type[nn.Module], wrapper: type[nn.Module]) -> None:
    monkeypatch.setattr(wrapper, "__call__", lambda self, x: self.conv(x) * 2, raising=False)


def attributes_of_the_class(monkeypatch: pytest.MonkeyPatch, own: type[nn.Module], wrapper: type[nn.Module]) -> None:
    monkeypatch.setattr(wrapper, "__getattr__", lambda self, name: lambda x: nn.Module.__getattr__(self, name)(x) * 2)


def child_of_the_class(monkeypatch: pytest.MonkeyPatch, own: type[nn.Module], wrapper: type[nn.Module]) -> None:
    monkeypatch.setattr(wrapper, "conv", lambda self, x: self._modules["conv"](x) * 2, raising=False)


def forward_of_conv2d(monkeypatch: pytest.MonkeyPatch, own: type[nn.Module], wrapper: type[nn.Module]) -> None:
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: self._conv_forward(x, self.weight, self.bias) * 2)


def function_of_conv2d(monkeypatch: pytest.MonkeyPatch, own: type[nn.Module], wrapper: type[nn.Module]) -> None:
    monkeypatch.setattr(F, "conv2d", lambda *arguments: torch.conv2d(*arguments) * 2)


def order_of_a_sequential(monkeypatch: pytest.MonkeyPatch, own: type[nn.Module], wrapper: type[nn.Module]) -> None:
    monkeypatch.setattr(nn.Sequential, "__iter__", lambda self: iter([*self._modules.values(), nn.ReLU()]))


@pytest.mark.parametrize(
    "change",
    [
        other_code,
        other_forward,
        forward_of_the_wrapper_class,
        call_of_the_wrapper_class,
        attributes_of_the_class,
        child_of_the_class,
        forward_of_conv2d,
        function_of_conv2d,
        order_of_a_sequential,
    ],
    ids=lambda change: change.__name__,
)
def test_what_is_done_to_classes_counts(
    change: Callable[..., None], monkeypatch: pytest.MonkeyPatch, classes: tuple[Any, Any]
) -> None:
    own, wrapper = classes

    def make() -> nn.Module:
        block = own()
        block.wrapper.__class__ = wrapper
        return block

    plain, model = pair(make)
    assert straight_line._known[model][True] is not None
    before = outcome(plain, X)[1]
    change(monkeypatch, own, wrapper)
    assert_equal(outcome(model, X), outcome(plain, X))
    assert not torch.equal(outcome(plain, X)[1], before)


@pytest.fixture
def classes() -> Iterator[tuple[type[nn.Module], type[nn.Module]]]:
    """Classes that a test may change, each with a forward of its own."""

    class Own(Straight):
        def forward(self, x: Tensor) -> Tensor:
            return self.left(x) + self.conv_r2(self.wrapper(x))

    class Wrapper(Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    yield Own, Wrapper


@pytest.mark.parametrize("name", ["MSCA", "StripBlock", "LSKA", "CPCA"])
def test_one_run_of_strips_is_watched_and_the_next_ones_repeated(name: str, watched: list[int]) -> None:
    block = STRIPS[name][0]()
    plain = copy.deepcopy(block)
    assert convert_model(block, force=True).swapped
    for size in ((9, 8), (4, 7)):
        x = torch.randn(2, C, *size)
        torch.testing.assert_close(block(x), plain(x), rtol=1e-4, atol=1e-5)
    assert len(watched) == 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        block(x)
    assert len(watched) == 2, "another dtype is another run"


def test_a_relu_in_place_is_repeated_but_for_one_of_the_input(watched: list[int]) -> None:
    for layers, runs in (
        ([dw(C, 3, 3), nn.BatchNorm2d(C), nn.ReLU(True)], 1),
        ([dw(C, 1, 5), dw(C, 5, 1), nn.ReLU(True), dw(C, 3, 3), nn.SiLU(True)], 1),
        ([nn.ReLU(True), dw(C, 1, 5), dw(C, 5, 1)], 3),
        ([nn.Identity(), nn.ReLU(True), dw(C, 1, 5), dw(C, 5, 1)], 3),
    ):
        plain = randomise(nn.Sequential(*layers)).double().eval()
        model = copy.deepcopy(plain)
        assert convert_model(model, force=True, fold_batchnorm=True).swapped
        watched.clear()
        for grad in (False, True, True):
            given = torch.randn(2, C, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
            ours, theirs = given.clone(), given.clone()
            with torch.set_grad_enabled(grad):
                torch.testing.assert_close(model(ours), plain(theirs), rtol=1e-9, atol=1e-9)
            assert torch.equal(ours, theirs)
            if not isinstance(plain[0], (nn.ReLU, nn.Identity)):
                assert_equal(outcome(model, given), outcome(plain, given))
        assert len(watched) == runs


def in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "gelu", lambda x, **options: torch.relu(x))


def around_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        nn.Conv2d, "_conv_forward", lambda self, x, w, b: F.conv2d(x, w, b, padding="same", groups=self.groups) + 1
    )


def before_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nn.Conv2d._conv_forward
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", lambda self, x, w, b: plain(self, x.abs(), w, b))


@pytest.mark.parametrize("change", [in_the_middle, around_convolutions, before_convolutions], ids=lambda c: c.__name__)
def test_a_repeated_run_follows_what_is_put_in_the_place_of_functions(
    change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: Any = STRIPS["CPCA"][0]().double()
    model = copy.deepcopy(plain)
    convert_model(model, force=True)
    x = X[:, :1].repeat(1, C, 1, 1)
    model(x), model(x)
    before = plain(x)
    change(monkeypatch)
    assert_equal(outcome(model, x), outcome(plain, x))
    assert not torch.allclose(plain(x), before)


def test_a_repeated_run_holds_the_flow_of_results_against_the_noted_one() -> None:
    """Two convolutions that exchange their places in the forward have the same sizes and make the same calls."""

    class Own(StripBlock):
        def forward(self, x: Tensor) -> Tensor:
            a = self.conv0(x)
            b = self.conv_spatial1(a)
            return self.conv1(self.conv_spatial2(b) + a)

    def other(self: Any, x: Tensor) -> Tensor:
        a = self.conv0(x)
        b = self.conv_spatial1(a)
        return self.conv1(self.conv_spatial2(a) + b)

    model: Any = Own().double()
    plain = copy.deepcopy(model)
    convert_model(model, force=True)
    x = torch.randn(1, C, 9, 8, dtype=torch.float64)
    model(x), model(x)
    proof = straight_line._known[model][True]
    assert proof is not None and proof.program is not None
    program = proof.program
    with pytest.raises(repeat._Differs), repeat._Repeat(program, x, "auto"):
        other(model, x)
    assert repeat.repeat(program, other, model, x, "auto") is None
    torch.testing.assert_close(repeat.repeat(program, Own.forward, model, x, "auto"), plain(x))


def twofold(x: Tensor) -> Tensor:
    return x * 2


def run_draws(first: int, count: int) -> int:
    """Compare drawn straight-line forwards with those of the plain module, run again and again and changed in between."""
    repeated = 0
    for seed in range(first, first + count):
        draw = random.Random(seed)
        names, lines = ["x"], []
        for i in range(draw.randint(3, 9)):
            what = draw.choice(["conv", "conv", "conv", "conv", "add", "add", "mul", "act", "clone", "in place"])
            a, b = (draw.choice(names[-4:]) for _ in "ab")
            if what == "conv":
                lines.append(f"v{i} = self.c{draw.randrange(8)}({a})")
            elif what == "act":
                lines.append(f"v{i} = self.act({a})")
            elif what == "in place":
                # Of a result that autograd keeps for no other.
                lines += [f"v{i} = self.c{draw.randrange(8)}({a})", f"v{i} += {b}"]
            else:
                lines.append(f"v{i} = {a}.clone()" if what == "clone" else f"v{i} = {a} {'+' if what == 'add' else '*'} {b}")
            names.append(f"v{i}")
        space: dict[str, Any] = {}
        exec("def forward(self, x):\n " + "\n ".join(lines) + f"\n return {names[-1]}", space)

        class Drawn(nn.Module):
            forward = space["forward"]

            def __init__(self) -> None:
                super().__init__()
                shapes = [(1, 3), (3, 1), (3, 3), (1, 5), (5, 1)]
                for i, (kh, kw) in enumerate(shapes):
                    setattr(self, f"c{i}", dw(2, kh, kw, dilation=1 + i % 2))
                self.c5, self.c6, self.c7 = line(2, 2, 3, 0), line(2, 2, 3, 1), nn.Conv2d(2, 2, 1)
                self.act = nn.Tanh()

        torch.manual_seed(seed)
        plain = Drawn().double()
        model = copy.deepcopy(plain)
        convert_model(model, verify=False, force=True)
        change = draw.choice(
            [
                lambda m: setattr(m, "c0", m.c2),
                lambda m: m.c1.weight.data.mul_(2),
                lambda m: m.c3.register_forward_hook(lambda module, inputs, output: output * 2),
                lambda m: setattr(m.c2, "padding_mode", "circular"),
                lambda m: setattr(m.c4, "bias", None),
                lambda m: setattr(m, "act", nn.ReLU()),
                lambda m: m.requires_grad_(False),
                lambda m: setattr(m.c5, "forward", twofold),
            ]
        )
        for turn in range(4):
            if turn == 2:
                change(plain), change(model)
            x = torch.randn(draw.randint(1, 2), 2, draw.randint(1, 6), draw.randint(1, 6), dtype=torch.float64)
            with torch.set_grad_enabled(draw.random() < 0.6):
                known = straight_line._known.get(model, {}).get(model.training)
                repeated += known is not None and known.program is not None
                try:
                    assert_equal(outcome(model, x), outcome(plain, x))
                except AssertionError as error:
                    raise AssertionError(f"draw {seed}, turn {turn}: {lines}: {error}") from error
    return repeated


def test_drawn_straight_lines() -> None:
    assert run_draws(0, 100) > 50


@pytest.mark.proof
def test_many_drawn_straight_lines() -> None:
    assert run_draws(1000, 2000) > 1000


def test_code_that_is_not_straight_is_told() -> None:
    def conditional(self: Any, x: Any) -> Any:
        return self.left(x) if x.sum() > 0 else x

    def reads_a_global(self: Any, x: Any) -> Any:
        return torch.neg(self.left(x))

    def stores(self: Any, x: Any) -> Any:
        self.last = self.left(x)
        return self.last

    def attribute_of_x(self: Any, x: Any) -> Any:
        return self.left(x.left)

    def renames(self: Any, x: Any) -> Any:
        self = x
        return self.left(x)

    def optional(self: Any, x: Any, y: Any = None) -> Any:
        return self.left(x)

    def several(self: Any, *x: Any) -> Any:
        return self.left(x)

    for forward in (conditional, reads_a_global, stores, attribute_of_x, renames, optional, several):
        assert straight_line._straight(forward) is None, forward.__name__
    assert straight_line._straight(Straight.forward) == ("left", "conv_r2", "wrapper")


def test_what_is_known_of_a_module_goes_with_it() -> None:
    _, model = pair()
    assert model in straight_line._known
    before = len(straight_line._known)
    del model
    assert len(straight_line._known) == before - 1
