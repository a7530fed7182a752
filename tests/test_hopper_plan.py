"""Plans with the kernels of sm_90a: only where they are asked for, what they leave to the portable ones, how long they take."""

import pytest
import torch

from gcn_kernels import info
from gcn_kernels._library import LIBRARIES

pytestmark = pytest.mark.skipif(LIBRARIES.cpu_reason is not None, reason=str(LIBRARIES.cpu_reason))


def kernels(plan: dict) -> set[str]:
    return {launch["kernel"].split()[0] for launch in plan["launches"]}


@pytest.mark.parametrize("backward", [False, True])
def test_only_where_they_are_asked_for(backward: bool) -> None:
    arguments = {"batch": 16, "channels_last": backward, "backward": backward}
    portable = info.plan(256, 21, (128, 128), **arguments)
    asked = info.plan(256, 21, (128, 128), generation="hopper", **arguments)
    assert not any("hopper" in kernel for kernel in kernels(portable))
    taken = {"hopper_input_grad", "hopper_weight_grad"} if backward else {"hopper_first_stage_nchw"}
    assert taken <= kernels(asked)
    assert "why_portable" not in portable and "why_portable" not in asked


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"channels_last": True}, "takes NCHW"),
        ({"dtype": torch.float32}, "bfloat16 and float16"),
        ({"size": (100, 100)}, "takes NCHW"),
    ],
)
def test_what_they_leave_to_the_portable_kernels_has_a_reason(changes: dict, says: str) -> None:
    plan = info.plan(64, 21, generation="hopper", **{"size": (64, 64), **changes})
    assert says in plan["why_portable"]
    assert "first_stage" in kernels(plan)


def test_names_of_generations() -> None:
    with pytest.raises(ValueError, match="expected portable or hopper"):
        info.plan(64, 5, (9, 17), generation="ampere")
    with pytest.raises(ValueError, match="gpu: expected"):
        info.plan(64, 5, (9, 17), generation="hopper", gpu=(1, 2))


@pytest.mark.parametrize(
    ("channels", "side", "forward_nchw", "backward"),
    [(256, 128, 1.80, 1.60), (512, 64, 1.50, 1.64), (1024, 32, 1.62, 1.86), (2048, 16, 2.05, 2.30)],
)
def test_predictions(channels: int, side: int, forward_nchw: float, backward: float) -> None:
    """An H100 in bfloat16 at batch 16, as multiples of the floor, is no worse than it was."""
    for most, pass_ in ((forward_nchw, False), (backward, True)):
        plan = info.plan(channels, 21, (side, side), batch=16, channels_last=pass_, backward=pass_, generation="hopper")
        assert plan["predicted_us"] / plan["floor_us"] <= most
