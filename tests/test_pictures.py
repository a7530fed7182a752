"""Pictures of the experiments: colours, figures, receptive fields, plots."""

import dataclasses
import json

import numpy as np
import pytest
import torch

for package in ("torchmetrics", "tensorboard", "tqdm", "PIL", "matplotlib"):
    pytest.importorskip(package)

import eval_seg  # noqa: E402
from PIL import Image  # noqa: E402
from segmentation import pictures, shapes, tables  # noqa: E402
from segmentation.datasets import CITYSCAPES_CLASSES, IGNORE  # noqa: E402
from segmentation.palettes import palette_of  # noqa: E402
from segmentation.process import Process  # noqa: E402
from segmentation.recipe import PRESETS  # noqa: E402
from segmentation.training import Run  # noqa: E402


def test_an_overlay_colours_objects_and_leaves_the_background():
    image, palette = np.full((4, 4, 3), 100, np.uint8), palette_of("voc", 3)
    mixed = pictures.overlay(image, np.array([[0, 1, 2, IGNORE]] * 4, np.uint8), palette)
    assert (mixed[:, [0, 3]] == 100).all() and (mixed[:, 1] != mixed[:, 2]).any()
    assert len({tuple(c) for c in palette_of("voc", 21).colours}) == 21


def test_the_road_of_cityscapes_is_drawn_in_its_own_colour():
    palette = palette_of("cityscapes", 19)
    assert palette.colours[list(CITYSCAPES_CLASSES.values()).index("road")].tolist() == [128, 64, 128]
    assert len({tuple(c) for c in palette.colours}) == 19
    mixed = pictures.overlay(np.zeros((2, 2, 3), np.uint8), np.array([[0, IGNORE]] * 2, np.uint8), palette, strength=1)
    assert mixed[0, 0].tolist() == [128, 64, 128] and mixed[0, 1].tolist() == [0, 0, 0]
    assert eval_seg.inner_point(np.zeros((5, 5), np.uint8), palette) == (2, 2)


def test_the_built_in_classes_have_the_colours_that_they_are_named_after():
    red, yellow, green, blue, magenta = palette_of("shapes", 6).colours[1:].astype(int)
    assert red[0] > 2 * max(red[1:]) and green[1] > 2 * max(green[0], green[2]) and blue[2] > 2 * max(blue[:2])
    assert min(yellow[:2]) > 200 and yellow[2] < 60
    assert min(magenta[0], magenta[2]) > 190 and magenta[1] < 70


def test_the_valid_receptive_field_of_a_box_is_the_box():
    def network(x):
        return torch.nn.functional.avg_pool2d(x.sum(1, keepdim=True), 33, 1, 16)

    field = pictures.valid_receptive_field(network, 1 + torch.rand(3, 96, 96), 48, 48, patch=8, step=8)
    assert field.shape == (12, 12) and field.max() == 1
    touched = np.argwhere(field > 1e-3) * 8 + 4
    assert np.abs(touched - 48).max() <= 16 + 4
    assert pictures.heat_over(np.zeros((96, 96, 3), np.uint8), field, 48, 48).shape == (96, 96, 3)


def test_the_field_of_a_large_image_has_a_coarser_grid_and_batches_that_fit():
    sizes = []

    def network(x):
        sizes.append(tuple(x.shape))
        return x

    field = pictures.valid_receptive_field(network, torch.rand(3, 256, 512), 3, 508)
    assert field.shape == (16, 32), "32 places along the image, not 64"
    assert len(sizes) == 1 + 16 * 32 // 8 and sizes[1] == (8, 3, 256, 512)
    assert np.unravel_index(field.argmax(), field.shape) == (0, 31)


def test_the_heat_is_told_from_every_class():
    """The heat lies on grey, so that a red object is not taken for heat."""
    image = np.zeros((40, 40, 3), np.uint8)
    image[...] = shapes.MARKS[0]
    cold = pictures.heat_over(image, np.zeros((5, 5), np.float32), 20, 20)[0, 0].astype(int)
    hot = pictures.heat_over(image, np.ones((5, 5), np.float32), 20, 20)[0, 0].astype(int)
    assert cold[0] < cold[2], "no red where nothing is"
    assert hot.sum() > cold.sum() + 150
    cross = pictures.heat_over(image, np.ones((5, 5), np.float32), 20, 20)
    assert (cross[20, 20] == 255).all() and (cross[20, 26] == 0).all()


def test_figures_are_in_full_colour_with_titles_and_legend(tmp_path):
    image, labels = shapes.ShapesDataset("val", 64)[0]
    palette = palette_of("shapes", 6)
    legend = pictures.legend_of([labels], shapes.CLASSES, palette)
    assert "background" not in dict(legend) and len(legend) == len(set(np.unique(labels)) - {0})
    row = [pictures.Panel("image", image), pictures.Panel("truth", pictures.overlay(image, labels, palette))]
    pictures.save_figure(tmp_path / "bare.png", [[pictures.Panel("", p.image) for p in row]])
    pictures.save_figure(tmp_path / "figure.png", [row], legend, "heat", "title")
    bare, full = Image.open(tmp_path / "bare.png"), Image.open(tmp_path / "figure.png")
    assert bare.mode == full.mode == "RGB"
    assert full.height > bare.height and full.width > bare.width
    assert {tuple(colour) for _, colour in legend} <= set(map(tuple, np.asarray(full).reshape(-1, 3).tolist()))


def test_the_plot_of_the_ablation_has_one_scale(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path: kept.append(self))
    results = {n: [{"miou": 0.5}, {"miou": 0.6}] for n in ("1x1", "GCN 3", "GCN 15", "dense 3")}
    tables.plot(results, tmp_path / "k.png", "here")
    left, right = kept[0].axes
    assert left.get_ylim() == right.get_ylim() and left.get_xlim() == right.get_xlim()
    assert len(right.lines) == 3 and len({(line.get_marker(), line.get_linestyle()) for line in right.lines}) == 3
    assert kept[0].legends and not left.get_legend() and not right.get_legend()
    assert tables.seeds(1) == "1 seed" and tables.seeds(2) == "2 seeds"


def test_pictures_of_an_evaluation(tmp_path, capsys):
    Run(
        dataclasses.replace(PRESETS["shapes"], size=32, kernel=3, refine=False), tmp_path, Process(0, 1, torch.device("cpu"))
    )._save()
    eval_seg.main([str(tmp_path), "--limit", "1", "--pictures", "1", "--field", "--field-step", "16"])
    assert Image.open(tmp_path / "pictures" / "0000.png").mode == "RGB"
    assert "mIoU" in capsys.readouterr().out and "miou" in json.loads((tmp_path / "evaluation.json").read_text())
