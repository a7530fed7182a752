"""The table of two networks in turns: rows, files, and runs that are broken off."""

import argparse
import json
import time

import bench_decoder
import bench_drawn
import bench_network
import pytest
import swap_example
import torch
from segmentation import comparison

CPU = torch.device("cpu")


def options(*arguments):
    parser = argparse.ArgumentParser()
    comparison.add_arguments(parser)
    return parser.parse_args(["--quick", *arguments])


def job(value):
    return lambda: (torch.full((1 << 16,), value),)


def test_rows_are_markdown_and_files_hold_every_time(tmp_path, capsys):
    path = tmp_path / "out.json"
    with comparison.Comparison(options("--json", str(path)), ["--x"], CPU, ("plain", "fused"), 1) as table:
        table.add("heads", "forward", [job(1.0), job(2.0)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].split("|")[3:5] == [" plain, ms ", " fused, ms "]
    assert lines[-1].startswith("| heads | forward | ") and lines[-1].count("|") == 7 and "x | " in lines[-1]
    content = json.loads(path.read_text())
    assert content["finished"] and content["arguments"] == ["--x"] and {"CPU", "load", "gcn_kernels"} <= set(content["machine"])
    cost = content["rows"][0]["costs"]["plain"]
    assert cost["ms_p20"] <= cost["ms"] <= cost["ms_p80"] and len(cost["times_ms"]) >= 1
    assert cost["peak_bytes"] >= 1 << 18, "what the call returns"


def test_the_fastest_plain_way_is_the_baseline(capsys):
    def takes(ms):
        return lambda: (time.sleep(ms * 1e-3), torch.zeros(1))[1:]

    names = ("plain NCHW", "plain channels_last", "fused NCHW", "fused channels_last")
    with comparison.Comparison(options(), [], CPU, names, 2, plain=2) as table:
        table.add("encoder", "forward", [takes(2), takes(1), None, None])
        table.add("network", "forward", [takes(8), takes(4), takes(1), takes(6)])
    encoder, network = table.rows
    assert (encoder.baseline, encoder.fused) == ("plain channels_last", None)
    assert (network.baseline, network.fused) == ("plain channels_last", "fused NCHW")
    heading, _, first, second = capsys.readouterr().out.splitlines()[-4:]
    assert heading.startswith("| part | pass | plain NCHW, ms | plain channels_last, ms | fused NCHW, ms |")
    assert first.endswith(" | - | - | - | - |")
    ratio = network.costs["plain channels_last"].ms / network.costs["fused NCHW"].ms
    assert f"| {ratio:.2f}x plain channels_last |" in second


def test_a_single_time_has_no_spread():
    assert str(comparison.Cost(2.0, 2.0, 2.0, 0, [2.0])) == "2.0"
    assert str(comparison.Cost(2.0, 1.0, 3.0, 0, [1.0, 2.0, 3.0])) == "2.0 [1.0, 3.0]"


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, 130), (BrokenPipeError, 141)])
def test_a_run_that_is_broken_off_keeps_its_rows(tmp_path, monkeypatch, error, status):
    monkeypatch.setattr(comparison.os, "dup2", lambda *files: None)
    path = tmp_path / "out.json"
    with (
        pytest.raises(SystemExit) as ended,
        comparison.Comparison(options("--json", str(path)), [], CPU, ("a", "b"), 2) as table,
    ):
        table.add("one", "forward", [job(1.0), job(2.0)])
        raise error
    assert ended.value.code == status
    content = json.loads(path.read_text())
    assert len(content["rows"]) == 1 and not content["finished"]


@pytest.mark.parametrize(
    ("main", "arguments", "expected"),
    [
        (bench_network.main, "--kernel 4", "argument --kernel: expected an odd whole number, got '4'"),
        (bench_network.main, "--encoder vgg", "--encoder: expected patch, resnet18"),
        (bench_network.main, "--budget 0", "argument --budget: expected a number above 0, got '0'"),
        (bench_network.main, "--json none/out.json", "--json none/out.json: the folder none does not exist"),
        (bench_drawn.main, "--count 0", "argument --count: expected a whole number of at least 1, got '0'"),
        (bench_drawn.main, "--gflop 0", "argument --gflop: expected a number of at least 0.001, got '0'"),
        (bench_drawn.main, "--json none/out.json", "--json none/out.json: the folder none does not exist"),
        (bench_decoder.main, "--sizes 8 0", "argument --sizes: expected a whole number of at least 1, got '0'"),
        (bench_decoder.main, "--layer heads", "argument --layer: invalid choice: 'heads'"),
        (bench_decoder.main, "--repeats 0", "argument --repeats: expected a whole number of at least 1, got '0'"),
        (swap_example.main, "--size 0", "argument --size: expected a whole number of at least 1, got '0'"),
        (swap_example.main, "--depth 20", "argument --depth: invalid choice: 20"),
    ],
    ids=lambda v: v if isinstance(v, str) and v.startswith("--") and len(v) < 25 else "",
)
def test_mistakes_in_the_options(capsys, main, arguments, expected):
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2 and expected in capsys.readouterr().err
