"""Every wrapper of the Hopper layer, in the emulator: against the PTX manual, and against what a GPU computed."""

from pathlib import Path
from types import ModuleType

import emulator
import numpy as np
import pytest
from calibration import Calibration, Expected, disagreements
from hopper_calibration import HOPPER_CALIBRATIONS
from test_device import HARDWARE_SUMS, every_gpu

#: The emulator changes seldom, and whatever runs in it every day would show that it is broken.
pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(emulator.why_not() is not None, reason=str(emulator.why_not())),
]
every_wrapper = pytest.mark.parametrize("calibration", HOPPER_CALIBRATIONS, ids=lambda c: c.name)


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return emulator.DEVICE.load()


@every_wrapper
@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_does_what_the_manual_says(module: ModuleType, calibration: Calibration, order: str) -> None:
    module.set_schedule(order, seed=1)
    given = calibration.draw()
    output = module.run_hopper_calibration(calibration.name, given.tobytes())
    assert not disagreements(np.frombuffer(output, calibration.output), calibration.expect(given))


@every_gpu
@every_wrapper
def test_does_what_a_gpu_did(module: ModuleType, golden: Path, calibration: Calibration) -> None:
    recorded = np.load(golden)
    if f"{calibration.name}.input" not in recorded:
        pytest.skip("not a Hopper GPU")
    given = recorded[f"{calibration.name}.input"]
    expected = Expected(
        np.frombuffer(recorded[f"{calibration.name}.output"].tobytes(), calibration.output),
        HARDWARE_SUMS * np.ravel(calibration.expect(given).allowed),
    )
    output = module.run_hopper_calibration(calibration.name, given.tobytes())
    assert not disagreements(np.frombuffer(output, calibration.output), expected)
