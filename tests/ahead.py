"""Long jobs that tests wait for, above all compiling, begun when a run begins: beside the tests that need none of them.

A test module that has such jobs has a function ``ahead(items)``: calls that its chosen tests will make, whose results are kept,
in memory or on disk. Its tests come after those of the other modules. The calls are made one after the other in a thread, so that
tests and jobs share two cores; before the first test of the module, what is left of them is done with both.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import ModuleType
from typing import Any

import pytest

Job = partial[Any]
Key = tuple[Any, ...]


class Ahead:
    """The jobs of a run."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._begun: dict[Key, Future[Any]] = {}
        self._of_module: dict[ModuleType, list[Job]] = {}

    def begin(self, items: Sequence[pytest.Item], beside: bool = True) -> None:
        """Begin the jobs of these tests, in their order; ``beside`` the tests, or else when a test waits for them."""
        by_module: dict[ModuleType, list[pytest.Item]] = {}
        for item in items:
            if has_jobs(item):
                by_module.setdefault(_module(item), []).append(item)
        for module, chosen in by_module.items():
            self._of_module[module] = jobs = module.ahead(chosen)
            for job in jobs:
                if beside and _key(job) not in self._begun:
                    self._begun[_key(job)] = self._pool.submit(job)

    def wait(self, item: pytest.Item) -> None:
        """Until the jobs of a test's module are done; those that have not begun are done here."""
        jobs = self._of_module.pop(_module(item), [])
        for job in jobs:
            if (begun := self._begun.get(_key(job))) is None or begun.cancel():
                job()
        for job in jobs:
            if (begun := self._begun.get(_key(job))) is not None and not begun.cancelled():
                begun.result()

    def end(self) -> None:
        """Begin none of those that are left."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def has_jobs(item: pytest.Item) -> bool:
    return hasattr(_module(item), "ahead")


def _module(item: pytest.Item) -> ModuleType:
    module: ModuleType = getattr(item, "module", None)  # type: ignore[assignment]
    return module


def _key(job: Job) -> Key:
    return (job.func, job.args, tuple(sorted(job.keywords.items())))
