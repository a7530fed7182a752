"""A converted module computes what its own forward computes, whatever that is and whatever is done to it after the swap."""

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from families import BLOCKS, BlockA, channels, line, randomise
from gcn_forwards import (
    FORWARDS,
    added_twice,
    autocast,
    branch_in_place,
    in_place_on_the_input,
    in_place_on_the_input_after_the_sum,
    no_grad,
    no_grad_around_one_branch,
    returns_a_branch_too,
    sum_by_method,
    sum_in_place,
    sum_in_place_read_before,
    with_a_factor,
)
from swap_checks import assert_equal, compare_training_compiled, compiled_operators, drawn_change, fused_in_graphs, outcome
from test_module_children import ON_A_BLOCK
from torch import Tensor, nn
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual

import gcn_kernels.swap.fused_class as fused_class
import gcn_kernels.swap.gain as gain
import gcn_kernels.swap.rules as rules
import gcn_kernels.swap.trial as trial
from gcn_kernels import convert_gcn, revert_gcn


class Block(nn.Module):
    """A block in a module of its own, whose forward is the family's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_l1, self.conv_l2 = line(6, 3, 5, 0), line(3, 3, 5, 1)
        self.conv_r1, self.conv_r2 = line(6, 3, 5, 1), line(3, 3, 5, 0)
        self.flag, self.seen = False, []

    def left(self, x: Tensor) -> Tensor:
        return self.conv_l2(self.conv_l1(x))

    def right(self, x: Tensor) -> Tensor:
        return self.conv_r2(self.conv_r1(x))

    def forward(self, x: Tensor) -> Any:
        return self.left(x) + self.right(x)


class Straight(Block):
    """The block in straight-line code, which is watched once."""

    def forward(self, x: Tensor) -> Tensor:
        x_l = self.conv_l2(self.conv_l1(x))
        x_r = self.conv_r2(self.conv_r1(x))
        return x_l + x_r


class Inline(Block):
    """The block between other layers, in a network's forward."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x_l = self.left(x)
        x_r = self.right(x)
        return self.head(F.relu(x_l + x_r))


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the calls of the fused operator."""
    calls: list[int] = []
    operator = rules.fused_gcn

    def counting(*arguments: Any, **options: Any) -> Tensor:
        calls.append(1)
        return operator(*arguments, **options)

    monkeypatch.setattr(rules, "fused_gcn", counting)
    return calls


def pair(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """A plain model and its converted copy, which the trial is not asked about."""
    torch.manual_seed(0)
    plain = randomise(make()).to(dtype)
    model = copy.deepcopy(plain)
    assert convert_gcn(model, verify=False, force=True).swapped
    return plain, model


X = torch.randn(2, 6, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("make", [Block, Straight, Inline])
def test_a_block_that_is_left_alone_is_fused(make: type[Block], fused: list[int]) -> None:
    plain, model = pair(make)
    assert_equal(outcome(model, X), outcome(plain, X))
    with torch.inference_mode():
        torch.testing.assert_close(model(X), plain(X), rtol=1e-9, atol=1e-9)
    assert len(fused) == 2


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", [Block, Inline])
@pytest.mark.parametrize("change", ON_A_BLOCK.values(), ids=ON_A_BLOCK)
def test_what_is_done_to_a_convolution_counts(change: Callable[[nn.Module], object], make: type[Block]) -> None:
    plain, model = pair(make)
    for m in (plain, model):
        torch.manual_seed(1)
        change(m)
        m(X[:1])
    assert_equal(outcome(model, X), outcome(plain, X))


@fused_in_graphs
@pytest.mark.usefixtures("fresh_compiler")
def test_under_compile_a_block_is_fused_and_what_changed_is_not() -> None:
    for change in ("none", "adapter", "dilation", "replaced", "forward hook"):
        plain, model = pair(Block)
        for m in (plain, model):
            torch.manual_seed(1)
            ON_A_BLOCK.get(change, lambda m: None)(m)
        y, called = compiled_operators(model, X)
        torch.testing.assert_close(y, plain(X), rtol=1e-9, atol=1e-9, msg=change)
        fused = [name for name in called if "gcn_kernels.gcn" in name]
        assert len(fused) == (change == "none"), change
        assert any("convolution" in name for name in called) == (change != "none"), change


@fused_in_graphs
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["A", "B", "C", "F", "I", "J", "shared-width"])
def test_under_compile_families_are_fused(name: str) -> None:
    """Sums in place and Python's sum as well."""
    torch.manual_seed(0)
    plain = randomise(BLOCKS[name]()).double()
    model = copy.deepcopy(plain)
    assert convert_gcn(model, force=True).swapped
    x = torch.randn(1, channels(plain), 9, 8, dtype=torch.float64)
    y, called = compiled_operators(model, x)
    torch.testing.assert_close(y, plain(x), rtol=1e-9, atol=1e-9)
    assert sum("gcn_kernels.gcn" in call for call in called) == 1 and not any("convolution" in call for call in called), called


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("make", [Block, Inline])
def test_a_compiled_training_step(make: type[Block]) -> None:
    plain, model = pair(make)
    compare_training_compiled(plain, model, X)


