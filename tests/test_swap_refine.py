"""Boundary refinements and deconvolutions in existing models: found by what they are, fused as the forward computes them."""

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import randomise
from refine_families import (
    DECONVOLUTIONS,
    NO_DECONVOLUTIONS,
    NO_REFINEMENTS,
    REFINEMENTS,
    C,
    DecoderNet,
    Refine,
    RefineBody,
    RefineUnusedNorms,
    UsedThreeTimes,
    bilinear,
    interpolation,
    own,
    square,
)
from refine_forwards import (
    FORWARDS,
    after_a_relu,
    after_a_relu_in_place,
    asked_by_a_function,
    asks_for_a_gradient,
    chance_between,
    condition_on_the_middle,
    in_place_seen_by_another_name,
    in_place_without_its_result,
    map_in_place,
    map_rectified_in_place,
    middle_is_used,
    two_in_a_row,
)
from strips_families import ConvModule
from swap_checks import (
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
from gcn_kernels import FusedRefine, FusedUpsample, convert_gcn, convert_model, revert_gcn
from gcn_kernels.convert import main

X = torch.randn(2, C, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operators that are called."""
    calls: list[str] = []

    def counting(name: str) -> Callable[..., Tensor]:
        operator = getattr(rules, name)

        def call(*arguments: Any, **options: Any) -> Tensor:
            calls.append(name)
            result: Tensor = operator(*arguments, **options)
            return result

        return call

    for name in ("fused_gcn", "fused_refine", "fused_upsample"):
        monkeypatch.setattr(rules, name, counting(name))
    return calls


def pair(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64, **options: Any) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = randomise(make()).to(dtype)
    model = copy.deepcopy(plain)
    assert convert_model(model, force=True, **options).swapped
    return plain, model


@pytest.mark.parametrize("name", REFINEMENTS)
def test_every_form_is_fused_and_gives_the_same_values_and_gradients(name: str, fused: list[str]) -> None:
    make, expected = REFINEMENTS[name]
    plain, model = pair(make)
    keys, parameters = list(plain.state_dict()), list(model.parameters())
    for training in (False, True):
        for m in (plain, model):
            m.train(training)
        for _ in range(2):  # watched, and perhaps repeated
            fused.clear()
            assert_equal(outcome(model, X), outcome(plain, X))
            assert fused == ["fused_refine"] * expected
        fused.clear()
        with torch.no_grad():
            assert_equal(outcome(model, X), outcome(plain, X))
        assert fused == ["fused_refine"] * expected
    assert list(model.state_dict()) == keys and all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert revert_gcn(model) and type(model) is type(plain)


@pytest.mark.parametrize("name", NO_REFINEMENTS)
def test_what_is_none_is_left_alone_with_the_reason(name: str) -> None:
    make, reason = NO_REFINEMENTS[name]
    model = nn.Sequential(nn.Identity(), make())
    report = convert_model(model, force=True)
    assert not report.swapped and not any(hasattr(type(m), "_gcn_how") for m in model.modules())
    (entry,) = report.refused
    assert (entry.place, entry.family) == ("1", "refine") and reason in entry.reason, entry


@pytest.mark.parametrize("name", DECONVOLUTIONS)
def test_every_deconvolution_is_fused(name: str, fused: list[str]) -> None:
    plain, model = pair(lambda: nn.Sequential(DECONVOLUTIONS[name]()))
    keys = list(plain.state_dict())
    for mode in (torch.enable_grad(), torch.no_grad()):
        fused.clear()
        with mode:
            assert_equal(outcome(model, X), outcome(plain, X))
        assert fused == ["fused_upsample"]
    fused.clear()
    odd = [17, 15] if plain[0].kernel_size == (3, 3) else [19, 17]
    torch.testing.assert_close(model[0](X, odd), plain[0](X, odd))  # of which the operator is no part
    assert fused == [] and list(model.state_dict()) == keys and isinstance(model[0], nn.ConvTranspose2d)
    assert revert_gcn(model) == ["0"] and type(model[0]) is type(plain[0])


@pytest.mark.parametrize("name", NO_DECONVOLUTIONS)
def test_what_does_not_double_is_left_alone_with_the_reason(name: str) -> None:
    make, reason = NO_DECONVOLUTIONS[name]
    model = nn.Sequential(make())
    (entry,) = convert_model(model, force=True).entries
    assert not entry.swapped and entry.family == "upsample" and reason in entry.reason
    assert type(model[0]) is nn.ConvTranspose2d


@pytest.mark.parametrize("name", ["bilinear", "2 x 2", "3 x 3", "interpolation 4 x 4"])
def test_a_deconvolution_used_several_times(name: str, fused: list[str]) -> None:
    make = {"2 x 2": lambda: nn.ConvTranspose2d(C, C, 2, 2)}.get(name, DECONVOLUTIONS[name])
    plain, model = pair(lambda: UsedThreeTimes(make))
    fused.clear()
    assert_equal(outcome(model, X), outcome(plain, X))
    assert fused == ["fused_upsample"] * 3
    (entry,) = convert_model(UsedThreeTimes(make), force=True).entries
    assert (entry.place, entry.also, entry.swapped) == ("up", (), True)


def test_the_report_tells_the_form() -> None:
    forms = [nn.ConvTranspose2d(C, 3, 2, 2), nn.ConvTranspose2d(C, C, 3, 2, 1, 1), interpolation(4)]
    report = convert_model(nn.Sequential(*forms), force=True)
    sizes = [f"{C} -> 3: 2x2, doubled", f"{C} -> {C}: 3x3, doubled", f"{C} -> {C}: 4x4 depthwise, doubled"]
    assert [e.sizes for e in report.entries] == sizes and all(e.gain is not None for e in report.entries)


@pytest.mark.parametrize("name", ["2 x 2", "interpolation 4 x 4"])
def test_every_form_is_swapped_for_a_backend_of_gpus(name: str) -> None:
    (entry,) = convert_model(nn.Sequential(DECONVOLUTIONS[name]()), backend="triton", force=True).entries
    assert entry.swapped, entry.reason


FORMS = [name for name in REFINEMENTS if name != "inline"]


@pytest.mark.parametrize("name", FORMS)
def test_a_network_is_the_same_after_the_swap(name: str, fused: list[str]) -> None:
    plain, model = pair(lambda: DecoderNet(REFINEMENTS[name][0]), torch.float32)
    x = torch.randn(2, 3, 60, 52)
    fused.clear()
    for m in (plain, model):
        m.eval()
    with torch.no_grad():
        ours, theirs = model(x), plain(x)
    assert sorted(fused) == ["fused_gcn"] * 2 + ["fused_refine"] * 4 + ["fused_upsample"] * 2
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-6
    report = convert_model(DecoderNet(REFINEMENTS[name][0]), force=True)
    assert sorted((e.family, e.place) for e in report.swapped) == [
        *(("gcn", f"gcn{i}") for i in (1, 2)),
        *(("refine", f"br{i}") for i in (1, 2, 3, 4)),
        *(("upsample", f"deconv{i}") for i in (1, 2)),
    ]
    assert not report.refused


@pytest.mark.parametrize("name", ["in place", "unused norms", "padded"])
def test_training_steps_give_the_same_parameters(name: str) -> None:
    plain, model = pair(lambda: DecoderNet(REFINEMENTS[name][0]))
    for m in (plain, model):
        m.layer0.requires_grad_(False)
        m.br3.requires_grad_(False)
        m.optimizer = torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    for seed in range(3):
        x = torch.randn(2, 3, 24, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for m in (plain, model):
            m.optimizer.zero_grad()
            m(x).square().mean().backward()
            m.optimizer.step()
    for (key, a), b in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=key)


def test_reports_and_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = convert_model(DecoderNet(), force=True)
    assert str(report).startswith(
        "GCN blocks, modules with strips, boundary refinements and deconvolutions: 8 swapped, 0 refused\n"
    )
    assert {(e.sizes, e.parameters) for e in report.swapped if e.family != "gcn"} == {
        (f"{C}: x + 3x3 ReLU 3x3", 18 * C * C + 2 * C),
        (f"{C} -> {C}: 4x4, doubled", 16 * C * C + C),
        (f"{C} -> {C}: 4x4, doubled", 16 * C * C),
    }
    assert main(["refine_families:DecoderNet", "--force", "--no-gain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["place", "class", "family", "sizes", "parameters", "result"]
    assert [line.split()[2] for line in lines[3:]] == ["gcn"] * 2 + ["refine"] * 4 + ["upsample"] * 2
    assert main(["refine_families:DecoderNet", "--force", "--families", "refine"]) == 0
    assert "boundary refinements: 4 swapped, 0 refused" in capsys.readouterr().out
    assert main(["torch.nn:Identity", "--families", "refine", "upsample"]) == 1
    assert "No module has two convolutions of the shape 3 x 3" in capsys.readouterr().out


def test_what_is_fused_already_is_called_so() -> None:
    model = nn.Sequential(FusedRefine(C), FusedUpsample(C, C), Refine(), bilinear())
    assert [e.place for e in convert_model(model, force=True).swapped] == ["2", "3"]
    again = convert_model(model, force=True)
    assert [e.reason for e in again.entries] == ["it already runs fused"] * 4
    network = DecoderNet(lambda: FusedRefine(C))
    assert {e.family for e in convert_model(network, force=True).swapped} == {"gcn", "upsample"}
    assert {e.reason for e in convert_model(network, force=True).entries} == {"it already runs fused"}


def test_other_families_leave_them_alone() -> None:
    model = DecoderNet()
    assert {e.family for e in convert_gcn(model, force=True).entries} == {"gcn"}
    assert [e.place for e in convert_model(model, ("upsample",), force=True).swapped] == ["deconv1", "deconv2"]
    assert type(model.br1) is Refine


def test_what_is_excluded_stays_as_it_is() -> None:
    report = convert_model(DecoderNet(), ("refine", "upsample"), force=True, exclude=["br2", "deconv1"])
    assert [e.place for e in report.entries] == ["br1", "br3", "br4", "deconv2"]
    assert not convert_model(nn.Sequential(REFINEMENTS["inline"][0]()), force=True, exclude=["0.b1"]).entries


def test_networks_of_many_convolutions_are_no_answer() -> None:
    layers = [m for _ in range(3) for m in (square(), nn.ReLU())]
    assert not convert_model(nn.Sequential(*layers), force=True).entries


def test_what_pytorch_computes_faster_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gain, "_turns", lambda run, device, names: [(1.0, 2.0)])
    for known in (gain.refine_gain, gain.upsample_gain):
        known.cache_clear()
    report = convert_model(nn.Sequential(Refine(), bilinear()))
    assert not report.swapped and ["run slower fused (0.5x)" in e.reason for e in report.refused] == [True] * 2
    assert len(convert_model(nn.Sequential(Refine(), bilinear()), force=True).swapped) == 2
    for known in (gain.refine_gain, gain.upsample_gain):
        known.cache_clear()


def test_where_no_kernels_run_nothing_is_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(Refine(), bilinear())
    monkeypatch.setattr("gcn_kernels.core.backends.choose", lambda *arguments: "torch")
    reasons = [e.reason for e in convert_model(model).refused]
    assert all("there are no kernels for" in reason and "of torch.float32 on cpu here" in reason for reason in reasons)
    assert len(reasons) == 2


def test_copies_and_pickles_run_fused(fused: list[str]) -> None:
    _, model = pair(lambda: nn.Sequential(Refine(), bilinear()))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        fused.clear()
        torch.testing.assert_close(other(X), model(X))
        assert fused == ["fused_refine", "fused_upsample"] * 2
        assert revert_gcn(other) == ["0", "1"] and [type(m) for m in other] == [Refine, nn.ConvTranspose2d]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype, fused: list[str]) -> None:
    plain, model = pair(lambda: nn.Sequential(square(), Refine(), bilinear()), torch.float32)
    x = X.float()
    fused.clear()
    with torch.autocast("cpu", dtype=dtype):
        ours, theirs = model(x), plain(x)
        assert fused == ["fused_refine", "fused_upsample"]
        # The map stays float32, the convolutions do not: that sum is not the operator's.
        mixed, plain_mixed = model[1](x), plain[1](x)
    assert ours.dtype == theirs.dtype and mixed.dtype == plain_mixed.dtype and len(fused) == 2
    for a, b in ((ours, theirs), (mixed, plain_mixed)):
        torch.testing.assert_close(a.float(), b.float(), rtol=0.05, atol=0.05 * float(b.float().abs().max()))


def test_not_finite_values_reach_what_they_reach_in_pytorch() -> None:
    for value in (float("nan"), float("inf"), -float("inf")):
        plain, model = pair(lambda: nn.Sequential(Refine(), bilinear()))
        x = X.clone()
        x[0, 1, 4, 4] = value
        assert torch.equal(model(x).isfinite(), plain(x).isfinite()) and torch.equal(model(x).isnan(), plain(x).isnan())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("forward", FORWARDS, ids=lambda f: f.__name__)
def test_whatever_the_forward_does(forward: Callable[[Any, Tensor], Any]) -> None:
    plain, model = pair(own(forward), verify=False)
    for training in (True, False):
        for m in (plain, model):
            m.train(training)
        compare(outcome(model, X), outcome(plain, X))
    with torch.no_grad():
        compare(outcome(model, X), outcome(plain, X))


@pytest.mark.parametrize(
    ("forward", "calls"), [(two_in_a_row, 2), (after_a_relu, 1), (after_a_relu_in_place, 1), (in_place_without_its_result, 1)]
)
def test_a_refinement_is_fused_whatever_comes_before_it(forward: Callable[..., Any], calls: int, fused: list[str]) -> None:
    _, model = pair(own(forward))
    fused.clear()
    model(X)
    assert fused == ["fused_refine"] * calls


def test_gradients_of_a_result_that_the_forward_gives_away() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        a = m.conv1(x)
        return m.conv2(F.relu(a)), a

    for m in pair(own(forward), verify=False):
        y, a = m(X)
        assert torch.autograd.grad(y.sum(), a)[0].abs().sum() > 0


def test_a_result_that_was_passed_over_has_no_place_in_the_graph() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        a = F.relu(m.conv1(x))
        y = x + m.conv2(a)
        return y * 2, a

    _, model = pair(own(forward))
    y, middle = model(X)
    with pytest.raises(RuntimeError, match="asks for the result of a convolution after"):
        torch.autograd.grad(y.sum(), middle)


CHANGES: dict[str, Callable[[Any], object]] = {
    "forward hook": lambda m: m.conv1.register_forward_hook(lambda module, inputs, output: output * 2),
    "pre-hook": lambda m: m.conv2.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,)),
    "hook on the ReLU": lambda m: m.relu2.register_forward_hook(lambda module, inputs, output: output * 2),
    "backward hook": lambda m: m.conv1.register_full_backward_hook(lambda module, a, b: tuple(2 * g for g in a)),
    "backward hook on the ReLU": lambda m: m.relu2.register_full_backward_pre_hook(lambda module, grads: (grads[0] * 2,)),
    "pruning": lambda m: prune.l1_unstructured(m.conv1, "weight", 0.5),
    "weight_norm": lambda m: parametrizations.weight_norm(m.conv2),
    "spectral_norm": lambda m: parametrizations.spectral_norm(m.conv1),
    "dilation": lambda m: (setattr(m.conv1, "dilation", (3, 1)), setattr(m.conv1, "padding", (3, 1))),
    "stride": lambda m: setattr(m.conv2, "stride", (2, 1)),
    "circular": lambda m: setattr(m.conv2, "padding_mode", "circular"),
    "replaced": lambda m: setattr(m, "conv2", nn.Sequential(m.conv2, nn.Tanh())),
    "wrapped": lambda m: setattr(m, "conv1", ConvModule(m.conv1, nn.Tanh())),
    "other activation": lambda m: setattr(m, "relu2", nn.ReLU6()),
    "not in place any more": lambda m: setattr(m.relu2, "inplace", False),
    "patched forward": lambda m: setattr(m.conv1, "forward", lambda x: x * 2),
    "patched ReLU": lambda m: setattr(m.relu2, "forward", lambda x: x * 2),
    "bias removed": lambda m: setattr(m.conv1, "bias", None),
    "frozen": lambda m: m.conv1.requires_grad_(False),
    "all frozen": lambda m: m.requires_grad_(False),
    "channels_last": lambda m: m.to(memory_format=torch.channels_last),
    "weight written": lambda m: m.conv2.weight.data.mul_(3),
    "weight exchanged": lambda m: setattr(m.conv2, "weight", m.conv1.weight),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("make", [RefineUnusedNorms, own(middle_is_used, relu2=nn.ReLU)], ids=["straight", "watched"])
def test_what_is_done_after_the_swap_counts(make: type[nn.Module], change: Callable[[Any], object]) -> None:
    plain, model = pair(make)
    for m in (plain, model):
        m(X), m(X)
        torch.manual_seed(1)
        change(m)
    for _ in range(3):  # watched, and perhaps repeated
        assert_equal(outcome(model, X), outcome(plain, X))


DECONVOLUTION_CHANGES: dict[str, Callable[[Any], object]] = {
    "forward hook": lambda m: m.register_forward_hook(lambda module, inputs, output: output * 2),
    "backward hook": lambda m: m.register_full_backward_hook(lambda module, a, b: tuple(2 * g for g in a)),
    "weight_norm": lambda m: parametrizations.weight_norm(m),
    "pruning": lambda m: prune.l1_unstructured(m, "weight", 0.5),
    "stride": lambda m: setattr(m, "stride", (2, 1)),
    "output padding": lambda m: setattr(m, "output_padding", (1, 0)),
    "bias removed": lambda m: setattr(m, "bias", None),
    "weight": lambda m: setattr(m, "weight", nn.Parameter(m.weight.detach()[:, :, :3, :3] * 2)),
    "another form": lambda m: (
        setattr(m, "weight", nn.Parameter(m.weight.detach()[:, :, :2, 1:3])),
        setattr(m, "padding", (0, 0)),
    ),
    "groups": lambda m: (setattr(m, "weight", nn.Parameter(m.weight.detach()[:, :1])), setattr(m, "groups", C)),
    "frozen": lambda m: m.weight.requires_grad_(False),
}


@pytest.mark.parametrize("change", DECONVOLUTION_CHANGES.values(), ids=DECONVOLUTION_CHANGES)
def test_what_is_done_to_a_deconvolution_counts(change: Callable[[Any], object]) -> None:
    plain, model = pair(lambda: nn.Sequential(bilinear()))
    for m in (plain, model):
        m(X)
        torch.manual_seed(1)
        change(m[0])
    for _ in range(2):
        assert_equal(outcome(model, X), outcome(plain, X))


def test_hooks_before_the_swap() -> None:
    refine = Refine()
    refine.relu.register_forward_hook(lambda module, inputs, output: None)
    deconvolution = bilinear()
    deconvolution.register_forward_hook(lambda module, inputs, output: output * 2)
    report = convert_model(nn.Sequential(refine, deconvolution), force=True)
    assert "relu has a forward hook" in report.refused[0].reason
    assert [e.place for e in report.swapped] == ["1"]
    torch.testing.assert_close(deconvolution(X.float()), 2 * nn.ConvTranspose2d.forward(deconvolution, X.float()))


def test_parametrized_deconvolutions_are_left_alone() -> None:
    (entry,) = convert_model(nn.Sequential(parametrizations.weight_norm(bilinear())), force=True).entries
    assert not entry.swapped and "a way of its own to copy or pickle" in entry.reason


@pytest.mark.parametrize("name", ["in place", "unused norms", "one unused norm", "body", "other names"])
def test_one_run_is_watched_and_the_next_ones_repeated(name: str, watched: list[int], fused: list[str]) -> None:
    plain, model = pair(REFINEMENTS[name][0])
    fused.clear()
    for size in ((9, 8), (4, 7)):
        x = torch.randn(2, C, *size, dtype=torch.float64)
        assert_equal(outcome(model, x), outcome(plain, x))
    assert len(watched) == 1 and fused == ["fused_refine"] * 2


@fused_in_graphs
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["in place", "unused norms", "methods", "inline"])
def test_under_compile(name: str) -> None:
    make, expected = REFINEMENTS[name]
    plain, model = pair(lambda: nn.Sequential(make(), bilinear()))
    y, called = compiled_operators(model, X)
    torch.testing.assert_close(y, plain(X), rtol=1e-9, atol=1e-9)
    assert sum("gcn_kernels.refine" in call for call in called) == expected, called
    assert sum("gcn_kernels.doubling" in call for call in called) == 1, called
    assert sum("convolution" in call for call in called) == (name == "inline"), called
    compare_training_compiled(plain, model, X)


@fused_in_graphs
@pytest.mark.usefixtures("fresh_compiler")
def test_sums_under_compile_that_are_no_refinement() -> None:
    """One channel that is added to all of a map, and under autocast a map that is not of the convolutions' dtype."""
    for out, dtype in (1, None), (C, torch.bfloat16):
        plain, model = pair(Refine, torch.float32)
        plain.conv2 = model.conv2 = square(C, out)
        with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            y, expected = torch.compile(model, backend="eager")(X.float()), plain(X.float())
        torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)


def compile_forwards(forwards: list[Callable[[Any, Tensor], Any]]) -> None:
    for forward in forwards:
        compare_compiled(*pair(own(forward), verify=False), X)


@pytest.mark.usefixtures("fresh_compiler")
def test_forwards_under_compile() -> None:
    in_place = [in_place_seen_by_another_name, in_place_without_its_result, map_in_place, map_rectified_in_place]
    compile_forwards([*in_place, after_a_relu_in_place])


@pytest.mark.proof
@pytest.mark.usefixtures("fresh_compiler")
def test_all_forwards_under_compile() -> None:
    graph_breaks = (asked_by_a_function, condition_on_the_middle, chance_between, asks_for_a_gradient)
    compile_forwards([forward for forward in FORWARDS if forward not in graph_breaks])


def run_draws(first: int, count: int) -> int:
    """Compare drawn forwards over drawn convolutions, called in drawn modes, with the plain module's."""
    compared = 0
    for seed in range(first, first + count):
        draw = random.Random(seed)
        program = [("c", 0, 0, draw.randrange(3))]
        for _ in range(9):
            # Most often what a refinement goes on with.
            what = draw.choice({"c": "rrisssxm", "r": "ccccsx", "i": "ccccsx"}.get(program[-1][0], "ccrisxm"))
            program.append((what, draw.choice([0, 0, 0, 0, 0, 1]), draw.choice([0, 1, 2, 3, 3, 3, 4, 5]), draw.randrange(3)))

        class Drawn(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.convs = nn.ModuleList(square(3, 3, **options) for options in ({}, {"bias": False}, {"padding": "same"}))

            def forward(self, x: Tensor, program: Any = program, kept: int = draw.randrange(10)) -> Any:
                values = [x]
                for what, i, j, conv in program:
                    a, b = values[-1 - i % len(values)], values[-1 - j % len(values)]
                    if what == "c":
                        values.append(self.convs[conv](a))
                    elif what == "r":
                        values.append((F.relu, torch.relu, Tensor.relu)[conv](a))
                    elif what == "i":
                        # Where gradients are recorded, what is changed in place may be kept for no other.
                        t = self.convs[conv](a) if torch.is_grad_enabled() or a is x else a
                        values += [t, F.relu(t, inplace=True) if conv else t.relu_()]
                    elif what == "s":
                        values.append(a + b if conv else b + a)
                        if not torch.is_grad_enabled() and conv == 2 and a is not x:
                            a += b
                    elif what == "x":
                        values.append(a * 0.5)
                    elif what == "m":
                        values[j % len(values)] = a
                return values[-1], values[kept % len(values)]

        compared += compare_drawn(Drawn, 3, draw, seed)
    return compared


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_drawn_forwards(fused: list[str]) -> None:
    assert run_draws(0, 60) > 300
    assert fused.count("fused_refine") >= 4


@pytest.mark.proof
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_many_drawn_forwards() -> None:
    assert run_draws(1000, 2000) > 10000


def test_the_body_alone_is_no_refinement() -> None:
    model = nn.Sequential(RefineBody().body)
    assert not convert_model(model, force=True).swapped
