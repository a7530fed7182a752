"""Calls functions in processes forked for them: a faulty kernel may crash, or never end."""

import os
import resource
import signal
from collections.abc import Callable, Sequence

import torch

#: Seconds of the processor that a call may take.
CPU_SECONDS = 60


def forked(run: Callable[[], str]) -> str:
    """What ``run`` returns, up to 1000 characters, or how its process ended."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.write(write, b"1" + run()[:1000].encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    if not said:
        return f"ended by {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else f"ended with {status}"
    return said[1:].decode()


def outcomes_of(
    faults: Sequence[tuple[int, str]], choose: Callable[[int], object], wrong_with: Callable[[str], str]
) -> list[str]:
    """What is said about each fault, given by its number and the name of its mutation; nothing if it is not caught.

    Args:
        choose: has the fault of a number run.
        wrong_with: what is wrong with the case of a mutation.
    """
    torch.set_num_threads(1)  # threads do not outlive a fork

    def said(number: int, name: str) -> str:
        choose(number)
        return wrong_with(name)

    return [forked(lambda number=number, name=name: said(number, name)) for number, name in faults]
