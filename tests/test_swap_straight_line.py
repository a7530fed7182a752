"""A block of straight-line code goes to the operator without being watched, until anything that it runs is another."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import BLOCKS, BlockA, channels, line, randomise
from test_module_children import CHANGES
from test_swap_guarantee import assert_equal, outcome
from torch import Tensor, nn

import gcn_kernels.swap.fused_class as fused_class
from gcn_kernels import convert_gcn
from gcn_kernels.swap import straight_line


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


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the runs of a converted module that are watched."""
    runs: list[int] = []
    scope_of = fused_class.scope_of

    def counting(*arguments: Any) -> Any:
        runs.append(1)
        return scope_of(*arguments)

    monkeypatch.setattr(fused_class, "scope_of", counting)
    return runs


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
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
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
    assert straight_line._known.get(model) is not None
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
