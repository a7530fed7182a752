"""Markers and isolation that every test shares."""

import os
import shlex
from collections.abc import Iterator
from typing import Any

# Before PyTorch is imported: its threads that wait for each other leave their cores to the jobs beside the tests.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch
from ahead import Ahead, has_jobs

from gcn_kernels.core.library import LIBRARIES
from gcn_kernels.swap import fused_class

AHEAD = pytest.StashKey[Ahead]()


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to test the fallback by accident, as when the source tree without a compiled library shadows the package."""
    if LIBRARIES.cpu_reason is not None:
        raise pytest.UsageError(
            f"the compiled library is not loaded ({LIBRARIES.cpu_reason}): run `pip install .` and then `pytest` "
            "(`python -m pytest` would import the sources in this folder), or `pip install -e .`"
        )
    if os.environ.get("TRITON_INTERPRET") == "1":
        import triton_repairs

        triton_repairs.install()
        # Triton computes in tf32 where PyTorch's convolutions do, and those of a CPU, which set the rule, do not.
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]


def is_worker(config: pytest.Config) -> bool:
    """Whether this is one of the processes of ``pytest -n``."""
    return hasattr(config, "workerinput")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Of ``pytest -n auto``: a process needs about a gigabyte, and there is not work for more."""
    return min(os.cpu_count() or 1, 6)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of ``pytest -n``: a file is for one process, with what its tests share, and so are all that use the emulator."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "emu" if "/emu/" in file else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that wait for long jobs come last, after what these jobs are done beside; of several processes, first."""
    items.sort(key=has_jobs, reverse=is_worker(config))


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[AHEAD] = Ahead()
    if not session.config.option.collectonly:
        session.config.stash[AHEAD].begin(session.items, beside=not is_worker(session.config))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.config.stash[AHEAD].wait(item)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (jobs := session.config.stash.get(AHEAD, None)) is not None:
        jobs.end()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how to run each test that failed again, alone."""
    failed = {r.nodeid: r for kind in ("failed", "error") for r in terminalreporter.stats.get(kind, []) if hasattr(r, "keywords")}
    if not failed:
        return
    terminalreporter.section(f"to run again alone, in {config.rootpath}")
    environment = "TRITON_INTERPRET=1 " if os.environ.get("TRITON_INTERPRET") == "1" else ""
    for nodeid, report in failed.items():
        marked = "".join(f"-m {mark} " for mark in ("proof", "slow") if mark in report.keywords)
        terminalreporter.write_line(f"{environment}pytest {marked}{shlex.quote(nodeid)}")


@pytest.fixture(autouse=True)
def _same_start_for_every_test() -> Iterator[None]:
    """Fix the seed; put back what a test may switch globally."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    # What float32 results are compared with is computed on the CPU, in float32.
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """No graph compiled by an earlier test counts as a recompilation in this one."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the runs of a converted module that are watched."""
    runs: list[int] = []
    scope_of = fused_class.scope_of
    monkeypatch.setattr(fused_class, "scope_of", lambda *a, **k: (runs.append(1), scope_of(*a, **k))[1])
    return runs
