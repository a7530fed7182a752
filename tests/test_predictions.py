"""What the cost model says of the paper's four maps on an H100, beside what an H100 took."""

import csv
from pathlib import Path

import pytest

from gcn_kernels import info
from gcn_kernels.core.library import LIBRARIES

pytestmark = pytest.mark.skipif(LIBRARIES.cpu_reason is not None, reason=str(LIBRARIES.cpu_reason))

MEASURED = Path(__file__).parents[1] / "benchmarks" / "results" / "h100" / "kernels.csv"
CHANNELS = {"res-2": (256, 128), "res-3": (512, 64), "res-4": (1024, 32), "res-5": (2048, 16)}
#: As multiples of the floor, forward and backward, at batch 16 in bfloat16 and channels_last.
PREDICTED = {
    "portable": {"res-2": (2.18, 2.81), "res-3": (2.18, 2.82), "res-4": (2.66, 3.41), "res-5": (2.85, 3.87)},
    "hopper": {"res-2": (1.59, 1.62), "res-3": (1.58, 1.68), "res-4": (1.99, 2.03), "res-5": (3.12, 2.68)},
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


def measured(generation: str, kernel: str, backward: bool) -> dict[tuple[str, int], float]:
    """Microseconds of the last state that was measured, by map and batch."""
    with MEASURED.open() as file:
        return {
            (row["map"].split()[0], int(row["batch"])): float(row["own_us"])
            for row in csv.DictReader(file)
            if row["run"] == "last" and row["generation"] == generation and row["layout"] == "channels_last"
            if row["kernel"] == kernel and row["pass"] == ("backward" if backward else "forward")
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
    took = measured(generation, kernel, backward)
    for name, batch in maps:
        said = plan(generation, name, batch, backward)
        (own,) = (launch["predicted_us"] for launch in said["launches"] if launch["kernel"].split()[0] == kernel)
        assert own == pytest.approx(took[name, batch], rel=0.25), (name, batch)
