"""The ablation, the network benchmark and the worked example of the swap, at a small size."""

import json

import pytest

for package in ("torchmetrics", "tensorboard", "tqdm", "PIL", "matplotlib"):
    pytest.importorskip(package)

import ablation  # noqa: E402
import bench_network  # noqa: E402
import swap_example  # noqa: E402
from segmentation import tables  # noqa: E402
from segmentation.experiments import PAPER_MIOU, TABLES  # noqa: E402

from gcn_kernels import convert_gcn  # noqa: E402

pytestmark = pytest.mark.slow


def results(path):
    """The rows of a comparison's file, as (part, mode), and its content."""
    content = json.loads(path.read_text())
    return [(row["part"], row["mode"]) for row in content["rows"]], content


def test_the_swap_example_gives_equal_outputs(capsys, tmp_path):
    options = ["--size", "64", "--kernel", "7", "--depth", "18", "--quick", "--json", str(tmp_path / "swap.json")]
    assert swap_example.main(options) < 1e-5
    printed = capsys.readouterr().out
    assert "GCN blocks: 4 swapped, 0 refused" in printed
    assert "| part | pass | before, ms | after, ms | faster | peak MB |" in printed
    assert "reverted: gcns.0, gcns.1, gcns.2, gcns.3" in printed
    rows, content = results(tmp_path / "swap.json")
    assert rows == [("network", "forward"), ("network", "forward + backward")] and content["finished"]
    assert all(cost["peak_bytes"] > 0 and cost["ms"] > 0 for row in content["rows"] for cost in row["costs"].values())
    assert "load" in content["machine"] and content["arguments"] == options
    assert len(convert_gcn(swap_example.Segmenter()).swapped) == 4


def test_the_network_benchmark_compares_before_it_times(capsys, tmp_path):
    path = tmp_path / "network.json"
    options = ["--encoder", "resnet18", "--size", "64", "--kernel", "5", "--quick", "--json", str(path)]
    bench_network.main(options)
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert "relative difference" in lines[0] and any(line.startswith("load ") for line in lines)
    assert captured.err == "", "neither a bar where there is no terminal nor noise of the profiler"
    rows, content = results(path)
    assert rows == [
        (part, mode) for part in ("encoder", "heads", "decoder", "network") for mode in ("forward", "forward + backward")
    ]
    assert all(row["baseline"] in ("plain NCHW", "plain channels_last") for row in content["rows"])
    assert [row["fused"] is None for row in content["rows"]] == [True] * 2 + [False] * 6, "the encoder is the same in both"
    table = [line for line in lines if line.startswith("| ")]
    assert len(table) == 1 + len(rows) and all(line.count("|") == 9 for line in table)
    with pytest.raises(SystemExit):
        bench_network.main(options)
    assert "exists; --force overwrites it" in capsys.readouterr().err


def test_the_paper_has_a_number_for_every_network():
    assert {e.name for experiments in TABLES.values() for e in experiments} == set(PAPER_MIOU)


def test_the_ablation_trains_resumes_and_reports(tmp_path, capsys):
    options = ["--out", str(tmp_path), "--tables", "5", "--seeds", "1", "--size", "32", "--steps", "2", "--batch", "2"]
    ablation.main(options)
    assert "3 runs in" in capsys.readouterr().out
    assert {p.name for p in tmp_path.glob("*.*")} == {"tables.md", "results.json", "miou_by_k.png", "receptive_field.png"}
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: len(found) for name, found in results.items()} == {"1x1": 1, "GCN 15": 1, "GCN 15 + BR": 1}
    text = (tmp_path / "tables.md").read_text()
    assert "### Table 5" in text and "Table 1" not in text
    (tmp_path / "1x1-seed0" / "result.json").unlink()
    ablation.main([*options, "--report"])
    assert "1x1" not in json.loads((tmp_path / "results.json").read_text())


def test_spread_is_mean_and_standard_deviation_in_per_cent():
    assert tables.spread([0.5]) == "50.0"
    assert tables.spread([0.4, 0.5, 0.6]) == "50.0 ± 10.0"
