"""``convert_model(fold_batchnorm=True)``: in eval mode, and only there, a normalisation joins the convolution before it."""

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from batchnorm_families import FOLDED, NOT_FOLDED, BasicBlock, C, Calls, Ghost, Stem
from batchnorm_forwards import FORWARDS, three_in_a_row
from families import randomise
from look_alikes import NormBetween
from refine_families import square
from strips_families import dw
from swap_checks import assert_equal, compare, drawn_change, fused_in_graphs, outcome
from torch import Tensor, nn

import gcn_kernels.swap.rules as rules
from gcn_kernels import convert_gcn, convert_model, revert_gcn
from gcn_kernels.convert import main

X = torch.randn(2, C, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The operator and the number of convolutions of every fused call."""
    calls: Calls = []
    for family in ("gcn", "strips", "refine"):
        operator = getattr(rules, f"fused_{family}")

        def counting(x: Tensor, *rest: Any, family: str = family, operator: Any = operator, **options: Any) -> Tensor:
            strips = sum(map(len, rest[0])) + (options.get("stem") is not None) if family == "strips" else 0
            calls.append((family, {"gcn": 4, "refine": 2, "strips": strips}[family]))
            result: Tensor = operator(x, *rest, **options)
            return result

        monkeypatch.setattr(rules, f"fused_{family}", counting)
    return calls


def pair(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64, **options: Any) -> tuple[nn.Module, nn.Module]:
    """A plain model in eval mode, with statistics as after training, and its converted copy."""
    torch.manual_seed(0)
    plain = randomise(make()).to(dtype).eval()
    model = copy.deepcopy(plain)
    assert convert_model(model, force=True, **({"fold_batchnorm": True} | options)).swapped
    return plain, model


@pytest.mark.parametrize("name", FOLDED)
def test_in_eval_mode_it_is_folded_and_in_training_mode_it_runs(name: str, fused: Calls) -> None:
    make, folded, not_folded = FOLDED[name]
    plain, model = pair(make)
    for training in (False, True, False):  # the last with statistics and parameters that are new
        for m in (plain, model):
            m.train(training)
        for grad in (True, False):
            fused.clear()
            with torch.set_grad_enabled(grad):
                assert_equal(outcome(model, X), outcome(plain, X), 1e-11)
            assert sorted(fused) == sorted(not_folded if training else folded)
        for m in (plain, model):
            for parameter in m.parameters():
                parameter.data.mul_(1.25)
        assert_equal([*model.state_dict().values()], [*plain.state_dict().values()])
    assert revert_gcn(model) == [""] and type(model) is type(plain)
    fused.clear()
    assert_equal(outcome(model, X), outcome(plain, X), 1e-11)
    assert not fused


@pytest.mark.parametrize("name", FOLDED)
def test_without_the_request_the_report_says_what_it_would_do(name: str, fused: Calls) -> None:
    make, _, not_folded = FOLDED[name]
    plain = randomise(make()).double().eval()
    model = copy.deepcopy(plain)
    report = convert_model(model, force=True)
    assert "fold_batchnorm=True folds it in eval" in str(report)
    fused.clear()
    assert_equal(outcome(model, X), outcome(plain, X))
    assert sorted(fused) == sorted(not_folded)
    assert "BatchNorm folded into" in str(convert_model(copy.deepcopy(plain), force=True, fold_batchnorm=True))


@pytest.mark.parametrize("name", FOLDED)
def test_in_single_precision_the_difference_is_rounding(name: str) -> None:
    plain, model = pair(FOLDED[name][0], torch.float32)
    exact = copy.deepcopy(plain).double()(X)
    ours, theirs = model(X.float()), plain(X.float())
    assert (ours - theirs).norm() <= 1e-6 * theirs.norm()
    assert (ours - exact).norm() <= 2 * (theirs - exact).norm() + 1e-7 * exact.norm()


@pytest.mark.parametrize("name", NOT_FOLDED)
def test_what_is_not_exact_is_left_alone(name: str, fused: Calls) -> None:
    make, strips = NOT_FOLDED[name]
    plain = randomise(make()).double().eval()
    model = copy.deepcopy(plain)
    report = convert_model(model, force=True, fold_batchnorm=True)
    assert len(report.swapped) == strips
    if not strips:
        assert "no BatchNorm folded: that is exact only right after a convolution" in report.refused[0].reason
    fused.clear()
    assert_equal(outcome(model, X), outcome(plain, X))
    assert fused == [("strips", 1)] * strips


class Doubled(nn.BatchNorm2d):
    """Another forward around PyTorch's."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def replaced(make: Callable[[], nn.Module]) -> Callable[[Any], object]:
    def change(m: Any) -> None:
        torch.manual_seed(7)
        m.bn1 = randomise(make()).double().eval()

    return change


#: What is done to a normalisation after the swap.
CHANGES: dict[str, Callable[[Any], object]] = {
    "forward hook": lambda m: m.bn1.register_forward_hook(lambda module, inputs, output: output * 2),
    "forward pre-hook": lambda m: m.bn1.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,)),
    "hook that only looks": lambda m: m.bn1.register_forward_hook(lambda module, inputs, output: None),
    "backward hook": lambda m: m.bn1.register_full_backward_hook(lambda module, a, b: tuple(2 * g for g in a)),
    "training mode": lambda m: m.bn1.train(),
    "training mode, averaged over all": lambda m: (setattr(m.bn1, "momentum", None), m.bn1.train()),
    "training mode, uncounted": lambda m: (setattr(m.bn1, "num_batches_tracked", None), m.bn1.train()),
    "no statistics": lambda m: (setattr(m.bn1, "running_mean", None), setattr(m.bn1, "running_var", None)),
    "no mean": lambda m: setattr(m.bn1, "running_mean", None),
    "statistics reset": lambda m: m.bn1.reset_running_stats(),
    "statistics written": lambda m: m.bn1.running_var.mul_(3),
    "statistics replaced": lambda m: setattr(m.bn1, "running_mean", m.bn1.running_mean + 1),
    "statistics with gradients": lambda m: m.bn1.running_var.requires_grad_(),
    "loaded": lambda m: m.load_state_dict({key: value * 2 for key, value in m.state_dict().items()}),
    "eps": lambda m: setattr(m.bn1, "eps", 0.5),
    "negative eps": lambda m: setattr(m.bn1, "eps", -1.0),
    "momentum": lambda m: setattr(m.bn1, "momentum", 0.7),
    "frozen": lambda m: m.bn1.requires_grad_(False),
    "convolution frozen": lambda m: m.conv1.requires_grad_(False),
    "everything frozen": lambda m: m.requires_grad_(False),
    "no weight": lambda m: setattr(m.bn1, "weight", None),
    "no bias": lambda m: setattr(m.bn1, "bias", None),
    "weight written": lambda m: m.bn1.weight.data.mul_(-2),
    "weight of the convolution written": lambda m: m.conv1.weight.data.mul_(3),
    "weight of zeros": lambda m: m.bn1.weight.data.zero_(),
    "weight of another dtype": lambda m: m.bn1.float(),
    "weight of another size": lambda m: setattr(m.bn1, "weight", nn.Parameter(torch.ones(1, dtype=torch.float64))),
    "patched forward": lambda m: setattr(m.bn1, "forward", lambda x: x * 2),
    "patched statistics": lambda m: setattr(m.bn1, "forward", lambda x: F.batch_norm(x, m.bn1.running_var, m.bn1.running_var)),
    "Identity": replaced(nn.Identity),
    "subclass": replaced(lambda: Doubled(C)),
    "without parameters": replaced(lambda: nn.BatchNorm2d(C, affine=False)),
    "two in a row": replaced(lambda: nn.Sequential(nn.BatchNorm2d(C), nn.BatchNorm2d(C))),
    "InstanceNorm": replaced(lambda: nn.InstanceNorm2d(C, affine=True)),
    "the second one": lambda m: setattr(m, "bn1", m.bn2),
    "replaced convolution": lambda m: setattr(m, "conv1", nn.Sequential(m.conv1, nn.ReLU())),
    "strided convolution": lambda m: setattr(m.conv1, "stride", (2, 2)),
}


