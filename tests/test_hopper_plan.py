"""Plans with the kernels of sm_90a: only where they are asked for, what they leave to the portable ones, how long they take."""

import pytest
import torch

from gcn_kernels import info
from gcn_kernels.core.library import LIBRARIES

pytestmark = pytest.mark.skipif(LIBRARIES.cpu_reason is not None, reason=str(LIBRARIES.cpu_reason))


def kernels(plan: dict) -> set[str]:
    return {launch["kernel"].split()[0] for launch in plan["launches"]}


@pytest.mark.parametrize(
    ("backward", "channels_last", "taken"),
    [
        (False, True, {"hopper_first_stage"}),
        (False, False, {"hopper_first_stage"}),
        (True, False, {"hopper_input_grad", "hopper_weight_grad"}),
        (True, True, {"hopper_input_grad", "hopper_weight_grad"}),
    ],
)
def test_only_where_they_are_asked_for(backward: bool, channels_last: bool, taken: set[str]) -> None:
    arguments = {"batch": 16, "channels_last": channels_last, "backward": backward}
    portable = info.plan(256, 21, (128, 128), **arguments)
    asked = info.plan(256, 21, (128, 128), generation="hopper", **arguments)
    assert not any("hopper" in kernel for kernel in kernels(portable))
    assert taken <= kernels(asked)
    assert "why_portable" not in portable
    assert asked.get("why_portable") == ("the portable second stage should take less time" if backward else None)


@pytest.mark.parametrize(
    ("channels", "side", "batch", "backward", "dtype", "taken"),
    [
        (256, 128, 16, False, torch.bfloat16, True),
        (2048, 16, 16, False, torch.float16, True),
        (2048, 16, 1, False, torch.bfloat16, False),
        (2048, 16, 1, True, torch.bfloat16, True),
        (256, 128, 16, False, torch.float32, True),
        (512, 64, 16, False, torch.float32, False),
        (256, 128, 16, True, torch.float32, False),
        (256, 128, 1, False, torch.bfloat16, True),
        (64, 128, 16, True, torch.bfloat16, False),
    ],
)
def test_unasked_they_are_used_where_they_were_measured_to_be_faster(
    channels: int, side: int, batch: int, backward: bool, dtype: torch.dtype, taken: bool
) -> None:
    arguments = {"batch": batch, "backward": backward, "dtype": dtype, "channels_last": True}
    plan = info.plan(channels, 21, (side, side), generation="auto", **arguments)
    assert taken == any("hopper" in kernel for kernel in kernels(plan))


@pytest.mark.parametrize(("channels", "side", "batch"), [(256, 128, 16), (2048, 16, 16), (512, 64, 1)])
def test_unasked_the_input_gradient_into_nchw_waits_for_a_run_of_todays_kernel(channels: int, side: int, batch: int) -> None:
    plan = info.plan(channels, 21, (side, side), batch=batch, backward=True, generation="auto")
    assert "hopper_weight_grad" in kernels(plan)
    assert "line_conv" in kernels(plan) and "hopper_input_grad" not in kernels(plan)
    assert "no GPU has shown the input gradient of sm_90a faster into NCHW" in plan["why_portable"]


@pytest.mark.parametrize(
    ("overrides", "blocks", "shared_bytes"),
    [
        ("", 64, 184648),
        ("input_grad_rows=16", 32, 223816),
        ("input_grad_rows=8", 64, 184648),
        ("input_grad_columns=32", 32, 224568),
        ("input_grad_columns=64", 64, 228472),
        ("input_grad_together=2", 32, 184648),
        ("input_grad_portable=1", 0, 0),
    ],
)
def test_overrides_of_the_input_gradient_into_nchw(
    monkeypatch: pytest.MonkeyPatch, overrides: str, blocks: int, shared_bytes: int
) -> None:
    if overrides:
        monkeypatch.setenv("GCN_KERNELS_PLAN", overrides)
    plan = info.plan(1024, 21, (32, 32), backward=True, generation="hopper")
    found = [launch for launch in plan["launches"] if launch["kernel"] == "hopper_input_grad dx"]
    assert sum(launch["blocks"] for launch in found) == blocks
    assert sum(launch["shared_bytes"] for launch in found) == shared_bytes
    assert ("the portable input gradient" in plan.get("why_portable", "")) == (not blocks)


