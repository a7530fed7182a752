"""The swap finds every block whatever it is called, refuses every look-alike with a reason, and changes nothing else."""

import copy
import itertools
import pickle
from dataclasses import replace
from types import SimpleNamespace

import families
import pytest
import torch
from families import BLOCKS, BlockA, InlineBranching, InlineNet, PublicStyleNet, channels, randomise
from look_alikes import LOOK_ALIKES, MORE_THAN_A_BLOCK
from torch import nn
from torch.nn.utils import prune

import gcn_kernels
from gcn_kernels import FusedGCN, convert_gcn, revert_gcn
from gcn_kernels.convert import load, main
from gcn_kernels.swap import api, gain
from gcn_kernels.swap.report import Entry, Gain, SwapReport


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def kernel(module: nn.Module) -> int:
    return max(max(m.kernel_size) for m in module.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("name", BLOCKS)
def test_every_family_is_swapped_and_gives_the_same_values(name):
    block = randomise(BLOCKS[name]()).eval()
    model = nn.Sequential(
        nn.Conv2d(3, channels(block), 3, padding=1), block, nn.BatchNorm2d(1) if name[0] == "G" else nn.Identity()
    )
    keys, parameters = list(model.state_dict()), list(model.parameters())
    k = kernel(block)
    maps = [torch.randn(2, 3, 2 * k + 3, 2 * k + 1), torch.randn(2, 3, max(1, k // 2), max(1, k // 2) + 1)]
    before = [model.eval()(x) for x in maps]
    report = convert_gcn(model, force=True)
    assert [(e.place, e.class_name) for e in report.swapped] == [("1", type(BLOCKS[name]()).__name__)], report
    assert not report.refused
    for x, expected in zip(maps, before, strict=True):
        assert relative_error(model(x), expected) < 1e-5
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert revert_gcn(model) == ["1"]
    assert type(model[1]) is type(BLOCKS[name]())
    assert all(torch.equal(model(x), expected) for x, expected in zip(maps, before, strict=True))


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_every_look_alike_is_refused_with_its_reason(name):
    make, reason = LOOK_ALIKES[name]
    model = nn.Sequential(make())
    before = dict(vars(model[0]))
    report = convert_gcn(model, force=True)
    assert not report.swapped
    assert [e.place for e in report.refused] == ["0"]
    assert reason in report.refused[0].reason
    assert type(model[0]) is type(make()) and vars(model[0]) == before


@pytest.mark.parametrize("name", MORE_THAN_A_BLOCK)
def test_what_is_more_than_a_block_is_swapped_and_does_all_of_it(name):
    torch.manual_seed(0)
    model = randomise(MORE_THAN_A_BLOCK[name]()).double()
    plain = copy.deepcopy(model)
    assert [e.place for e in convert_gcn(model, force=True).swapped] == [""]
    x = torch.randn(2, channels(model), 9, 8, dtype=torch.float64)
    inputs = (x, x + 1, x * 2) if name == "three-inputs" else (x,)
    for m in (model, plain):
        torch.manual_seed(1)
        y = m(*inputs)
        y = y[0] if isinstance(y, tuple) else y
        assert type(y) is torch.Tensor
        y.square().mean().backward()
        m.seen = y.detach()
    torch.testing.assert_close(model.seen, plain.seen, rtol=1e-9, atol=1e-9)
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9, msg=name)


def test_without_the_trial_the_structure_is_enough():
    assert convert_gcn(BLOCKS["A"](), verify=False, force=True).swapped
    model = LOOK_ALIKES["relu-between"][0]()
    plain = copy.deepcopy(model)
    assert convert_gcn(model, verify=False, force=True).swapped
    x = torch.randn(1, 6, 9, 8)
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize("name", ["A", "D", "J", "K", "leftovers"])
def test_a_training_step_gives_the_same_parameters(name):
    torch.manual_seed(0)
    block = randomise(BLOCKS[name]()).double()
    model = nn.Sequential(nn.Conv2d(3, channels(block), 3, padding=1), nn.BatchNorm2d(channels(block)), nn.ReLU(), block).double()
    plain = copy.deepcopy(model)
    fused_optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    convert_gcn(model, force=True)
    plain_optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        x = torch.randn(2, 3, 9, 12, dtype=torch.float64)
        for m, optimizer in ((model, fused_optimizer), (plain, plain_optimizer)):
            optimizer.zero_grad()
            m(x).square().mean().backward()
            optimizer.step()
    for (key, a), b in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=key)


def test_checkpoints_load_both_ways():
    a, b = PublicStyleNet(), PublicStyleNet()
    convert_gcn(a, force=True)
    x = torch.randn(1, 3, 40, 56)
    b.load_state_dict(a.state_dict())
    torch.testing.assert_close(a.eval()(x), b.eval()(x), rtol=1e-5, atol=1e-5)
    fresh = PublicStyleNet()
    a.load_state_dict(fresh.state_dict())
    torch.testing.assert_close(a(x), fresh.eval()(x), rtol=1e-5, atol=1e-5)


def test_one_instance_registered_many_times_is_one_entry():
    block = BlockA(4, 4)
    model = nn.ModuleDict({"heads": nn.ModuleList([block] * 5), "again": block})
    report = convert_gcn(model, force=True)
    assert [(e.place, e.also) for e in report.entries] == [("heads.0", ("heads.1", "heads.2", "heads.3", "heads.4", "again"))]
    assert report.entries[0].parameters == sum(p.numel() for p in block.parameters())
    assert revert_gcn(model) == ["heads.0"]


def test_shared_and_tied_weights_stay_tied():
    a, b = BlockA(4, 4), BlockA(4, 4)
    b.conv_l1.weight = a.conv_l1.weight
    a.conv_r2 = b.conv_r2
    model = nn.Sequential(a, b)
    x = torch.randn(1, 4, 8, 9)
    before = model(x)
    assert len(convert_gcn(model, force=True).swapped) == 2
    assert b.conv_l1.weight is a.conv_l1.weight and a.conv_r2 is b.conv_r2
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)


def test_hooks_on_the_block_keep_firing():
    seen = []
    block = BlockA(4, 4)
    block.register_forward_pre_hook(lambda m, i: seen.append("pre"))
    block.register_forward_hook(lambda m, i, o: seen.append("post"))
    block.register_full_backward_hook(lambda m, gi, go: seen.append("backward"))
    assert convert_gcn(block, force=True).swapped
    assert not seen, "the trial fired a hook"
    block(torch.randn(1, 4, 8, 9, requires_grad=True)).sum().backward()
    assert seen == ["pre", "post", "backward"]


def test_a_hook_set_on_a_convolution_later_still_fires():
    block, seen = BlockA(4, 4), []
    convert_gcn(block, force=True)
    handle = block.conv_r1.register_forward_hook(lambda m, i, o: seen.append(o.shape))
    block(torch.randn(1, 4, 8, 9))
    handle.remove()
    block(torch.randn(1, 4, 8, 9))
    assert len(seen) == 1


def test_pruning_after_the_swap_is_respected():
    block = BlockA(4, 4)
    convert_gcn(block, force=True)
    prune.l1_unstructured(block.conv_l1, "weight", 0.5)
    x = torch.randn(1, 4, 8, 9)
    pruned = block(x)
    revert_gcn(block)
    torch.testing.assert_close(pruned, block(x))


@pytest.mark.parametrize("how", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_parametrizations_are_kept(how):
    torch.manual_seed(0)
    block = randomise(BlockA(4, 4)).double()
    how(block.conv_l1)
    how(block.conv_r2)
    plain = copy.deepcopy(block)
    assert convert_gcn(block, force=True).swapped
    x = torch.randn(1, 4, 8, 9, dtype=torch.float64)
    for m in (block, plain):
        m(x).square().mean().backward()
    for (name, a), b in zip(block.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12, msg=name)
    expected = block.eval()(x)
    nn.utils.parametrize.remove_parametrizations(block.conv_l1, "weight")
    torch.testing.assert_close(block(x), expected)


def test_modes_random_state_and_grad_mode_are_left_alone():
    model = PublicStyleNet()
    model.gcn1.eval()
    model.gcn2.conv_l1.weight.requires_grad_(False)
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert len(convert_gcn(model, force=True).swapped) == 4
    revert_gcn(model)
    with torch.inference_mode():
        assert len(convert_gcn(model, force=True).swapped) == 4
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    assert not model.gcn2.conv_l1.weight.requires_grad


def test_the_random_state_is_restored_even_by_a_block_that_draws():
    model = MORE_THAN_A_BLOCK["dropout"]()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    convert_gcn(model, force=True)
    assert torch.equal(torch.rand(3), expected)


def test_deepcopy_and_pickle_keep_the_swap_and_its_undoing():
    model = PublicStyleNet().eval()
    x = torch.randn(1, 3, 40, 56)
    before = model(x)
    convert_gcn(model, force=True)
    expected = model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin.gcn1) is type(model.gcn1)
        assert torch.equal(twin(x), expected)
        assert len(revert_gcn(twin)) == 4
        assert type(twin.gcn1) is BlockA
        assert torch.equal(twin(x), before)
    assert isinstance(model.gcn1, BlockA)


def test_a_copy_can_be_converted_instead():
    model = PublicStyleNet()
    report = convert_gcn(model, inplace=False, force=True)
    assert type(model.gcn1) is BlockA
    assert report.model is not model and len(report.swapped) == 4
    assert type(report.model.gcn1) is not BlockA


def test_converting_twice_changes_nothing_more():
    model = nn.Sequential(BlockA(4, 4), FusedGCN(4, 2, 3))
    convert_gcn(model, force=True)
    classes = [type(m) for m in model]
    report = convert_gcn(model, force=True)
    assert not report.swapped
    assert [e.reason for e in report.refused] == ["it already runs fused"] * 2
    assert [type(m) for m in model] == classes


def test_dtypes_devices_and_meta():
    meta = PublicStyleNet().to("meta")
    assert len(convert_gcn(meta, force=True).swapped) == 4
    assert all(p.is_meta for p in meta.parameters())
    halves = PublicStyleNet().to(torch.bfloat16)
    assert len(convert_gcn(halves, force=True).swapped) == 4
    x = torch.randn(1, 3, 40, 56)
    model = PublicStyleNet().eval()
    convert_gcn(model, force=True)
    model.double()
    assert model(x.double()).dtype == torch.float64
    mixed = BlockA(4, 4)
    mixed.conv_l1.to("meta")
    assert "more than one device: cpu, meta" in convert_gcn(mixed).refused[0].reason
    mixed = BlockA(4, 4)
    mixed.conv_l2.double()
    assert "more than one dtype: torch.float32, torch.float64" in convert_gcn(mixed).refused[0].reason


def test_lazy_convolutions_are_refused_until_they_have_weights():
    block = BlockA(4, 4)
    block.conv_l1 = nn.LazyConv2d(4, (7, 1), padding=(3, 0))
    assert "not initialised yet" in convert_gcn(block, force=True).refused[0].reason
    block(torch.randn(1, 4, 8, 9))
    assert convert_gcn(block, force=True).swapped


def test_inputs_by_name_and_optional_inputs():
    block = randomise(BLOCKS["optional-input"]())
    convert_gcn(block, force=True)
    x, mask = torch.randn(2, 6, 9, 8), torch.rand(2, 1, 9, 8)
    torch.testing.assert_close(block(x=x), block(x))
    torch.testing.assert_close(block(x, mask), block(x) * mask, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(block(x, mask=mask), block(x) * mask, rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError):
        block()


def test_a_block_built_on_the_class_of_another_is_found_innermost():
    model = nn.Sequential(nn.Sequential(nn.Sequential(BlockA(4, 4))))
    assert [e.place for e in convert_gcn(model, force=True).entries] == ["0.0.0"]
    assert type(model[0]) is nn.Sequential


def test_models_without_blocks_report_nothing():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.TransformerEncoderLayer(8, 2), *(nn.Conv2d(8, 8, 1) for _ in range(4)))
    report = convert_gcn(model, force=True)
    assert report.entries == []
    assert "0 swapped" in str(report)


@pytest.mark.parametrize("training", [False, True])
def test_an_inline_block_is_found_and_swapped(training):
    torch.manual_seed(0)
    model = randomise(InlineNet()).double().train(training)
    plain = copy.deepcopy(model)
    report = convert_gcn(nn.Sequential(model), force=True)
    assert [(e.place, e.class_name) for e in report.swapped] == [("0", "InlineNet")]
    x = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    for m in (model, plain):
        m(x).square().mean().backward()
    torch.testing.assert_close(model(x), plain(x), rtol=1e-9, atol=1e-9)
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9, msg=name)
    assert list(model.state_dict()) == list(plain.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
        revert_gcn(twin)
        assert type(twin) is InlineNet
    # A plain attribute that the trace saw: a change is followed, not frozen.
    model.scale = plain.scale = 3
    torch.testing.assert_close(model(x), plain(x), rtol=1e-9, atol=1e-9)


def test_an_inline_block_follows_the_mode():
    model = InlineNet(dropout=0.5)
    convert_gcn(model, force=True)
    x = torch.randn(1, 3, 9, 12)
    assert torch.equal(model.eval()(x), model(x))
    assert not torch.equal(model.train()(x), model(x))


def test_an_inline_block_whose_forward_branches_on_values_is_swapped():
    model = randomise(InlineBranching()).eval()
    plain = copy.deepcopy(model)
    assert convert_gcn(model, force=True).swapped
    for sign in (1, -1):
        x = sign * torch.rand(1, 3, 9, 12)
        torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-4)


