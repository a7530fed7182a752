"""What the scripts of the experiments check before they start, what they print, and what their help says."""

import dataclasses
import json
import re
import sys

import numpy as np
import pytest
import torch

for package in ("torchmetrics", "tensorboard", "tqdm", "PIL", "matplotlib", "scipy"):
    pytest.importorskip(package)

import ablation  # noqa: E402
import eval_seg  # noqa: E402
import train_seg  # noqa: E402
from segmentation import recipe as recipes  # noqa: E402
from segmentation import settings  # noqa: E402
from segmentation.checkpoint import load_checkpoint  # noqa: E402
from segmentation.datasets import IGNORE, Task, built_in, load_task  # noqa: E402
from segmentation.metrics import SegmentationMetrics  # noqa: E402
from segmentation.process import Parser, Process  # noqa: E402
from segmentation.recipe import PRESETS, Recipe  # noqa: E402
from segmentation.training import Run  # noqa: E402

ALONE = Process(0, 1, torch.device("cpu"))
TINY = dataclasses.replace(
    PRESETS["shapes"], size=32, kernel=3, batch=2, steps=2, warmup=0, checkpoint_every=1, evaluate_every=0, refine=False
)


class Few:
    """The first image of a data set."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.dataset[index]


@pytest.fixture(scope="module")
def task():
    full = built_in(32)
    return Task(full.classes, full.train, Few(full.val))


@pytest.fixture(scope="module")
def run(tmp_path_factory, task):
    """Folder of a finished run of two steps."""
    folder = tmp_path_factory.mktemp("run")
    Run(TINY, folder, ALONE, task).train()
    return folder


def message(main, arguments, capsys):
    """What a script says of a mistake in its options."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--amp float16", "argument --amp: expected one of none, bf16, fp16, got 'float16'"),
        ("--steps 0", "argument --steps: expected a whole number of at least 1, got '0'"),
        ("--steps 1e3", "argument --steps: expected a whole number of at least 1, got '1e3'"),
        ("--kernel 14", "argument --kernel: expected an odd whole number, got '14'"),
        ("--kernel 1 --head stack", "--kernel: expected at least 3 with --head stack, got 1"),
        ("--batch 1 --size 32", "--batch: expected at least 2 with --batch-norm local and --size 32 or less"),
        ("--encoder vgg", "argument --encoder: expected patch, resnet18, "),
        ("--encoder resnet20", "argument --encoder: expected patch, resnet18, "),
        ("--optimizer lamb", "argument --optimizer: expected one of sgd, adamw, got 'lamb'"),
        ("--batch-norm group", "argument --batch-norm: expected one of local, synced, frozen"),
        ("--lr nan", "argument --lr: expected a number above 0, got 'nan'"),
        ("--ema 1", "argument --ema: expected a number of at least 0 and below 1, got '1'"),
        ("--scales 2 1", "--scales: expected the smallest and the largest scale, got 2.0 1.0"),
        ("--workers -1", "argument --workers: expected a whole number of at least 0, got '-1'"),
        ("--threads 0", "argument --threads: expected a whole number of at least 1, got '0'"),
        ("--ignore-index 256", "argument --ignore-index: expected a whole number from 0 to 255, got '256'"),
        ("--class-weights 1 2", "--class-weights: expected 6 numbers, one per class, got 2"),
        ("--class-weights 1 -2", "argument --class-weights: expected a number of at least 0, got '-2'"),
        ("--weights nowhere.pth", "--weights nowhere.pth: expected a file with a state dict: "),
        ("--data voc", "data 'voc' needs its folder: pass --root"),
        ("--data coco", "argument --data: expected one of shapes, voc, cityscapes, got 'coco'"),
    ],
    ids=lambda value: value if value.startswith("--") and len(value) < 30 else "",
)
def test_a_mistake_in_the_recipe_is_said_at_the_start(tmp_path, capsys, options, expected):
    assert expected in message(train_seg.main, ["--out", tmp_path / "run", *options.split()], capsys)
    assert not list(tmp_path.glob("run/*")), "something was written before the options were checked"


