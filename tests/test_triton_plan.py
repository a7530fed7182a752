"""What the Triton launches are planned by: the cost model, the tiles, and where an autotuned choice is kept."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")


from gcn_kernels.triton import config, cost, plan

#: Microseconds on an H100 that the arithmetic or the memory needs at the least: bf16, batch 16, k = 15, M = O = 21.
FLOORS = {
    (256, 128): (114.7, 229.0),
    (512, 64): (55.2, 110.0),
    (1024, 32): (27.0, 54.0),
    (2048, 16): (13.4, 27.0),
}
TILE = config.Tile(128, 64, 64, 8, 4)


def problem(c: int, size: int, k: int = 15) -> plan.Problem:
    return plan.Problem(16, c, size, size, 21, 21, 21, (k, k, k, k), torch.bfloat16)


@pytest.mark.parametrize(("c", "size"), FLOORS)
def test_predicted_time_is_at_most_three_floors(c: int, size: int) -> None:
    predicted = cost.predict(problem(c, size))
    for direction, floor in zip(("forward", "backward"), FLOORS[c, size], strict=True):
        microseconds = 1e6 * sum(seconds for name, seconds in predicted.items() if name.startswith(direction))
        assert floor < microseconds <= 3 * floor, f"{direction}: {microseconds:.0f} us, floor {floor} us"


def test_prediction_counts_what_there_is_to_do() -> None:
    """The multiply-adds of the first stage, by hand: at least the useful ones, and less than a third more at long lines."""
    res2 = problem(256, 128)
    first = plan.plan_stage(res2.stages[0], config.TABLE["sm_90", "16"], "ieee")
    useful = res2.pixels * 256 * 2 * 15 * 21
    for work in (
        cost.fork(first, res2, True, cost.H100),
        cost.join(first, res2),
        cost.weight_gradient(first, res2, cost.H100),
    ):
        assert useful <= work.multiply_adds < 1.34 * useful


@pytest.mark.parametrize(
    ("taps", "mid", "group"),
    [((15, 15), 21, 3), ((1, 1), 21, 1), ((15, 15), 64, 1), ((15, 15), 512, 1), ((7, 7), 21, 3), ((3, 15), 1, 15)],
)
def test_taps_share_a_product(taps: tuple[int, int], mid: int, group: int) -> None:
    assert plan.taps_per_group(taps, mid, TILE) == group


def test_splits_fill_the_gpu_and_are_never_empty() -> None:
    assert plan.splits(6, 32, 132, 0.03) > 10
    assert plan.splits(4000, 4, 132, 0.03) == 1
    assert plan.splits(1, 1, 132, 0.0) == 1
    for programs in (1, 5, 74, 131, 133, 278):
        assert 1 <= plan.splits(programs, 8, 132, 0.03) <= 8


def test_choice_survives_in_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new" / "triton.json"
    monkeypatch.setenv(config.ENVIRONMENT, str(file))
    config.choose.cache_clear()
    assert config.choose("sm_90", "16", 256, 15) == config.TABLE["sm_90", "16"]
    other = config.Config(TILE, TILE, TILE)
    config.store(config.key("sm_90", "16", 256, 15), other)
    config.store(config.key("sm_80", "tf32", 2048, 7), config.TABLE["sm_80", "tf32"])
    config.choose.cache_clear()
    assert config.choose("sm_90", "16", 250, 15) == other
    assert config.choose("sm_90", "16", 257, 15) == config.TABLE["sm_90", "16"]
    assert len(config.load()) == 2
    file.write_text("{'not': 'json'")
    with pytest.raises(ValueError, match=r"triton\.json.*remove it"):
        config.load()
    config.choose.cache_clear()


def test_families_cover_what_there_is() -> None:
    found = [
        config.family(name) for name in ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "sm_121", "gfx942")
    ]
    assert found == ["sm_80", "sm_86", "sm_86", "sm_90", "sm_100", "sm_100", "sm_86", "sm_86", "amd"]


def test_products_in_single_precision_follow_the_switch() -> None:
    assert config.arithmetic(torch.float32, True, "sm_90") == "tf32"
    assert config.arithmetic(torch.float32, False, "sm_90") == "ieee"
    assert config.arithmetic(torch.float32, True, "gfx942") == "ieee"
    assert config.arithmetic(torch.bfloat16, False, "gfx942") == "16"