def test_an_inline_block_with_a_hook_is_reported():
    model = InlineNet()
    model.l1.register_forward_hook(lambda m, i, o: None)
    assert "l1 has a forward hook" in convert_gcn(model, force=True).refused[0].reason


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, got int"):
        convert_gcn(3)
    with pytest.raises(ValueError, match="backend: expected one of"):
        convert_gcn(nn.Identity(), backend="fast")


def test_reverting_after_the_class_changed_again_says_so():
    block = BlockA(4, 4)
    convert_gcn(block, force=True)
    block.gate = nn.Parameter(torch.ones(1))
    nn.utils.parametrize.register_parametrization(block, "gate", nn.Softplus())
    with pytest.raises(RuntimeError, match="was changed after the swap"):
        revert_gcn(block)
    nn.utils.parametrize.remove_parametrizations(block, "gate")
    assert revert_gcn(block) == [""]


def test_the_report_is_a_table():
    model = nn.Sequential(BlockA(6, 4), LOOK_ALIKES["relu-between"][0]())
    lines = str(convert_gcn(model, force=True)).splitlines()
    assert lines[0] == "GCN blocks: 1 swapped, 1 refused"
    assert lines[1].split() == ["place", "class", "sizes", "parameters", "gain", "result"]
    assert lines[3].startswith("0") and "BlockA" in lines[3] and "6 -> 4 -> 4, k=7" in lines[3] and "576" in lines[3]
    assert lines[4].startswith("1") and "refused: its forward computes no sum" in lines[4]


