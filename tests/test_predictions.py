"""What the cost model says of the four maps of the paper, beside what an H100 took, to which it was fitted, and an H200."""

import csv
from pathlib import Path

import pytest

from gcn_kernels import info
from gcn_kernels.core.library import LIBRARIES

pytestmark = pytest.mark.skipif(LIBRARIES.cpu_reason is not None, reason=str(LIBRARIES.cpu_reason))

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
CHANNELS = {"res-2": (256, 128), "res-3": (512, 64), "res-4": (1024, 32), "res-5": (2048, 16)}
#: As multiples of the floor, forward and backward, at batch 16 in bfloat16 and channels_last.
PREDICTED = {
    "portable": {"res-2": (2.18, 2.81), "res-3": (2.18, 2.82), "res-4": (2.66, 3.41), "res-5": (2.85, 3.87)},
    "hopper": {"res-2": (1.71, 1.66), "res-3": (1.60, 1.68), "res-4": (1.99, 2.03), "res-5": (3.02, 2.68)},
}


def plan(generation: str, name: str, batch: int, backward: bool) -> dict:
    channels, side = CHANNELS[name]
    return info.plan(channels, 21, (side, side), batch=batch, channels_last=True, backward=backward, generation=generation)


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("generation", PREDICTED)
def test_predictions_are_no_worse_than_they_were(generation: str, name: str) -> None:
    for backward, most in enumerate(PREDICTED[generation][name]):
        said = plan(generation, name, 16, bool(backward))
        assert most - 0.1 < said["predicted_us"] / said["floor_us"] <= most


def measured(
    gpu: str, run: str, generation: str, kernel: str, backward: bool, layout: str = "channels_last"
) -> dict[tuple[str, int], float]:
    """Microseconds by map and batch."""
    with (RESULTS / gpu / "kernels.csv").open() as file:
        return {
            (row["map"].split()[0], int(row["batch"])): float(row["own_us" if "own_us" in row else "us"])
            for row in csv.DictReader(file)
            if row["run"] == run and row["generation"] == generation and row["layout"] == layout
            if row["kernel"].split()[0] == kernel and row["pass"] == ("backward" if backward else "forward")
        }


@pytest.mark.parametrize(
    ("generation", "kernel", "backward", "maps"),
    [
        ("hopper", "hopper_input_grad", True, {(name, batch) for name in CHANNELS for batch in (16, 1)}),
        ("hopper", "hopper_weight_grad", True, {(name, 16) for name in CHANNELS}),
        ("portable", "line_conv", True, {(name, 16) for name in CHANNELS}),
    ],
)
def test_predictions_are_near_what_an_h100_took(generation: str, kernel: str, backward: bool, maps: set[tuple[str, int]]) -> None:
    """Of kernels whose main loops and plans have not changed since, within a quarter."""
    took = measured("h100", "last", generation, kernel, backward)
    for name, batch in maps:
        said = plan(generation, name, batch, backward)
        (own,) = (launch["predicted_us"] for launch in said["launches"] if launch["kernel"].split()[0] == kernel)
        assert own == pytest.approx(took[name, batch], rel=0.25), (name, batch)


@pytest.mark.parametrize(
    ("kernel", "backward"), [("hopper_first_stage", False), ("hopper_input_grad", True), ("hopper_weight_grad", True)]
)
@pytest.mark.parametrize("name", CHANNELS)
def test_predictions_are_near_what_an_h200_took(name: str, kernel: str, backward: bool) -> None:
    """Out of sample: nothing was fitted to that run. Half as much again is what a choice between plans can bear."""
    took = measured("h200", "first", "hopper", kernel, backward)
    for batch in (16, 1):
        said = plan("hopper", name, batch, backward)
        (own,) = (launch["predicted_us"] for launch in said["launches"] if launch["kernel"].split()[0] == kernel)
        assert 1 / 1.5 < own / took[name, batch] < 1.5, batch


@pytest.mark.parametrize("name", CHANNELS)
def test_copies_are_predicted_by_what_the_device_says_of_its_memory(name: str) -> None:
    """x from NCHW on an H200: out of sample, and by an H100's memory it would be up to 1.4 times as long."""
    took = measured("h200", "second", "hopper", "prepare", False, layout="NCHW")[name, 16]
    channels, side = CHANNELS[name]
    said = [info.plan(channels, 21, (side, side), batch=16, generation="hopper", gpu=gpu)["launches"][0] for gpu in info.NAMED]
    assert [launch["kernel"] for launch in said] == ["prepare", "prepare"]
    of_h100, of_h200 = (launch["predicted_us"] for launch in said)
    assert of_h200 == pytest.approx(took, rel=0.15) and of_h200 <= of_h100


def test_memory_is_predicted_at_the_rate_that_an_h200_copied_at() -> None:
    """The 4.2 TB/s of the documentation, from what its device says of its memory: of two copies, all else cancels."""
    smaller, larger = (info.plan(256, 21, (128, 128), batch=n, generation="hopper", gpu="H200")["launches"][0] for n in (16, 32))
    megabytes, microseconds = (larger[unit] - smaller[unit] for unit in ("mbytes", "predicted_us"))
    assert megabytes / microseconds == pytest.approx(4.2, rel=0.01)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", CHANNELS)
def test_predictions_are_near_what_the_second_stage_took(name: str, backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In patches of either size, to which the model was fitted: within a fifth."""
    for patch in (128, 512):
        took = measured("h200", f"second-{patch}", "hopper", "hopper_second_stage", backward)
        monkeypatch.setenv("GCN_KERNELS_PLAN", f"second_stage={patch},second_stage_turned=2")
        for batch in (16, 1):
            assert 1 / 1.2 < second_stage(name, batch, backward)["predicted_us"] / took[name, batch] < 1.2, (patch, batch)


@pytest.mark.parametrize("name", CHANNELS)
def test_the_second_stage_takes_the_patches_that_were_faster(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    took = {p: measured("h200", f"second-{p}", "hopper", "hopper_second_stage", False) for p in (128, 512)}
    for batch in (16, 1):
        monkeypatch.setenv("GCN_KERNELS_PLAN", "second_stage_turned=2")
        chosen = second_stage(name, batch, False)
        best = min(took, key=lambda p: took[p][name, batch])
        monkeypatch.setenv("GCN_KERNELS_PLAN", f"second_stage={best},second_stage_turned=2")
        assert chosen == second_stage(name, batch, False), batch


def test_an_h200_ran_as_many_blocks_side_by_side_as_a_multiprocessor_has_room_for() -> None:
    """How its memory is divided into L1 and shared memory is left to the driver, which gave three blocks what they need."""
    with (RESULTS / "h200" / "profile.csv").open() as file:
        found = [row for row in csv.DictReader(file) if row["kernel"].startswith("second_stage_grad") and "res-2" in row["call"]]
    assert found
    for row in found:
        warps, blocks = 64 * float(row["Achieved Occupancy"]) / 100, 65536 // (int(row["Registers Per Thread"]) * 128)
        assert blocks == 3 and 0.9 * 4 * blocks < warps


def second_stage(name: str, batch: int, backward: bool) -> dict:
    (own,) = (launch for launch in plan("hopper", name, batch, backward)["launches"] if "hopper_second_stage" in launch["kernel"])
    return dict(own)
