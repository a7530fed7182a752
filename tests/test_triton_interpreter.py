"""The tests that every backend has to pass, with Triton's kernels in its interpreter, in processes of their own.

``TRITON_INTERPRET`` must be set before Triton is imported, and the repairs of ``triton_repairs.py`` change Triton for the
whole process, so pytest is run once more:

    TRITON_INTERPRET=1 pytest tests/triton_in_interpreter.py

The interpreter keeps one core busy, so two processes share the tests.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import pytest
from ahead import Job
from suites import in_suites

pytest.importorskip("triton")

HERE = Path(__file__).parent
#: Of each suite, problems x dtypes x layouts, and planted faults: with fewer this would not be the test that it says it is.
LEAST = {"not proof": (10, 4), "proof": (90, 20)}
#: What either process runs; about as long.
HALVES = ("test_result_and_all_gradients", "not test_result_and_all_gradients")
#: Of the doubling, every day: the smallest problems, nan at a corner of the map, and what it has of its own.
UPSAMPLE_FILES = ("test_upsample.py", "triton_upsample_in_interpreter.py")
#: Of the refinement, what it has of its own.
REFINE_FILES = ("triton_refine_in_interpreter.py",)
UPSAMPLE_EVERY_DAY = "triton_upsample or (triton and (pixel or one-channel or (nan and corner) or window))"

STRIPS_FILE = "triton_strips_in_interpreter.py"
#: Of the strips: problems x dtypes x layouts, and planted faults.
STRIPS_LEAST = {"not proof": (4, 2), "proof": (20, 12)}


@cache
def run(suite: str, chosen: str, *files: str) -> list[str]:
    """The names of the chosen tests, all of which pass."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    options = ["-p", "no:cacheprovider", "-v", "-m", suite, "-k", chosen]
    command = [sys.executable, "-m", "pytest", *options, *(files or ["triton_in_interpreter.py"])]
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return re.findall(r"::(test_\w+)(?:\[.*\])? PASSED", done.stdout)


def ahead(items: list[pytest.Function]) -> list[Job]:
    """The runs of the chosen tests."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return []
    jobs = []
    for params in (item.callspec.params for item in items):
        if "refine_suite" in params:
            jobs.append(partial(run, params["refine_suite"], "triton", *REFINE_FILES))
        elif "chosen" in params:
            jobs.append(partial(run, params["suite"], params["chosen"], *UPSAMPLE_FILES))
        elif "of_strips" in params:
            jobs.append(partial(run, params["of_strips"], "", STRIPS_FILE))
        else:
            jobs += [partial(run, params["suite"], half) for half in HALVES]
    return jobs


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process is the interpreter's")
@pytest.mark.parametrize("suite", in_suites(LEAST, everyday=lambda suite: suite == "not proof"))
def test_kernels_in_the_interpreter(suite: str) -> None:
    with ThreadPoolExecutor(len(HALVES)) as pool:
        passed = [name for names in pool.map(run, [suite] * len(HALVES), HALVES) for name in names]
    combinations, faults = LEAST[suite]
    assert passed.count("test_result_and_all_gradients") >= combinations
    assert passed.count("test_planted_fault_is_caught") >= faults


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process is the interpreter's")
@pytest.mark.parametrize(
    ("suite", "chosen", "least"),
    [("not proof", UPSAMPLE_EVERY_DAY, (10, 2)), pytest.param("proof or not proof", "triton", (40, 8), marks=pytest.mark.proof)],
    ids=["everyday", "proof"],
)
def test_doubling_in_the_interpreter(suite: str, chosen: str, least: tuple[int, int]) -> None:
    passed = run(suite, chosen, *UPSAMPLE_FILES)
    assert passed.count("test_values_and_gradients") >= least[0]
    assert passed.count("test_planted_fault_is_caught") >= least[1]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process is the interpreter's")
@pytest.mark.parametrize(
    ("refine_suite", "least"),
    [("not proof", (4, 2)), pytest.param("proof", (5, 15), marks=pytest.mark.proof)],
    ids=["everyday", "proof"],
)
def test_refinement_in_the_interpreter(refine_suite: str, least: tuple[int, int]) -> None:
    passed = run(refine_suite, "triton", *REFINE_FILES)
    assert passed.count("test_values_and_gradients") >= least[0]
    assert passed.count("test_planted_fault_is_caught") >= least[1]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process is the interpreter's")
@pytest.mark.parametrize("of_strips", in_suites(STRIPS_LEAST, everyday=lambda suite: suite == "not proof"))
def test_strips_in_the_interpreter(of_strips: str) -> None:
    passed = run(of_strips, "", STRIPS_FILE)
    trials, faults = STRIPS_LEAST[of_strips]
    assert passed.count("test_values_and_gradients") >= trials
    assert passed.count("test_planted_fault_is_caught") >= faults