class Strips(nn.Module):
    """Straight-line code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = dw(C, 1, 7), dw(C, 7, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(C), nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Any:
        return self.bn2(self.conv2(self.bn1(self.conv1(x))))


class Watched(Strips):
    """Code with a branch."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x) if x.dim() == 4 else x


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("make", [Strips, Watched, BasicBlock], ids=lambda c: c.__name__)
def test_what_is_done_after_the_swap_counts(make: type[nn.Module], change: Callable[[Any], object]) -> None:
    plain, model = pair(make)
    for m in (plain, model):
        m(X)
        change(m)
    for _ in range(3):  # watched, and perhaps repeated
        assert_equal(outcome(model, X), outcome(plain, X))
    with torch.no_grad():
        assert_equal(outcome(model, X), outcome(plain, X))
    assert_equal([*model.state_dict().values()], [*plain.state_dict().values()])


class Squares(Strips):
    """Of a refinement."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = square(C, C), square(C, C, bias=False)


def with_forward(base: type[nn.Module], forward: Callable[[Any, Tensor], Any]) -> type[nn.Module]:
    return type("Own", (base,), {"forward": forward, "__module__": __name__})


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("base", [Strips, Squares], ids=lambda c: c.__name__)
def test_whatever_the_forward_does(base: type[nn.Module], forward: Callable[[Any, Tensor], Any]) -> None:
    plain, model = pair(with_forward(base, forward), verify=False)
    for grad in (True, False):
        for _ in range(2):
            with torch.set_grad_enabled(grad):
                compare(outcome(model, X), outcome(plain, X))
    assert_equal([*model.state_dict().values()], [*plain.state_dict().values()])


def test_a_refinement_is_found_after_a_normalised_one(fused: Calls) -> None:
    plain, model = pair(with_forward(Squares, three_in_a_row))
    fused.clear()
    assert_equal(outcome(model, X), outcome(plain, X))
    assert fused == [("refine", 2)]


def test_second_derivatives() -> None:
    plain, model = pair(Strips)
    found = []
    for m in (plain, model):
        x = X.clone().requires_grad_()
        (dx,) = torch.autograd.grad(m(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(dx.square().sum(), [x, *m.parameters()]))
    assert_equal(list(found[1]), list(found[0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, fused: Calls) -> None:
    """In float16, in which folded weights may have no place, the normalisation runs."""
    calls = [("strips", 2)] if dtype is torch.bfloat16 else [("strips", 1)] * 2
    plain, model = pair(Strips, torch.float32)
    exact = plain(X.float())
    fused.clear()
    with torch.autocast("cpu", dtype=dtype):
        ours, theirs = model(X.float()), plain(X.float())
    assert ours.dtype == theirs.dtype == dtype and fused == calls
    assert (ours - exact).norm() <= 2 * (theirs - exact).norm() + torch.finfo(dtype).eps * exact.norm()
    plain, model = plain.to(dtype), model.to(dtype)
    fused.clear()
    ours, theirs = model(X.to(dtype)), plain(X.to(dtype))
    assert ours.dtype == theirs.dtype == dtype and fused == calls
    assert (ours - exact).norm() <= 2 * (theirs - exact).norm() + 4 * torch.finfo(dtype).eps * exact.norm()


def test_copies_and_pickles_fold(fused: Calls) -> None:
    plain, model = pair(Stem)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        fused.clear()
        torch.testing.assert_close(other(X), plain(X))
        assert fused == [("strips", 3)]


@pytest.mark.parametrize("name", ["strips", "stem and skip", "GCN", "refinement in a body"])
def test_one_run_in_eval_mode_is_watched_and_the_next_ones_repeated(name: str, watched: list[int]) -> None:
    plain, model = pair(FOLDED[name][0])
    for training, runs in ((False, 1), (True, 3), (False, 0)):
        for m in (plain, model):
            m.train(training)
        watched.clear()
        for size in ((9, 8), (4, 7), (5, 5)):
            x = torch.randn(2, C, *size, dtype=torch.float64)
            torch.testing.assert_close(model(x), plain(x), rtol=1e-10, atol=1e-10)
        assert len(watched) == runs
    assert_equal([*model.state_dict().values()], [*plain.state_dict().values()])


def test_an_nn_sequential_is_repeated_until_it_is_another(watched: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[tuple[int, Callable[[Any], object]]] = [
        (0, lambda m: m[3].reset_running_stats()),
        (1, lambda m: m.append(nn.ReLU())),
        (0, lambda m: m.__setitem__(0, nn.Conv2d(C, C, 3, padding=1).double())),
        (1, lambda m: m.__delitem__(3)),
        (1, lambda m: m._modules.update({"2": nn.Identity()})),
        (0, lambda m: m.__dict__.update({"2": nn.Identity()})),
        (1, lambda m: m[3].train()),
        (1, lambda m: m[1].train()),
        (1, lambda m: (setattr(m[1], "num_batches_tracked", None), m[1].train())),
        (1, lambda m: m[1].register_forward_hook(lambda module, inputs, output: -output)),
    ]
    for runs, change in changes:
        plain, model = pair(lambda: nn.Sequential(*Ghost().children()))
        model(X), plain(X)
        watched.clear()
        assert_equal(outcome(model, X), outcome(plain, X))
        assert not watched
        for m in (plain, model):
            torch.manual_seed(2)
            change(m)
        assert_equal(outcome(model, X), outcome(plain, X))
        assert len(watched) == runs
        assert_equal(outcome(model, X), outcome(plain, X))
    with monkeypatch.context() as patch:
        plain, model = pair(lambda: nn.Sequential(*Ghost().children()))
        model(X)
        patch.setattr(nn.Sequential, "__iter__", lambda self: iter(list(self._modules.values())[:-1]))
        assert_equal(outcome(model, X), outcome(plain, X))


@fused_in_graphs
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("make", [Stem, BasicBlock], ids=lambda c: c.__name__)
def test_under_compile_the_normalisation_runs(make: type[nn.Module]) -> None:
    plain, model = pair(make)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), plain(X), rtol=1e-10, atol=1e-10)
    exported = torch.export.export(model, (X,)).module()
    torch.testing.assert_close(exported(X), plain(X), rtol=1e-10, atol=1e-10)


def test_only_by_request(capsys: pytest.CaptureFixture[str], fused: Calls) -> None:
    model = NormBetween().eval()
    assert not convert_gcn(model, force=True).swapped and not convert_model(model, force=True).swapped
    assert main([f"{__name__}:Ghost", "--force", "--no-gain"]) == 0
    assert "fold_batchnorm=True" in capsys.readouterr().out
    assert main([f"{__name__}:Ghost", "--force", "--no-gain", "--fold-batchnorm"]) == 0
    assert "BatchNorm folded into 2 of its convolutions in eval" in capsys.readouterr().out


def test_hooks_before_the_swap() -> None:
    model = Ghost().eval()
    model[3].register_forward_hook(lambda module, inputs, output: output * 2)
    report = convert_model(model, force=True, fold_batchnorm=True)
    assert not report.swapped and "3 has a forward hook" in report.refused[0].reason


# Drawn forwards over drawn layers, whose mode and parameters are changed and that are called in drawn modes.


def norm_change(draw: random.Random) -> Callable[[Any], object]:
    value, which = draw.random(), draw.randrange(2)
    changes: list[Callable[[nn.BatchNorm2d], object]] = [
        lambda bn: bn.train(),
        lambda bn: bn.eval(),
        lambda bn: bn.reset_running_stats() if bn.running_var is not None else None,
        lambda bn: bn.requires_grad_(value < 0.5),
        lambda bn: setattr(bn, "eps", value),
        lambda bn: setattr(bn, "bias", None),
        lambda bn: setattr(bn, "running_var", bn.running_var * 2 if bn.running_var is not None else None),
        lambda bn: setattr(bn, "running_mean", None) or setattr(bn, "running_var", None),
        lambda bn: bn.register_forward_hook(lambda module, inputs, output: output * (1 + value)),
        lambda bn: bn.weight.data.mul_(1 + value),
    ]
    change = draw.choice(changes)
    return lambda m: change([k for k in m.modules() if isinstance(k, nn.BatchNorm2d)][which])


def drawn_model(draw: random.Random) -> type[nn.Module]:
    strips = draw.random() < 0.5
    sizes = [draw.choice([(1, 3), (3, 1), (3, 3), (1, 7), (7, 1)]) for _ in range(3)]
    program = [(draw.choice("ccccnnnnsssrrxim"), draw.randrange(8), draw.randrange(3)) for _ in range(10)]
    latest, kept, straight = draw.random() < 0.7, draw.randrange(10), draw.random() < 0.3

    class Drawn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(dw(C, *k) if strips else square(C, C) for k in sizes)
            self.norms = nn.ModuleList(nn.BatchNorm2d(C) for _ in range(2))

        def forward(self, x: Tensor) -> Any:
            values = [x]
            for what, i, k in program:
                a = values[-1] if latest else values[i % len(values)]
                b = values[i % len(values)]
                if what == "c":
                    values.append(self.convs[k](a))
                elif what == "n":
                    values.append(self.norms[k % 2](a))
                elif what == "s":
                    values.append(a + b)
                elif what == "r":
                    values.append(F.relu(a))
                elif what == "x":
                    values.append(a * 0.5)
                elif what == "i" and a is not x and not torch.is_grad_enabled():
                    a += b
                elif what == "m":
                    values[i % len(values)] = a
            return values[-1], values[kept % len(values)]

    class Chain(Drawn):
        def forward(self, x: Tensor) -> Any:
            y = self.norms[0](self.convs[0](x))
            y = self.convs[1](y if strips else y.relu())
            return self.norms[1](y) + x

    return Chain if straight else Drawn


def run_draws(first: int, count: int) -> int:
    """Compare drawn models, converted with folding, with the plain ones; how many values there were."""
    compared = 0
    for seed in range(first, first + count):
        draw = random.Random(seed)
        gcn = draw.random() < 0.2
        make = NormBetween if gcn else drawn_model(draw)
        plain, model = pair_without_trial(make, seed)
        for _ in range(draw.randint(1, 3)):
            for _ in range(draw.choice((0, 1, 1, 2))):
                change = drawn_change(draw) if gcn and draw.random() < 0.5 else norm_change(draw)
                for m in (plain, model):
                    torch.manual_seed(seed)
                    change(m)
            x = torch.randn(draw.randint(1, 2), C, draw.randint(2, 9), draw.randint(1, 9), dtype=torch.float64)
            with torch.set_grad_enabled(draw.random() < 0.6):
                ours, theirs = outcome(model, x), outcome(plain, x)
            try:
                compare(ours, theirs)
                assert_equal([*model.state_dict().values()], [*plain.state_dict().values()])
            except AssertionError as error:
                raise AssertionError(f"draw {seed}: {error}") from error
            compared += len(theirs)
    return compared


def pair_without_trial(make: Callable[[], nn.Module], seed: int) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(seed)
    plain = randomise(make()).double().eval()
    model = copy.deepcopy(plain)
    convert_model(model, verify=False, force=True, fold_batchnorm=True)
    return plain, model


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_drawn_lives_of_a_model(fused: Calls) -> None:
    assert run_draws(0, 120) > 1000
    assert {("strips", 2), ("refine", 2), ("gcn", 4)} <= set(fused)


@pytest.mark.proof
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_many_drawn_lives_of_a_model() -> None:
    assert run_draws(1000, 1000) > 10000