def test_a_timed_gain_has_its_spread_and_a_single_time_is_not_shown(monkeypatch):
    assert str(Gain(4.9, 5.1)) == "4.9x, backward 5.1x"
    timed = gain._measured([(2.0, 1.0), (3.0, 1.0), (4.0, 1.0), (5.0, 1.0), (6.0, 1.0)])
    assert timed == Gain(4.0, spread=(2.8, 5.2)) and str(timed) == "4.0x [2.8, 5.2]"
    calls, milliseconds = [], itertools.count()  # one passes between any two looks at the clock
    monkeypatch.setattr(gain, "time", SimpleNamespace(perf_counter=lambda: next(milliseconds) / 1000))
    turns = gain._turns(calls.append, torch.device("cpu"), ("torch", "cpu"))
    # Of 21 turns of five looks in a tenth of a second, the first does not count.
    assert len(turns) == 20 and calls == ["torch", "cpu"] * 21 and all(t == pytest.approx((1e-3, 1e-3)) for t in turns)
    entry = Entry("a", (), "A", "", True, "", 1, gain._measured([(3.0, 1.0)]))
    assert "3.0x" not in str(SwapReport(nn.Identity(), [entry]))
    assert "4.0x [2.8, 5.2]" in str(SwapReport(nn.Identity(), [replace(entry, gain=timed)]))