@pytest.mark.parametrize(
    ("channels", "side", "batch", "patch"),
    [(256, 128, 16, "4x64"), (512, 64, 16, "4x64"), (1024, 32, 16, "8x32"), (2048, 16, 16, "16x16"), (1024, 32, 1, "8x16")],
)
def test_the_input_gradient_into_nchw_is_written_in_whole_lines(
    channels: int, side: int, batch: int, patch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 64 pixels in a row, or of whole rows of the map; but where there are few of them, patches are small."""

    def launches() -> list[dict]:
        return info.plan(channels, 21, (side, side), batch=batch, backward=True, generation="hopper")["launches"]

    rows, columns = patch.split("x")
    chosen = launches()
    monkeypatch.setenv("GCN_KERNELS_PLAN", f"input_grad_rows={rows},input_grad_columns={columns}")
    assert launches() == chosen


@pytest.mark.parametrize("backward", [False, True])
def test_nchw_is_copied_by_whole_pieces_where_it_can_be(monkeypatch: pytest.MonkeyPatch, backward: bool) -> None:
    def copy_of(size: tuple[int, int], dtype: torch.dtype = torch.bfloat16) -> str:
        return str(info.plan(64, 21, size, dtype=dtype, backward=backward, generation="hopper")["x"])

    pieces, elements = "copied into channels_last, 16 bytes at a time", "copied into channels_last"
    assert copy_of((16, 24)) == pieces
    assert copy_of((6, 12)) == pieces  # rows need not be whole pieces
    assert copy_of((6, 13)) == elements
    if not backward:
        assert copy_of((16, 24), torch.float32) == elements
    monkeypatch.setenv("GCN_KERNELS_PLAN", "x_by_elements=1")
    assert copy_of((16, 24)) == elements


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"channels_last": True, "dtype": torch.float32, "allow_tf32": False}, "bfloat16, float16 and tf32"),
    ],
)
def test_what_they_leave_to_the_portable_kernels_has_a_reason(changes: dict, says: str) -> None:
    plan = info.plan(64, 21, generation="hopper", **{"size": (64, 64), **changes})
    assert says in plan["why_portable"]
    assert "first_stage" in kernels(plan)


def test_pixels_that_are_no_whole_pieces_are_left_to_the_portable_kernels() -> None:
    """12 channels are 24 bytes; that a row of 10 pixels is 240, a multiple of 16, does not help."""
    plan = info.plan(12, 5, (13, 10), 7, channels_last=True, backward=True, generation="hopper")
    assert "hopper_input_grad" not in kernels(plan)
    assert "multiples of eight channels" in plan["why_portable"]


def test_names_of_generations() -> None:
    with pytest.raises(ValueError, match="expected portable, hopper, auto"):
        info.plan(64, 5, (9, 17), generation="ampere")
    with pytest.raises(ValueError, match=r"gpu \(.*\): expected 3"):
        info.plan(64, 5, (9, 17), generation="hopper", gpu=(1, 2))


@pytest.mark.parametrize(
    ("asked", "backward", "taken"),
    [
        (None, False, {"hopper_second_stage"}),
        (None, True, {"second_stage_grad"}),
        ("second_stage=1", False, {"line_conv"}),
        ("second_stage=1", True, {"second_stage_grad"}),
        ("second_stage=128", False, {"hopper_second_stage"}),
        ("second_stage=512", True, {"hopper_second_stage", "second_stage_grad"}),
    ],
)
def test_the_second_stage_by_either_kernel(
    asked: str | None, backward: bool, taken: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if asked is not None:
        monkeypatch.setenv("GCN_KERNELS_PLAN", asked)
    plan = info.plan(256, 21, (128, 128), batch=16, channels_last=True, backward=backward, generation="hopper")
    assert kernels(plan) & {"hopper_second_stage", "second_stage_grad", "line_conv"} == taken


@pytest.mark.parametrize("backward", [False, True])
def test_turned_windows_are_used_where_they_are_asked_for(backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No padding between planes; a clock a block of A instead of two."""

    def second_stage(overrides: str) -> dict:
        monkeypatch.setenv("GCN_KERNELS_PLAN", overrides)
        plan = info.plan(256, 21, (128, 128), batch=16, channels_last=True, backward=backward, generation="hopper")
        (launch,) = (launch for launch in plan["launches"] if "hopper_second_stage" in launch["kernel"])
        return dict(launch)

    as_they_are, turned = (
        second_stage("second_stage=512,second_stage_turned=2"),
        second_stage("second_stage=512,second_stage_turned=1"),
    )
    assert turned["shared_bytes"] != as_they_are["shared_bytes"]
    assert 0.6 < turned["predicted_us"] / as_they_are["predicted_us"] < 0.9


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("channels", "side"), [(256, 128), (512, 64), (1024, 32), (2048, 16)])
def test_the_second_stage_runs_unasked_only_where_it_was_measured(channels: int, side: int, channels_last: bool) -> None:
    """Forward; the gradients of the middle maps by it gained nothing over the portable kernel that has more to do."""
    for backward, taken in ((False, "hopper_second_stage"), (True, "second_stage_grad")):
        plan = info.plan(channels, 21, (side, side), batch=16, channels_last=channels_last, backward=backward, generation="auto")
        others = {"line_conv"} if not backward else set()  # which may be the gradient of x
        assert kernels(plan) & {"hopper_second_stage", "second_stage_grad", *others} == {taken}


def test_where_the_portable_second_stage_should_take_less_time_it_runs() -> None:
    plan = info.plan(2048, 21, (16, 16), batch=1, channels_last=True, backward=True, generation="hopper")
    assert "hopper_second_stage" not in kernels(plan)
    assert "the portable second stage should take less time" in plan["why_portable"]


def test_tf32_is_taken_from_channels_last() -> None:
    plan = info.plan(256, 21, (64, 64), dtype=torch.float32, channels_last=True, generation="hopper")
    assert "hopper_first_stage" in kernels(plan)