@pytest.mark.usefixtures("fresh_compiler")
def test_forwards_under_compile() -> None:
    """Contexts, changes in place and everything else that a trace can hold."""
    whole = (no_grad, no_grad_around_one_branch, in_place_on_the_input, in_place_on_the_input_after_the_sum, branch_in_place)
    for forward in (*whole, sum_in_place, sum_by_method, sum_in_place_read_before, added_twice, with_a_factor):
        plain, model = pair(type("Own", (Block,), {"forward": forward, "__module__": __name__}))
        for m, run in ((plain, plain), (model, torch.compile(model, backend="aot_eager"))):
            found = run(X)
            y, *others = found if isinstance(found, tuple) else (found,)
            m.seen = [y.detach(), *others]
            if y.requires_grad:
                y.square().sum().backward()
                m.seen += [p.grad for p in m.parameters() if p.grad is not None]
        for ours, theirs in zip(model.seen, plain.seen, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, msg=forward.__name__)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("forward", FORWARDS, ids=lambda f: f.__name__)
def test_whatever_the_forward_does(forward: Callable[[Any, Tensor], Any]) -> None:
    dtype, tolerance = (torch.float32, 1e-4) if forward is autocast else (torch.float64, 1e-9)
    plain, model = pair(type("Own", (Block,), {"forward": forward, "__module__": __name__}), dtype)
    x = X.to(dtype)
    for flag in (False, True):
        model.flag = plain.flag = flag
        assert_equal(outcome(model, x), outcome(plain, x), tolerance)
    with torch.no_grad():
        assert_equal(outcome(model, x), outcome(plain, x), tolerance)


def test_gradients_of_a_result_that_the_forward_gives_away() -> None:
    for m in pair(type("Own", (Block,), {"forward": returns_a_branch_too})):
        y, left = m(X)
        (dy,) = torch.autograd.grad(y.sum(), left)
        assert torch.equal(dy, torch.ones_like(dy))


def test_asking_for_a_place_in_the_graph_too_late_is_an_error() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        left = m.left(x)
        y = F.relu(left + m.right(x))
        left.retain_grad()
        return y

    _, model = pair(type("Own", (Block,), {"forward": forward}))
    with pytest.raises(RuntimeError, match="ask before the sum"):
        model(X.clone().requires_grad_())


def test_a_change_that_nothing_shows_is_an_error() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        left = m.left(x)
        torch._C._increment_version([m.conv_l1.weight])
        return left + m.right(x)

    _, model = pair(type("Own", (Block,), {"forward": forward}))
    with torch.no_grad(), pytest.raises(RuntimeError, match="changed in place"):
        model(X)


def test_transforms_and_forward_mode() -> None:
    plain, model = pair(Block)
    torch.testing.assert_close(torch.vmap(model)(X[:, None]), torch.vmap(plain)(X[:, None]))
    state = dict(plain.named_parameters())
    for m in (plain, model):
        grads = torch.func.grad(lambda p, m=m: torch.func.functional_call(m, p, (X,)).square().sum())(state)
        m.seen = grads["conv_l1.weight"]
    torch.testing.assert_close(model.seen, plain.seen)
    with dual_level():
        ours, theirs = (unpack_dual(m(make_dual(X, torch.ones_like(X)))).tangent for m in (model, plain))
    torch.testing.assert_close(ours, theirs)


def test_pickles_from_before_load() -> None:
    _, model = pair(Block)
    state = model.__reduce_ex__(2)[2]
    old = fused_class.Fusion(("conv_l1", "conv_l2", "conv_r1", "conv_r2"), "x", "auto")
    loaded = fused_class._blank(Block, pickle.loads(pickle.dumps(old)))
    loaded.__dict__.update(state)
    torch.testing.assert_close(loaded(X), model(X))
    assert revert_gcn(loaded) == [""] and type(loaded) is Block


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripting_compiles_the_original() -> None:
    model = nn.Sequential(BlockA(6, 3, (5, 5)))
    convert_gcn(model, force=True)
    torch.testing.assert_close(torch.jit.script(model)(X.float()), model(X.float()), rtol=1e-4, atol=1e-4)