def test_what_is_fused_already_is_called_so(capsys, monkeypatch):
    model = nn.Sequential(BlockA(6, 4), FusedGCN(6, 4, 7), LOOK_ALIKES["relu-between"][0]())
    convert_gcn(model, force=True)
    lines = str(convert_gcn(model, force=True)).splitlines()
    assert lines[0] == "GCN blocks: 0 swapped, 1 refused, 2 already fused"
    assert lines[3].endswith("already fused") and lines[4].endswith("already fused") and "refused: " in lines[5]
    monkeypatch.setattr(families, "ConvertedNet", model[:2], raising=False)
    assert main(["families:ConvertedNet"]) == 0
    assert "2 already fused" in capsys.readouterr().out


def test_the_command_line_leaves_the_gain_out(capsys):
    assert main(["families:PublicStyleNet", "--force", "--no-gain"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["place", "class", "family", "sizes", "parameters", "result"]


def test_the_command_line_prints_the_report(capsys):
    assert main(["families:PublicStyleNet", "--force"]) == 0
    assert "deconvolutions: 4 swapped" in capsys.readouterr().out
    assert main(["torch.nn:Identity"]) == 1
    for wrong in ("families", "families:Nothing", "no_such_module:x", "families:kernel"):
        with pytest.raises(SystemExit) as error:
            main([wrong])
        assert error.value.code == 2
    assert isinstance(load("families:PublicStyleNet"), PublicStyleNet)
    assert gcn_kernels.convert_gcn is convert_gcn


@pytest.mark.parametrize(("forward", "swapped"), [(0.5, False), (0.79, False), (0.81, True), (3.0, True)])
def test_a_block_that_should_be_slower_fused_stays(monkeypatch: pytest.MonkeyPatch, forward: float, swapped: bool) -> None:
    """By more than a quarter; less is no reason."""
    monkeypatch.setattr(api, "expected_gain", lambda *_: Gain(forward))
    report = convert_gcn(nn.Sequential(BlockA(6, 3)))
    assert bool(report.swapped) == swapped
    if not swapped:
        assert f"run slower fused ({forward:.1f}x)" in report.refused[0].reason
    assert convert_gcn(nn.Sequential(BlockA(6, 3)), force=True).swapped
