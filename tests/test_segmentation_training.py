"""Training runs: killed and resumed, on two processes, accumulated, with every option; and the command lines."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

for package in ("torchmetrics", "tensorboard", "tqdm", "PIL"):
    pytest.importorskip(package)

from segmentation.datasets import Task, built_in  # noqa: E402
from segmentation.process import Process  # noqa: E402
from segmentation.recipe import PRESETS  # noqa: E402
from segmentation.training import Run, learning_rate  # noqa: E402

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ALONE = Process(0, 1, torch.device("cpu"))
TINY = dataclasses.replace(
    PRESETS["shapes"], size=32, kernel=5, batch=2, steps=6, warmup=2, checkpoint_every=3, evaluate_every=0, evaluate_images=2
)
OPTIONS = ["--size", "32", "--kernel", "5", "--batch", "2", "--threads", "1", "--evaluate-images", "2"]


class FewImages:
    """The first images of a data set."""

    def __init__(self, dataset, count):
        self.dataset, self.count = dataset, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.dataset[index]


def task(size=32):
    full = built_in(size)
    return Task(full.classes, full.train, FewImages(full.val, 3))


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def train_command(folder, *options):
    return [sys.executable, "-W", "ignore", str(BENCHMARKS / "train_seg.py"), "--out", str(folder), *OPTIONS, *options]


#: Runs train_seg.py, and is killed when step 21 is in the log and the checkpoint that goes with it is not yet written.
KILLED = """
import os, signal, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
del sys.argv[0]
import train_seg
from segmentation.training import Run
save = Run._save
Run._save = lambda run: os.kill(os.getpid(), signal.SIGKILL) if run.step == 21 else save(run)
train_seg.main()
"""


def test_a_run_killed_in_the_middle_resumes_to_the_same_numbers(tmp_path):
    options = ["--steps", "60", "--checkpoint-every", "7", "--ema", "0.9"]
    subprocess.run(train_command(tmp_path / "whole", *options), check=True, capture_output=True, timeout=1200)
    python, *warnings, script = train_command(tmp_path / "killed", *options)[:4]
    killed = [python, *warnings, "-c", KILLED, script, *train_command(tmp_path / "killed", *options)[4:]]
    process = subprocess.run(killed, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, timeout=1200)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert len(losses(tmp_path / "killed")) == 21
    assert torch.load(tmp_path / "killed" / "last.pt", weights_only=True)["step"] == 14
    subprocess.run(train_command(tmp_path / "killed", *options), check=True, capture_output=True, timeout=1200)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    a, b = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "killed"))
    for part in ("network", "tested"):
        assert all(torch.equal(a[part][key], b[part][key]) for key in a[part])
    a, b = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "killed"))
    assert a == b


@pytest.mark.parametrize("batch_norm", ["synced", "frozen"])
def test_two_processes_train_like_one_with_the_doubled_batch(tmp_path, batch_norm):
    options = ["--steps", "8", "--batch-norm", batch_norm, "--lr", "5e-3"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = [*launch, *train_command(tmp_path / "two", *options)[3:]]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    subprocess.run(two, check=True, capture_output=True, timeout=1200, env=environment)
    subprocess.run(train_command(tmp_path / "one", *options, "--batch", "4"), check=True, capture_output=True, timeout=1200)
    one, both = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 8 and [s for s, _ in one] == [s for s, _ in both]
    assert [loss for _, loss in both] == pytest.approx([loss for _, loss in one], rel=1e-4)
    assert one[-1][1] != pytest.approx(one[0][1], rel=1e-2), "nothing was learnt, so nothing was compared"


def test_accumulated_micro_batches_are_one_batch(tmp_path):
    frozen = dataclasses.replace(TINY, batch_norm="frozen", optimizer="sgd", lr=0.05, momentum=0.9)
    whole = Run(dataclasses.replace(frozen, batch=4), tmp_path / "whole", ALONE, task())
    parts = Run(dataclasses.replace(frozen, batch=2, accumulate=2), tmp_path / "parts", ALONE, task())
    whole.train()
    parts.train()
    assert [v for _, v in losses(tmp_path / "parts")] == pytest.approx([v for _, v in losses(tmp_path / "whole")], rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"amp": "bf16"},
        {"channels_last": False},
        {"ema": 0.5},
        {"head": "1x1", "refine": False},
        {"head": "dense"},
        {"head": "stack", "middle": 8},
        {"encoder": "resnet18", "scales": (0.5, 2.0)},
        {"optimizer": "sgd", "lr": 0.01, "workers": 1, "evaluate_every": 2},
    ],
    ids=str,
)
def test_every_option_trains(tmp_path, changes):
    result = Run(dataclasses.replace(TINY, steps=3, **changes), tmp_path, ALONE, task()).train()
    assert 0 <= result["miou"] <= 1
    assert all(torch.isfinite(torch.tensor(v)) for _, v in losses(tmp_path))
    assert any(p.name.startswith("events.out.tfevents") for p in tmp_path.iterdir())


def test_a_finished_run_is_not_trained_again_and_another_recipe_is_refused(tmp_path):
    first = Run(TINY, tmp_path, ALONE, task()).train()
    again = Run(TINY, tmp_path, ALONE, task()).train()
    assert again["miou"] == first["miou"] and len(losses(tmp_path)) == TINY.steps
    with pytest.raises(ValueError, match=r"another recipe \(lr, seed differ\)"):
        Run(dataclasses.replace(TINY, lr=1.0, seed=3), tmp_path, ALONE, task())


def test_frozen_batch_norm_stays_as_it_is(tmp_path):
    run = Run(dataclasses.replace(TINY, batch_norm="frozen", steps=2), tmp_path, ALONE, task())
    norms = [m for m in run.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [{key: value.clone() for key, value in m.state_dict().items()} for m in norms]
    run.train()
    assert norms and all(torch.equal(m.state_dict()[key], old[key]) for m, old in zip(norms, before, strict=True) for key in old)


def test_the_learning_rate_rises_then_falls_to_zero():
    rates = [learning_rate(TINY, step) for step in range(TINY.steps)]
    assert rates[0] == pytest.approx(TINY.lr / 2)
    assert max(rates) == rates[1] and rates[1:] == sorted(rates[1:], reverse=True)
    assert learning_rate(TINY, TINY.steps) == 0


def test_training_learns_something(tmp_path):
    recipe = dataclasses.replace(TINY, size=64, batch=4, steps=40, warmup=5)
    Run(recipe, tmp_path, ALONE, task(64)).train()
    curve = [v for _, v in losses(tmp_path)]
    assert sum(curve[-5:]) < 0.6 * sum(curve[:5])


def test_the_command_lines(tmp_path):
    subprocess.run(
        train_command(tmp_path, "--steps", "2", "--evaluate-images", "1"), check=True, capture_output=True, timeout=1200
    )
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "eval_seg.py"), str(tmp_path), "--limit", "2", "--pictures", "1"]
    done = subprocess.run([*command, "--field", "--flip"], check=True, capture_output=True, text=True, timeout=1200)
    assert "mIoU" in done.stdout and "boundary" in done.stdout
    assert (tmp_path / "pictures" / "0000.png").exists()
    assert 0 <= json.loads((tmp_path / "evaluation.json").read_text())["miou"] <= 1
    missing = [
        sys.executable,
        str(BENCHMARKS / "train_seg.py"),
        "--data",
        "voc",
        "--root",
        str(tmp_path),
        "--out",
        str(tmp_path / "v"),
    ]
    failed = subprocess.run(missing, capture_output=True, text=True, timeout=1200)
    assert failed.returncode == 2 and "PASCAL VOC 2012 not found" in failed.stderr