def test_a_recipe_in_code_keeps_the_same_rules():
    with pytest.raises(ValueError, match="--kernel: expected an odd whole number, got 14"):
        Recipe(kernel=14)
    with pytest.raises(ValueError, match="of another version: colour unknown"):
        recipes.from_dict({"colour": 3})
    for field in dataclasses.fields(Recipe):
        assert field.metadata["help"], field.name


def test_the_help_names_every_setting_with_its_choices_and_defaults(capsys):
    with pytest.raises(SystemExit):
        train_seg.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(Recipe):
        assert f"{settings.option(field.name)} " in text
        assert " ".join(field.metadata["help"].split()) in text.replace("- ", "-") or field.metadata["help"] in text
    assert text.count("(default: ") >= len(dataclasses.fields(Recipe))
    assert "--amp {none,bf16,fp16}" in text
    assert "height and width of training crops (default: 256; voc 512, cityscapes 800)" in text


@pytest.mark.parametrize("module", ["torchmetrics", "tensorboard", "tqdm"])
def test_a_library_that_is_needed_later_is_missed_at_the_start(tmp_path, capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    said = message(train_seg.main, ["--out", tmp_path / "run"], capsys)
    assert f"not installed: {module} (" in said and f"pip install {module}" in said


def test_all_missing_libraries_are_named_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    from segmentation import extras

    with pytest.raises(ImportError, match=r"pillow \(.*\), matplotlib \(.*\)\. Try: pip install pillow matplotlib"):
        extras.check(("tqdm", "PIL", "matplotlib"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--overlap 1.5", "argument --overlap: expected a number of at least 0 and below 1, got '1.5'"),
        ("--scales 0", "argument --scales: expected a number above 0, got '0'"),
        ("--window -1", "argument --window: expected a whole number of at least 0, got '-1'"),
        ("--field", "--field: needs --pictures N"),
        ("", "no checkpoint: expected "),
    ],
)
def test_a_mistake_in_an_evaluation_is_said_at_the_start(tmp_path, capsys, options, expected):
    assert expected in message(eval_seg.main, [tmp_path, *options.split()], capsys)


def test_folders_and_checkpoints_that_are_none_are_said(tmp_path, capsys):
    assert "expected the folder of a run" in message(eval_seg.main, [tmp_path / "none"], capsys)
    (tmp_path / "last.pt").write_bytes(b"no checkpoint")
    assert "is not a checkpoint of train_seg.py: PyTorch cannot read it" in message(eval_seg.main, [tmp_path], capsys)
    torch.save({"state_dict": {}}, tmp_path / "last.pt")
    assert "it lacks its recipe and classes" in message(eval_seg.main, [tmp_path], capsys)
    assert "expected a folder" in message(train_seg.main, ["--out", tmp_path / "last.pt"], capsys)
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    weights = ["--out", tmp_path / "run", "--weights", tmp_path / "weights.pth"]
    assert "not those of this encoder: Error(s) in loading" in message(train_seg.main, weights, capsys)
    assert "argument --seeds: expected a whole number" in message(ablation.main, ["--out", tmp_path, "--seeds", "0"], capsys)


def test_of_several_processes_one_speaks(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as ended:
        train_seg.main(["--steps", "0"])
    assert ended.value.code == 2 and capsys.readouterr().err == ""
    Process(1, 2, torch.device("cpu")).say("nothing")
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit):
        Parser("").parse_args(["--steps"])
    assert "unrecognized arguments: --steps" in capsys.readouterr().err


def test_a_run_says_from_where_it_goes_on_and_can_be_extended(run, task, capsys):
    capsys.readouterr()
    again = Run(dataclasses.replace(TINY, workers=0, evaluate_every=0, checkpoint_every=5), run, ALONE, task)
    assert again.step == 2 and f"{run}: goes on from step 2 of 2" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"another recipe \(steps differ\)"):
        Run(dataclasses.replace(TINY, steps=1), run, ALONE, task)
    longer = Run(dataclasses.replace(TINY, steps=3), run, ALONE, task)
    assert "extended from 2 steps: the learning rate now falls over 3" in capsys.readouterr().out
    longer.train()
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines() if "loss" in line]
    assert steps == [0, 1, 2] and load_checkpoint(run)["step"] == 3
    captured = capsys.readouterr()
    assert "evaluation" in captured.err and "step 3: mIoU" in captured.out + captured.err


