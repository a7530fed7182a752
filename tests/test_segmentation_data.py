"""The data sets, samples, metrics and whole-image testing behind the experiments."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from segmentation import shapes
from segmentation.datasets import CITYSCAPES_CLASSES, IGNORE, MissingData, load_task
from segmentation.metrics import SegmentationMetrics, near_boundary
from segmentation.recipe import PRESETS
from segmentation.samples import Positions, Samples
from segmentation.testing import WholeImage, _starts

SMALL = dataclasses.replace(PRESETS["shapes"], size=64, batch=2, steps=5)


def test_the_built_in_set_is_a_function_of_seed_split_and_index():
    a, b = shapes.ShapesDataset("train", 96), shapes.ShapesDataset("train", 96)
    for index in (0, 17, len(a) - 1):
        for first, second in zip(a[index], b[index], strict=True):
            assert np.array_equal(first, second)
    assert not np.array_equal(a[0][0], a[1][0])
    assert not np.array_equal(a[0][0], shapes.ShapesDataset("val", 96)[0][0])
    assert not np.array_equal(a[0][0], shapes.ShapesDataset("train", 96, seed=1)[0][0])
    with pytest.raises(IndexError):
        a[len(a)]


def test_only_the_mark_tells_the_class():
    dataset = shapes.ShapesDataset("val", 128)
    seen, far = set(), 0.0
    for index in range(60):
        image, labels = dataset[index]
        for value in np.unique(labels[labels > 0]):
            inside = labels == value
            colour = image[inside].astype(float)
            marked = np.abs(colour - shapes.MARKS[value - 1]).max(1) < 60
            grey = np.ptp(colour - 0.0, axis=1) < 120
            assert 0 < marked.mean() < 0.4
            assert np.abs(colour[~marked & grey].mean(0) - 135).max() < 25
            seen.add(int(value))
            places = np.argwhere(inside)
            far = max(far, np.linalg.norm(places - places[marked].mean(0), axis=1).max() / 128)
    assert seen == {1, 2, 3, 4, 5}
    assert far > 0.6, "no pixel is far from its mark"


@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_processes_draw_what_one_draws_with_twice_the_batch(accumulate):
    one = list(Positions(dataclasses.replace(SMALL, batch=4, accumulate=accumulate), 2, 0, 1))
    halves = [list(Positions(dataclasses.replace(SMALL, accumulate=accumulate), 2, rank, 2)) for rank in range(2)]
    steps = range((SMALL.steps - 2) * accumulate)
    assert one == [p for s in steps for half in halves for p in half[2 * s : 2 * s + 2]]
    assert one[0] == 2 * accumulate * 4, "starts at the step"


def test_samples_are_a_function_of_their_position():
    dataset = shapes.ShapesDataset("train", 48)
    recipe = dataclasses.replace(SMALL, scales=(0.5, 2.0))
    first, second = Samples(dataset, recipe), Samples(dataset, recipe)
    drawn = [first[p] for p in (3, 4100, 9)]
    for (x, y), position in zip(reversed(drawn), (9, 4100, 3), strict=True):
        again = second[position]
        assert torch.equal(x, again[0]) and torch.equal(y, again[1])
        assert x.shape == (3, 64, 64) and y.shape == (64, 64) and x.dtype == torch.float32
    epochs = [sorted(int(i) for i in first._order(e)) for e in range(2)]
    assert epochs[0] == epochs[1] == list(range(len(dataset)))
    assert not np.array_equal(first._order(0), first._order(1))


def test_boundary_pixels_are_those_with_another_label_near_by():
    labels = torch.zeros(1, 30, 40, dtype=torch.long)
    labels[0, 12:25, 20:33] = 3
    near = near_boundary(labels, 7)
    for row, column in np.ndindex(30, 40):
        window = labels[0, max(0, row - 7) : row + 8, max(0, column - 7) : column + 8]
        assert near[0, row, column] == (window != labels[0, row, column]).any()


def test_metrics_agree_with_their_definitions():
    pytest.importorskip("torchmetrics")
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (3, 20, 20), generator=generator).repeat_interleave(3, 1).repeat_interleave(3, 2)
    labels[:, :5] = IGNORE
    predictions = torch.where(torch.rand(labels.shape, generator=generator) < 0.3, 2, labels.clamp(max=3))
    metrics = SegmentationMetrics(6)
    for i in range(3):
        metrics.add(predictions[i : i + 1], labels[i : i + 1])
    result, valid, near = metrics.result(), labels != IGNORE, near_boundary(labels)
    ious = []
    for c in range(4):
        p, t = (predictions == c) & valid, labels == c
        ious.append(((p & t).sum() / (p | t).sum()).item())
    right = predictions == labels
    assert result["miou"] == pytest.approx(np.mean(ious), abs=1e-6), "classes 4 and 5 never occur"
    assert result["iou"][:4] == pytest.approx(ious, abs=1e-6)
    assert result["pixel"] == pytest.approx(right[valid].float().mean().item(), abs=1e-6)
    assert result["boundary"] == pytest.approx(right[valid & near].float().mean().item(), abs=1e-6)
    assert result["internal"] == pytest.approx(
        right[valid & ~near].float().mean().item() if (valid & ~near).any() else 0, abs=1e-6
    )


def test_windows_cover_the_image_evenly():
    assert _starts(2048, 1024, 2 / 3) == [0, 341, 683, 1024], "four windows of a Cityscapes image"
    assert _starts(1024, 1024, 2 / 3) == [0]
    for size, window, overlap in ((100, 32, 0.5), (33, 32, 0.0), (97, 32, 0.25)):
        starts = _starts(size, window, overlap)
        assert starts[0] == 0 and starts[-1] == size - window
        assert all(b - a <= window * (1 - overlap) + 1 for a, b in pairwise(starts))


def test_fusing_windows_scales_and_mirrors_keeps_a_pointwise_network():
    def network(x):
        return torch.stack([x.sum(1), -x.sum(1)], 1)

    x = torch.randn(1, 3, 20, 44)
    expected = network(x).softmax(1)
    for testing in (WholeImage(flip=True), WholeImage(window=16), WholeImage(window=16, overlap=0.25, flip=True)):
        torch.testing.assert_close(testing.probabilities(network, x), expected)
    several = WholeImage(scales=(0.5, 1.0, 1.5)).probabilities(network, x)
    torch.testing.assert_close(several.sum(1), torch.ones(1, 20, 44))


def test_a_missing_data_set_says_what_and_where(tmp_path):
    with pytest.raises(MissingData, match=r"PASCAL VOC 2012 not found: expected .*VOCdevkit/VOC2012. Get it from http"):
        load_task("voc", str(tmp_path), 512)
    (tmp_path / "VOCdevkit" / "VOC2012").mkdir(parents=True)
    with pytest.raises(MissingData, match=r"the list val\.txt not found"):
        load_task("voc", str(tmp_path), 512)
    with pytest.raises(MissingData, match="Cityscapes' images not found"):
        load_task("cityscapes", str(tmp_path), 800)
    with pytest.raises(ValueError, match="needs its folder"):
        load_task("voc", None, 512)
    with pytest.raises(ValueError, match="expected shapes, voc or cityscapes"):
        load_task("ade20k", str(tmp_path), 512)


def test_cityscapes_is_read_from_its_folder(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    for split in ("train", "val"):
        for base, suffix in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
            (tmp_path / base / split / "town").mkdir(parents=True)
            values = np.full((6, 8, 3), 50, np.uint8) if base == "leftImg8bit" else np.full((6, 8), 26, np.uint8)
            if base == "gtFine":
                values[0] = 4
            image_module.fromarray(values).save(tmp_path / base / split / "town" / f"town_000000_000019_{suffix}.png")
    task = load_task("cityscapes", str(tmp_path), 800)
    image, labels = task.val[0]
    assert len(task.classes) == 19 == len(CITYSCAPES_CLASSES)
    assert image.shape == (6, 8, 3)
    assert (labels[0] == IGNORE).all() and (labels[1:] == list(task.classes).index("car")).all()


def test_voc_with_sbd_is_read_from_its_folders(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    savemat = pytest.importorskip("scipy.io").savemat
    voc, sbd = tmp_path / "VOCdevkit" / "VOC2012", tmp_path / "benchmark_RELEASE" / "dataset"
    for folder in (voc / "JPEGImages", voc / "SegmentationClass", voc / "ImageSets" / "Segmentation", sbd / "img", sbd / "cls"):
        folder.mkdir(parents=True)
    lists = {voc / "ImageSets" / "Segmentation" / "train.txt": "a", voc / "ImageSets" / "Segmentation" / "val.txt": "b"}
    lists |= {sbd / "train.txt": "a c", sbd / "val.txt": "b d"}
    for path, names in lists.items():
        path.write_text("\n".join(names.split()))
    for name in "abcd":
        picture = image_module.fromarray(np.zeros((5, 7, 3), np.uint8))
        picture.save(voc / "JPEGImages" / f"{name}.jpg")
        picture.save(sbd / "img" / f"{name}.jpg")
        image_module.fromarray(np.full((5, 7), 15, np.uint8)).save(voc / "SegmentationClass" / f"{name}.png")
        savemat(sbd / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": np.full((5, 7), 9, np.uint8)}})
    task = load_task("voc", str(tmp_path), 512)
    assert len(task.classes) == 21
    assert [int(task.train[i][1][0, 0]) for i in range(len(task.train))] == [15, 9, 9], "a from VOC, c and d from SBD"
    assert len(task.val) == 1 and task.val[0][0].shape == (5, 7, 3)
