"""Every wrapper of the device layer, in the emulator: against the PTX manual, and against what a GPU computed."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import emulator
import numpy as np
import pytest
from calibration import CALIBRATIONS, GOLDEN, Calibration, Expected, decoded, disagreements

#: The emulator changes seldom, and whatever runs in it every day would show that it is broken.
pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(emulator.why_not() is not None, reason=str(emulator.why_not())),
]

every_wrapper = pytest.mark.parametrize("calibration", CALIBRATIONS, ids=lambda c: c.name)

GPU_RESULTS = sorted(GOLDEN.glob("*.npz"))
NONE_YET = "no GPU has produced golden data yet: python tests/emu/calibration.py"
every_gpu = pytest.mark.parametrize(
    "golden",
    GPU_RESULTS or [pytest.param(None, marks=pytest.mark.skip(NONE_YET))],
    ids=lambda path: path.stem if path else "none",
)
#: Tensor cores align all terms of a sum to the largest before they add, and cut each; the emulator cuts the sum only.
HARDWARE_SUMS = 4.0


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return emulator.DEVICE.load()


@every_wrapper
@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_does_what_the_manual_says(module: ModuleType, calibration: Calibration, order: str) -> None:
    module.set_schedule(order, seed=1)
    given = calibration.draw()
    found = decoded(calibration, module.run_calibration(calibration.name, given.tobytes()))
    assert not disagreements(found, calibration.expect(given))


@every_gpu
@every_wrapper
def test_does_what_a_gpu_did(module: ModuleType, golden: Path, calibration: Calibration) -> None:
    recorded = np.load(golden)
    given = recorded[f"{calibration.name}.input"]
    expected = Expected(
        decoded(calibration, recorded[f"{calibration.name}.output"].tobytes()),
        HARDWARE_SUMS * np.ravel(calibration.expect(given).allowed),
    )
    found = decoded(calibration, module.run_calibration(calibration.name, given.tobytes()))
    assert not disagreements(found, expected)


def _relative_error(module: ModuleType, name: str, factor: Callable[[np.ndarray], np.ndarray]) -> float:
    """The largest error of single products, all other terms being zero, relative to the product."""
    from calibration import A32_COLUMNS, A32_ROWS, B32_COLUMNS, B32_ROWS, D_COLUMNS, D_ROWS

    rng = np.random.default_rng(4)
    sets = 64
    a, b = np.zeros((sets, 16, 8), np.float32), np.zeros((sets, 8, 8), np.float32)
    a[:, :, 3], b[:, 3, :] = factor(rng.normal(size=(sets, 16))), factor(rng.normal(size=(sets, 8)))
    zeros = np.zeros((sets, 32, 4), np.float32)
    registers = np.concatenate([a[:, A32_ROWS, A32_COLUMNS], b[:, B32_ROWS, B32_COLUMNS], zeros], 2)
    found = np.frombuffer(module.run_calibration(name, registers.tobytes()), np.float32).reshape(sets, 32, 4)
    exact = np.einsum("smk,skn->smn", a.astype(np.float64), b.astype(np.float64))[:, D_ROWS, D_COLUMNS]
    return float((abs(found - exact) / abs(exact)).max())


def test_three_tf32_products_are_nearly_one_of_fp32(module: ModuleType) -> None:
    def whole(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float32)

    assert _relative_error(module, "mma_fp32", whole) < 2.0**-21
    assert _relative_error(module, "mma_tf32", whole) > 2.0**-11, "the comparison would not show a lost part"


def test_ordered_accesses_are_no_race(module: ModuleType) -> None:
    for order in ("ascending", "descending", "random"):
        module.set_schedule(order, seed=3)
        module.launch_sound(2, 2, 2, 128, 256)


#: Blocks, threads and bytes of shared memory that no GPU takes, and what is said.
REFUSED = {
    "threads": ((1, 1, 1), 1056, 4096, "1056 threads"),
    "part-of-a-warp": ((1, 1, 1), 48, 4096, "full warps"),
    "shared-memory": ((1, 1, 1), 32, (227 << 10) + 16, "bytes of shared memory"),
    "no-blocks": ((1, 0, 1), 32, 4096, "a grid of 1 x 0 x 1"),
    "grid": ((1, 1, 65536), 32, 4096, "a grid of 1 x 1 x 65536"),
}


@pytest.mark.parametrize(("blocks", "threads", "shared_bytes", "said"), REFUSED.values(), ids=REFUSED)
def test_refuses_what_no_gpu_takes(
    module: ModuleType, blocks: tuple[int, int, int], threads: int, shared_bytes: int, said: str
) -> None:
    with pytest.raises(module.EmulatorBug, match=said):
        module.launch_sound(*blocks, threads, shared_bytes)


def test_shared_memory_ends_where_the_launch_said(module: ModuleType) -> None:
    with pytest.raises(module.EmulatorBug, match=r"outside its 254 bytes .*sound_kernel.*thread 127"):
        module.launch_sound(1, 1, 1, 128, 254)
