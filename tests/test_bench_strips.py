"""The benchmark of depthwise strips: what it counts, that it compares like with like, and that nothing wrong is timed."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_strips
import pytest
import torch
import torch.nn.functional as F
from gcnbench import models, runtimes, strips, strips_options
from gcnbench.environment import Rates
from gcnbench.report import Row
from gcnbench.strips import BASELINES, INCEPTION, MSCA, PRESETS, StripsProblem, make_inputs, parse_form
from gcnbench.variants import mode_context, result_names
from torch import Tensor, nn

import gcn_kernels
from gcn_kernels import reference

CPU = torch.device("cpu")
FORMS = ("msca", "stripblock", "lska23", "inception", "slak9", "pair11", "row5", "column5", "square3")


def problem(form: str, dtype: torch.dtype = torch.float64, channels: int = 16) -> StripsProblem:
    """On a map that is wider than high and lower than the longest kernels."""
    return StripsProblem.of((parse_form(form), channels, 12, 13), 2, dtype, CPU)


# What is counted.
def test_work_by_hand() -> None:
    msca = StripsProblem.of((MSCA, 64, 128, 96), 2, torch.bfloat16, CPU)
    taps = 25 + 2 * (7 + 11 + 21)
    assert msca.k == 21
    assert msca.flops("fwd") == 2 * 2 * 128 * 96 * 64 * taps
    assert [msca.flops(mode) // msca.flops("fwd") for mode in ("bwd", "fwdbwd")] == [2, 3]
    x, parameters = 2 * 64 * 128 * 96, 64 * (taps + 7)
    assert msca.bytes("fwd") == 2 * (2 * x + parameters)
    assert msca.bytes("bwd") == 2 * (3 * x + 2 * parameters)
    assert msca.bytes("fwdbwd") == msca.bytes("fwd") + msca.bytes("bwd")
    # Convolutions of an eighth of the channels; the whole map is read and written. No biases in LSKA.
    assert problem("inception").flops("fwd") == 2 * 2 * 12 * 13 * 2 * (9 + 11 + 11)
    assert problem("inception").bytes("fwd") == 8 * (2 * 2 * 16 * 12 * 13 + 2 * (9 + 11 + 11 + 3))
    assert problem("lska23").bytes("fwd") == 8 * (2 * 2 * 16 * 12 * 13 + 16 * (5 + 5 + 7 + 7))


def test_floor_is_the_slower_of_arithmetic_and_memory_in_float32_arithmetic() -> None:
    p = StripsProblem.of((MSCA, 64, 128, 128), 1, torch.bfloat16, CPU)
    assert p.arithmetic == torch.float32 and StripsProblem.of((MSCA, 8, 8, 8), 1, torch.float64, CPU).arithmetic == torch.float64
    assert StripsProblem.of((MSCA, 8, 8, 8), 1, torch.bfloat16, torch.device("cuda")).arithmetic == torch.bfloat16
    assert Rates({"float32": 199e9}, 34e9).floor_ms(p, "fwd") == pytest.approx(p.flops("fwd") / 199e9 * 1e3)
    assert Rates({"float32": 199e9}, 1e9).floor_ms(p, "fwd") == pytest.approx(p.bytes("fwd") / 1e9 * 1e3)


def test_presets_are_the_published_maps() -> None:
    def maps(preset: str) -> list[tuple[str, int, int, int]]:
        return [(form.name, *size) for form, *size in PRESETS[preset]]

    attention = [("msca", 32, 128, 128), ("msca", 64, 64, 64), ("msca", 160, 32, 32), ("msca", 256, 16, 16)]
    wide = [("square3", c, 128 >> i, 128 >> i) for i, c in enumerate((256, 512, 640, 1024))]
    assert maps("mscan-t") == [*attention, *wide]
    assert maps("stripnet-s")[0] == ("stripblock", 64, 256, 256) and maps("stripnet-s")[-1] == ("stripblock", 256, 7, 7)
    assert [name for name, *_ in maps("slak")] == ["slak51", "slak49", "slak47", "slak13"]
    assert maps("inceptionnext")[0] == ("inception", 96, 128, 128)
    assert {p for p in PRESETS} == {"mscan-t", "mscan-b", "stripnet-s", "lska", "inceptionnext", "slak"}


# What is compared.
def test_slices_are_the_token_mixer_of_inceptionnext() -> None:
    inputs = make_inputs(problem("inception"), CPU, seed=0)
    x, w_hw, w_w, w_h, b_hw, b_w, b_h = inputs.tensors
    rest, hw, w, h = torch.split(x, [10, 2, 2, 2], dim=1)
    parts = rest, F.conv2d(hw, w_hw, b_hw, padding=1, groups=2), F.conv2d(w, w_w, b_w, padding=(0, 5), groups=2)
    expected = torch.cat([*parts, F.conv2d(h, w_h, b_h, padding=(5, 0), groups=2)], 1)
    torch.testing.assert_close(INCEPTION.apply(reference.strips, *inputs.tensors), expected)
    torch.testing.assert_close(INCEPTION.apply(gcn_kernels.fused_strips, *inputs.tensors), expected)


@pytest.mark.parametrize("mode", ["fwd", "bwd", "fwdbwd"])
@pytest.mark.parametrize("form", FORMS)
def test_every_variant_is_the_definition(form: str, mode: str) -> None:
    inputs = make_inputs(problem(form), CPU, seed=0)
    expected = strips.float64_results(inputs, needs_gradients=mode != "fwd")
    variants = [BASELINES["eager-nchw"], BASELINES["eager-channels-last"], strips.fused("auto", "NCHW", CPU)]
    for variant in variants:
        with mode_context(mode):
            results = variant.prepare(inputs.laid_out(variant.layout), mode)()
        names = result_names(mode, inputs.arguments)
        for name, result in zip(names, results, strict=True):
            torch.testing.assert_close(result, expected[name], check_stride=False, msg=f"{variant.name}: {name}")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_runtimes_are_the_definition(name: str) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip(name)
    for form in FORMS:
        inputs = make_inputs(problem(form, torch.float32), CPU, seed=0)
        with mode_context("fwd"):
            (y,) = BASELINES[name].prepare(inputs, "fwd")()
        torch.testing.assert_close(y, inputs.definition()(*inputs.tensors), msg=form)


def test_the_graph_needs_no_runtime_to_be_looked_at() -> None:
    inputs = make_inputs(problem("msca"), CPU, seed=0)
    kinds = [kind for kind, *_ in strips.nodes(inputs)]
    assert kinds == ["Conv"] * 7 + ["Sum"] and strips.nodes(inputs)[-1][1] == ["t_0", "t_2", "t_4", "t_6"]
    assert runtimes.conv_node("x", "w", None, "y", (4, 1, 1, 7), (3, 3), 4)[3]["pads"] == [0, 9, 0, 9]


def test_baselines_that_might_corrupt_the_heap_are_told() -> None:
    inputs = make_inputs(StripsProblem.of((MSCA, 8, 16, 16), 1, torch.float32, CPU), CPU, seed=0)
    assert not strips.unsafe(inputs, True)
    low = make_inputs(StripsProblem.of((MSCA, 8, 11, 16), 1, torch.float32, CPU), CPU, seed=0)
    assert strips.unsafe(low, True) and not strips.unsafe(low, False)


# The command.
TINY = ("--device", "cpu", "--quick", "--maps", "16x14x13", "--form")
FEW = ("--baselines", "eager-nchw", "eager-channels-last")


def results_of(arguments: list[str], path: Path) -> tuple[int, list[Row]]:
    status = bench_strips.main([*arguments, "--json", str(path), "--force"])
    return status, [Row(**fields) for fields in json.loads(path.read_text())["rows"]]


def test_table_json_and_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY, "msca", "inception", *FEW, "--mode", "fwd", "fwdbwd", "--csv", str(tmp_path / "out.csv")]
    status, rows = results_of(arguments, tmp_path / "out.json")
    shown = capsys.readouterr().out
    assert status == 0 and len(rows) == 2 * 2 * 5 and all(r.line() in shown for r in rows)
    assert {r.map for r in rows} == {"msca 16x14x13", "inception 16x14x13"} and {r.k for r in rows} == {21, 11}
    for r in rows:
        assert r.status == "ok" and r.ms and (r.kind == "floor" or r.error is not None)
    assert "or the bytes at the copy rate" in shown and "copy rate" in shown
    assert "# 5x5 1x7 7x1 1x11 11x1 1x21 21x1;" in shown
    # One mean over blocks of all sizes.
    means = json.loads((tmp_path / "out.json").read_text())["geometric_means"]
    assert {(m["k"], m["of_maps"]) for m in means} == {(None, 2)} and "batch 1, float32" in shown
    with (tmp_path / "out.csv").open() as file:
        assert [r["backend"] for r in csv.DictReader(file)] == [r.backend for r in rows]


def test_a_wrong_result_is_shown_not_timed_and_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = gcn_kernels.fused_strips

    def wrong(x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        y = right(x, *arguments, **options)
        return y * 1.001 if x.is_contiguous() else y

    monkeypatch.setattr(gcn_kernels, "fused_strips", wrong)
    status, rows = results_of([*TINY, "msca", *FEW, "--mode", "fwd"], tmp_path / "out.json")
    assert status == 1
    by_layout = {r.layout: r for r in rows if r.kind == "fused"}
    assert (by_layout["NCHW"].status, by_layout["NCHW"].times_ms) == ("failed", [])
    assert by_layout["channels_last"].status == "ok"
    assert "FAILED: wrong result: error of y" in capsys.readouterr().out


class Tiny(nn.Module):
    """A model with strips that returns two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.row = nn.Conv2d(8, 8, (1, 11), padding=(0, 5), groups=8)
        self.column = nn.Conv2d(8, 8, (11, 1), padding=(5, 0), groups=8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(self.first(x))
        return self.column(self.row(x)), x


def no_model() -> nn.Module:
    raise ModuleNotFoundError("No module named 'timm'")


def small_models(monkeypatch: pytest.MonkeyPatch, *makes: Callable[[], nn.Module]) -> None:
    monkeypatch.setattr(models, "MODELS", {f"model{i}": models.Model(11, 16, make) for i, make in enumerate(makes)})
    # What is slower fused on this map, on this machine, is not the question.
    convert = models.convert_model
    monkeypatch.setattr(models, "convert_model", lambda model, **options: convert(model, force=True, **options))


def test_models_before_and_after_and_one_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_models(monkeypatch, no_model, Tiny)
    calls: list[int] = []
    operator = gcn_kernels.swap.rules.fused_strips
    monkeypatch.setattr(gcn_kernels.swap.rules, "fused_strips", lambda *a, **k: (calls.append(1), operator(*a, **k))[1])
    status, rows = results_of(["--device", "cpu", "--quick", "--preset", "models"], tmp_path / "out.json")
    assert status == 0 and calls
    assert "not run: ModuleNotFoundError: No module named 'timm'" in capsys.readouterr().out
    names = ["direct floor", "eager NCHW", "eager channels_last", "fused NCHW", "fused channels_last"]
    assert [r.backend for r in rows] == names * 2 and {r.map for r in rows} == {"model1 3x16x16"}
    assert all(r.status == "ok" and r.ms for r in rows)
    assert {"y", "d x", "d row.weight", "d norm.bias"} <= rows[-1].errors.keys()


def test_a_converted_model_that_computes_something_else_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small_models(monkeypatch, Tiny)
    operator = gcn_kernels.swap.rules.fused_strips
    monkeypatch.setattr(gcn_kernels.swap.rules, "fused_strips", lambda *a, **k: 1.01 * operator(*a, **k))
    status, rows = results_of(["--device", "cpu", "--quick", "--preset", "models", "--mode", "fwd"], tmp_path / "out.json")
    assert status == 1 and {r.status for r in rows if r.kind == "fused"} == {"failed"}


class WrongInChannelsLast(Tiny):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        last = x.is_contiguous(memory_format=torch.channels_last)
        return super().forward(x + (x - x.detach()) if last else x)


def test_a_layout_in_which_pytorchs_gradients_are_wrong_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small_models(monkeypatch, WrongInChannelsLast)
    status, rows = results_of(["--device", "cpu", "--quick", "--preset", "models", "--mode", "fwdbwd"], tmp_path / "out.json")
    by_layout = {layout: {r.status for r in rows if r.layout == layout} for layout in ("NCHW", "channels_last")}
    assert status == 0 and by_layout == {"NCHW": {"ok"}, "channels_last": {"unavailable"}}
    assert all("PyTorch's own gradients" in str(r.reason) for r in rows if r.status != "ok")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--form", "msca"], "--form and --maps: expected both or neither"),
        (["--maps", "8x8x8"], "--form and --maps: expected both or neither"),
        (["--preset", "slak", "--form", "msca", "--maps", "8x8x8"], "--preset: stands for --form and --maps, got both"),
        (["--form", "pair4", "--maps", "8x8x8"], "with an odd K, got 'pair4'"),
        (["--form", "nothing", "--maps", "8x8x8"], "expected one of msca, stripblock"),
        (["--form", "inception", "--maps", "7x8x8"], "expected maps of at least 8"),
        (["--preset", "models", "--backend", "torch"], "expected --backend auto"),
        (["--preset", "models", "--baselines", "onnxruntime"], "--baselines onnxruntime: expected one of"),
        (["--backend", "cuda"], "--backend cuda: backend='cuda' cannot run"),
        (["--backend", "triton"], "--backend triton: backend='triton' cannot run"),
        (["--baselines", "onnxruntime", "--mode", "bwd"], "expected a --mode that it can do, fwd, got bwd"),
        (["--json", "missing/out.json"], "the folder missing does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_strips, "measure", lambda *args: pytest.fail("the benchmark started"))
    with pytest.raises(SystemExit) as stop:
        bench_strips.main(["--device", "cpu", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_defaults() -> None:
    plan = strips_options.parse(["--device", "cpu"], "").plan
    assert [(p.map.name, p.map.channels) for p in plan.problems[:2]] == [("msca", 32), ("msca", 64)] and len(plan.problems) == 8
    names = [variant.name for variant in plan.variants if not variant.ours]
    assert names[:4] == ["eager NCHW", "eager channels_last", "compile NCHW", "compile channels_last"]
    assert [variant.layout for variant in plan.variants if variant.ours] == ["NCHW", "channels_last"]
    assert len(strips_options.parse(["--device", "cpu", "--quick"], "").plan.problems) == 2
    both = strips_options.parse(["--device", "cpu", "--dtype", "bfloat16", "float32", "--batch", "1", "2"], "").plan.problems
    assert len(both) == 4 * 8 and both[0].dtype == torch.bfloat16
