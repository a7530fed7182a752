"""Plans of a forward pass in two launches, whose kernels read weights as they are given: only where asked for, and why not."""

import pytest
import torch

from gcn_kernels import info
from gcn_kernels.core.library import LIBRARIES

pytestmark = pytest.mark.skipif(LIBRARIES.cpu_reason is not None, reason=str(LIBRARIES.cpu_reason))

TWO = ["unpacked_first_stage", "unpacked_second_stage y"]


def kernels(plan: dict) -> list[str]:
    return [launch["kernel"] for launch in plan["launches"]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCN_KERNELS_PLAN", "unpacked_weights=1")


#: Of the paper's maps, one image in bfloat16 and channels_last: microseconds by the cost model.
@pytest.mark.parametrize(("channels", "side", "most"), [(256, 128, 40.1), (512, 64, 18.4), (1024, 32, 16.2), (2048, 16, 16.1)])
@pytest.mark.parametrize("generation", ["portable", "hopper"])
def test_predictions_of_two_launches(
    channels: int, side: int, most: float, generation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the largest map each of many blocks packs the second weights for itself, which takes longer than a launch for all."""

    def planned() -> dict:
        return info.plan(channels, 21, (side, side), channels_last=True, generation=generation)

    with_packing = planned()
    assert not any("unpacked" in kernel for kernel in kernels(with_packing)), "no GPU has shown that it is faster"
    monkeypatch.setenv("GCN_KERNELS_PLAN", "unpacked_weights=1")
    found = planned()
    assert kernels(found) == TWO
    assert "why_packed" not in found and not found["first_stage"]["combine"]
    assert most - 1 < found["predicted_us"] <= most
    if side < 128:
        assert found["predicted_us"] < with_packing["predicted_us"]


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"channels_last": False}, "the first weights are not whole pieces of channels"),
        ({"in_channels": 2044}, "the first weights are not whole pieces of channels"),
        ({"dtype": torch.float32}, "unpacked weights are read in bfloat16 and float16"),
        ({"kernel_size": 11}, "no first stage of unpacked weights has these columns"),
        ({"size": (24, 16)}, "the first stage of unpacked weights takes whole lines, and all taps at a time"),
        ({"out_channels": 32}, "the second stage of unpacked weights has at most 24 outputs"),
        ({"mid_channels": 66}, "the second stage of unpacked weights takes all middle channels at a time"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_it_does_not_take_is_packed_and_says_so(changes: dict, why: str) -> None:
    given = {"in_channels": 2048, "out_channels": 21, "size": (16, 16), "channels_last": True, "mid_channels": 21, **changes}
    found = info.plan(given.pop("in_channels"), given.pop("out_channels"), given.pop("size"), **given)
    assert "prepare" in kernels(found)
    assert found["why_packed"].startswith(why)


@pytest.mark.usefixtures("asked")
def test_weights_that_do_not_fit_shared_memory_are_packed() -> None:
    """Those of all taps would lie there beside the windows of the second stage."""
    found = info.plan(256, 21, (128, 128), (15, 127, 15, 127), channels_last=True)
    assert "prepare" in kernels(found)
    assert found["why_packed"].startswith("the second stage would need 382864 bytes of shared memory")


def test_overrides_of_the_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    for splits, expected in ((1, TWO), (8, TWO), (65, None)):
        monkeypatch.setenv("GCN_KERNELS_PLAN", f"unpacked_weights=1,first_stage_splits={splits}")
        found = info.plan(2048, 21, (16, 16), channels_last=True)
        if expected:
            assert kernels(found) == expected and found["first_stage"]["splits"] == splits
        else:
            assert found["why_packed"].startswith("overrides leave no splits")
