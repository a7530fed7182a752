"""Jobs that are begun ahead of the tests that wait for them."""

import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from ahead import Ahead, has_jobs


def item(module: Any) -> Any:
    return SimpleNamespace(module=module)


class Module:
    """Stands for a test module, with its jobs."""

    def __init__(self, *jobs: partial[Any]) -> None:
        self.ahead = lambda items: list(jobs)


def test_every_job_is_done_once_and_before_its_module_goes_on() -> None:
    done: list[int] = []
    shared = partial(done.append, 1)
    first, second, third = Module(shared, partial(done.append, 2)), Module(partial(done.append, 1)), object()
    assert [has_jobs(item(m)) for m in (first, second, third)] == [True, True, False]
    jobs = Ahead()
    jobs.begin([item(first), item(second), item(first), item(third)])
    for module in (third, first, second, first):
        jobs.wait(item(module))
    assert sorted(done) == [1, 2]
    jobs.end()


def test_what_has_not_begun_is_done_by_who_waits() -> None:
    go, threads = threading.Event(), []
    jobs = Ahead()
    slow, quick = Module(partial(go.wait)), Module(partial(lambda: threads.append(threading.current_thread())))
    jobs.begin([item(slow), item(quick)])
    jobs.wait(item(quick))  # while the other one is still at work
    assert threads == [threading.current_thread()]
    go.set()
    jobs.wait(item(slow))
    jobs.end()


def test_of_several_processes_none_does_more_than_its_own_tests_wait_for() -> None:
    done: list[int] = []
    ours, theirs = Module(partial(done.append, 1)), Module(partial(done.append, 2))
    jobs = Ahead()
    jobs.begin([item(ours), item(theirs)], beside=False)
    assert not done
    jobs.wait(item(ours))
    jobs.end()
    assert done == [1]


def test_a_job_that_fails_fails_who_waits_and_nobody_else() -> None:
    jobs = Ahead()
    broken, sound = Module(partial(int, "no number")), Module(partial(int, "1"))
    jobs.begin([item(broken), item(sound)])
    jobs.wait(item(sound))
    with pytest.raises(ValueError, match="no number"):
        jobs.wait(item(broken))
    jobs.end()
