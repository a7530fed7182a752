"""The spectra cache and the spare memory by themselves: bounds, threads, fork. ``cache_driver.cpp`` says what each run does."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    Path(__file__).with_name("cache_driver.cpp"),
    *(ROOT / f"csrc/cpu/{n}.cpp" for n in ("gcn/spectra_cache", "spare_memory", "fork")),
]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="built with g++, and forks")


def build(folder: Path, *flags: str) -> Path:
    program = folder / "cache_driver"
    command = ["g++", "-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", *flags]
    subprocess.run([*command, *map(str, SOURCES), "-o", str(program)], check=True)
    return program


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("cache"))


def run(program: Path, what: str) -> str:
    done = subprocess.run([str(program), what], capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("what", ["bounds", "threads"])
def test_what_is_kept(driver: Path, what: str) -> None:
    run(driver, what)


def test_a_child_of_fork_finds_no_lock_taken(driver: Path) -> None:
    """Threads of the parent hold the locks nearly all the time; without the handlers the first child waits for ever."""
    run(driver, "forks")


def test_finding_an_entry_takes_no_longer_among_many(driver: Path) -> None:
    """A list took 16000 steps for the last of 16000 entries; cache misses make the difference now."""
    among = {int(entries): float(ns) for entries, ns in (line.split() for line in run(driver, "speed").splitlines())}
    assert among[16000] < 30 * among[4]


def test_the_thread_sanitizer_has_nothing_to_say(tmp_path: Path) -> None:
    run(build(tmp_path, "-fsanitize=thread"), "threads")
