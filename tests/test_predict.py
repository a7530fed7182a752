"""``predict.py``: pictures segmented by a trained network."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

for package in ("torchmetrics", "tensorboard", "tqdm", "PIL", "matplotlib"):
    pytest.importorskip(package)

import predict  # noqa: E402
from PIL import Image  # noqa: E402
from segmentation import shapes  # noqa: E402
from segmentation.process import Process  # noqa: E402
from segmentation.recipe import PRESETS  # noqa: E402
from segmentation.testing import WholeImage  # noqa: E402
from segmentation.training import Run  # noqa: E402

TINY = dataclasses.replace(PRESETS["shapes"], size=32, kernel=3, refine=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a run with the checkpoint of a network that was not trained."""
    folder = tmp_path_factory.mktemp("run")
    Run(TINY, folder, Process(0, 1, torch.device("cpu")))._save()
    return folder


@pytest.fixture
def photo(tmp_path):
    """A picture of the built-in data set, larger than it is segmented as a whole, as a file."""
    path = tmp_path / "photo.png"
    Image.fromarray(shapes.ShapesDataset("val", 96)[1][0][:80]).save(path)
    return path


def test_a_picture_is_segmented_in_windows(run, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predict.main([str(photo), "--checkpoint", str(run), "--threads", "1"])
    said = capsys.readouterr()
    assert "photo.png (96 x 80): " in said.out and "-> photo-segmented.png" in said.out
    assert "windows" in said.err, "a bar where there are many windows"
    shares = [float(part.split()[-2]) for part in said.out.splitlines()[0].split(": ")[1].split(", ")]
    assert sum(shares) == pytest.approx(100, abs=0.5) and shares == sorted(shares, reverse=True)
    picture = Image.open(tmp_path / "photo-segmented.png")
    assert picture.mode == "RGB" and picture.width > 2 * 96
    with pytest.raises(SystemExit):
        predict.main([str(photo), "--checkpoint", str(run)])
    assert "photo-segmented.png: exists; --force overwrites it" in capsys.readouterr().err


def test_windows_and_the_whole_picture_agree_where_the_network_sees_pixels():
    class Pointwise(torch.nn.Module):
        def forward(self, x):
            return torch.stack([x.sum(1), -x.sum(1)], 1)

    trained = predict.Trained(Pointwise(), TINY, ["a", "b"])
    image = shapes.ShapesDataset("val", 64)[0][0]
    cpu = torch.device("cpu")
    whole, windows = (predict.segment(trained, image, WholeImage(window=w, overlap=0.25), cpu) for w in (0, 24))
    assert np.array_equal(whole, windows) and set(np.unique(whole)) == {0, 1}


@pytest.mark.parametrize(("window", "flip"), [(0, False), (16, True), (64, False)])
def test_the_number_of_calls_is_foretold(window, flip):
    calls = []
    testing = WholeImage((1.0, 0.5), flip, window, 0.25)
    testing.probabilities(lambda x: calls.append(1) or x, torch.rand(1, 2, 40, 50))
    assert testing.calls(40, 50) == len(calls)


def test_several_pictures_go_into_a_folder(run, photo, tmp_path, capsys):
    other = tmp_path / "other.jpg"
    Image.open(photo).convert("L").save(other)
    arguments = [str(photo), str(other), "--checkpoint", str(run / "last.pt"), "--window", "0", "--out", str(tmp_path / "out")]
    predict.main(arguments)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"photo-segmented.png", "other-segmented.png"}
    predict.main([*arguments, "--force"])
    assert capsys.readouterr().out.count("->") == 4


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["none.jpg"], "none.jpg: no such file"),
        (["."], ".: a folder; name its files"),
        (["text.png"], "text.png: expected a picture: "),
        (["photo.png", "text.png", "--out", "x.png"], "expected a folder for 2 images, got the name of one file"),
        (["photo.png", "a/photo.png"], "two of the images have the same name"),
        (["photo.png", "--overlap", "1"], "argument --overlap: expected a number of at least 0 and below 1"),
        (["photo.png", "--checkpoint", "a"], "no checkpoint: expected a/last.pt"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_is_said_before_anything_is_computed(run, photo, tmp_path, capsys, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    Path("a").mkdir()
    with pytest.raises(SystemExit) as ended:
        predict.main(["--checkpoint", str(run), *arguments])
    assert ended.value.code == 2 and expected in capsys.readouterr().err
    assert not list(tmp_path.glob("*segmented*"))