def test_class_weights_are_those_of_the_mean_of_cross_entropy(tmp_path, task):
    weights = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    run = Run(dataclasses.replace(TINY, class_weights=weights, channels_last=False), tmp_path, ALONE, task)
    x, y = torch.randn(2, 3, 32, 32), torch.randint(0, 6, (2, 32, 32))
    y[0, :3] = IGNORE
    run.network.train()
    expected = torch.nn.functional.cross_entropy(run.network(x), y, torch.tensor(weights), ignore_index=IGNORE)
    for norm in (m for m in run.network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.reset_running_stats()
    assert run._one_step(run.network, [(x, y)]).item() == pytest.approx(expected.item(), rel=1e-5)
    nothing = run._one_step(run.network, [(x, torch.full_like(y, IGNORE))])
    assert nothing.item() == 0


def test_an_ignored_label_counts_nowhere():
    plain, ignoring = load_task("shapes", None, 48), load_task("shapes", None, 48, ignored=0)
    before, after = plain.val[0][1], ignoring.val[0][1]
    assert (after[before == 0] == IGNORE).all() and np.array_equal(after[before > 0], before[before > 0])
    assert len(ignoring.train) == len(plain.train)


def test_absent_classes_have_no_number():
    metrics = SegmentationMetrics(3)
    labels = torch.tensor([[[0, 0], [1, 0]]])
    metrics.add(labels, labels)
    result = metrics.result()
    assert result["iou"] == [1.0, 1.0, None] and result["miou"] == 1.0
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    lines = eval_seg.table(["sky", "road", "car"], result).splitlines()
    assert [re.split(" {2,}", line)[1] for line in lines[:3]] == ["1.0000", "1.0000", "-"]
    assert lines[-1].startswith("-: in no label")


def voc_folder(root, more=""):
    """VOC 2012 with the training image a and the validation image b; ``more`` = "aug" adds c as augmented annotations do."""
    from PIL import Image

    voc = root / "VOCdevkit" / "VOC2012"
    lists = voc / "ImageSets" / "Segmentation"
    for folder in (voc / "JPEGImages", voc / "SegmentationClass", lists):
        folder.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")
    for name in "abc":
        Image.fromarray(np.zeros((5, 7), np.uint8)).save(voc / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(np.full((5, 7), 15, np.uint8)).save(voc / "SegmentationClass" / f"{name}.png")
    if more == "aug":
        (voc / "SegmentationClassAug").mkdir()
        for name in "abc":
            Image.fromarray(np.full((5, 7), 9, np.uint8)).save(voc / "SegmentationClassAug" / f"{name}.png")


def test_voc_without_sbd(tmp_path, capsys):
    voc_folder(tmp_path)
    task = load_task("voc", str(tmp_path), 512)
    assert task.annotations == "voc" and len(task.train) == len(task.val) == 1
    image, labels = task.train[0]
    assert image.shape == (5, 7, 3) and (labels == 15).all(), "a grey image is read as colours"
    with pytest.raises(FileNotFoundError, match="SBD not found"):
        load_task("voc", str(tmp_path), 512, annotations="sbd")
    with pytest.raises(FileNotFoundError, match="SegmentationClassAug not found"):
        load_task("voc", str(tmp_path), 512, annotations="aug")
    options = [
        "--data",
        "voc",
        "--encoder",
        "resnet18",
        "--size",
        "32",
        "--kernel",
        "3",
        "--steps",
        "1",
        "--workers",
        "0",
        "--no-refine",
    ]
    train_seg.main(["--root", str(tmp_path), "--out", str(tmp_path / "run"), *options])
    said = capsys.readouterr().out
    assert "1 training images (annotations: voc)" in said
    assert "without --weights the encoder resnet18 starts from random weights" in said


def test_voc_with_augmented_annotations(tmp_path):
    voc_folder(tmp_path, "aug")
    task = load_task("voc", str(tmp_path), 512)
    assert task.annotations == "aug"
    assert [int(task.train[i][1][0, 0]) for i in range(len(task.train))] == [9, 9], "a and c, not b of the validation set"
    assert int(task.val[0][1][0, 0]) == 15, "the validation labels are VOC's own"