class OwnNew(BlockA):
    def __new__(cls, *arguments: Any) -> "OwnNew":
        assert arguments
        return super().__new__(cls)


class Registering(BlockA):
    known: ClassVar[list[str]] = []

    def __init_subclass__(cls) -> None:
        Registering.known.append(cls.__name__)


def test_what_cannot_be_swapped_is_refused_and_nothing_is_changed() -> None:
    model = nn.Sequential(
        BlockA(6, 3).to(torch.complex64), BlockA(6, 3).to(torch.float8_e4m3fn), Registering(6, 3), OwnNew(6, 3, (7, 7))
    )
    classes = [type(m) for m in model]
    report = convert_gcn(model, force=True)
    assert not report.swapped and "cannot be copied" in report.refused[3].reason
    assert "complex64" in report.refused[0].reason and "float8" in report.refused[1].reason
    assert "__init_subclass__" in report.refused[2].reason and not Registering.known
    assert [type(m) for m in model] == classes


def test_what_is_excluded_stays_as_it_is() -> None:
    model = nn.Sequential(BlockA(6, 3), BlockA(3, 3))
    assert [e.place for e in convert_gcn(model, force=True, exclude=["1"]).entries] == ["0"]
    with pytest.raises(ValueError, match=r"exclude: expected places.*'2'"):
        convert_gcn(model, exclude=["2"])


def test_large_kernels_are_converted_without_running_them() -> None:
    """Neither PyTorch's backward pass, which can write out of bounds on maps smaller than the kernel, nor much else."""
    model = nn.Sequential(BlockA(21, 21, (63, 63)), BlockA(64, 21, (255, 255)))
    assert len(convert_gcn(model, force=True).swapped) == 2


def test_what_a_conversion_does_is_little_however_wide_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run without data, on the first size that is tried, and nothing timed."""
    runs: list[str] = []
    run = trial._run

    def counting(twin: Any, device: str, *rest: Any) -> Any:
        runs.append(device)
        return run(twin, device, *rest)

    monkeypatch.setattr(trial, "_run", counting)
    monkeypatch.setattr(gain, "_turns", lambda *arguments: pytest.fail("something is timed"))
    for block in (BlockA(256, 21, (255, 255)), BlockA(256, 256, (15, 15)), BlockA(21, 21, (63, 63))):
        runs.clear()
        assert convert_gcn(block, force=True).swapped
        assert runs == ["meta"]


@pytest.mark.parametrize("make", [Block, Inline])
def test_a_trial_needs_no_data(make: type[Block]) -> None:
    assert len(trial._run(trial._copy(make(), "meta"), "meta", (6, *trial.MAP), ("gcn",)).fused) == 1


# A drawn test: changes, modes and hooks at random, the same on the plain copy.


def run_draws(first: int, count: int) -> int:
    """Compare ``count`` drawn lives of a model with those of its plain copy; how many results were compared."""
    compared = 0
    for seed in range(first, first + count):
        draw = random.Random(seed)
        forward = draw.choice([None, None, None, *FORWARDS])
        base = draw.choice([Block, Straight, Inline])
        own = forward is not None and base is Block
        plain, model = pair(type("Own", (Block,), {"forward": forward, "__module__": __name__}) if own else base)
        if base is Straight:
            model(X[:1]), plain(X[:1])
        for _ in range(draw.randint(0, 3)):
            change = drawn_change(draw)
            for m in (plain, model):
                torch.manual_seed(seed)
                change(m)
        x = torch.randn(draw.randint(0, 2), 6, draw.randint(1, 9), draw.randint(1, 9), dtype=torch.float64)
        grad = draw.random() < 0.7
        with torch.set_grad_enabled(grad):
            ours, theirs = outcome(model, x), outcome(plain, x)
            if base is Straight:  # watched, and perhaps not
                ours, theirs = [*ours, *outcome(model, x)], [*theirs, *outcome(plain, x)]
        try:
            assert_equal(ours, theirs)
        except AssertionError as error:
            raise AssertionError(f"draw {seed}: {error}") from error
        compared += len(theirs)
    return compared


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_drawn_lives_of_a_model() -> None:
    assert run_draws(0, 200) > 1000


@pytest.mark.proof
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_many_drawn_lives_of_a_model() -> None:
    assert run_draws(1000, 2000) > 10000
