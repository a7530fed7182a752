"""Runs an emulator module that has faults planted in it, each in a process forked for it. Needs numpy only, as operator_run.py.

A faulty kernel may crash, or never end; what it leaves behind must not reach the next one.
"""

import os
import pickle
import resource
import signal
import traceback
from collections.abc import Mapping, Sequence
from types import ModuleType

from emulator import load
from operator_run import Array, Problem, wrong_with

#: Of a fault, which takes about one. Time of the processor, whatever else the machine does meanwhile.
CPU_SECONDS = 60

Checked = tuple[Problem, Mapping[str, Array], Mapping[str, float]]


def outcomes(library: str, faults: Sequence[tuple[int, str]], problems: Mapping[str, Checked]) -> list[str]:
    """What is said about each fault, given by its number and the name of its problem; nothing if it is not caught."""
    module = load(library, "emu_operator")
    return [_forked(module, number, problems[name]) for number, name in faults]


def launched(library: str, problems: Sequence[Checked]) -> list[tuple[str, tuple[str, ...]]]:
    """What is wrong with each problem in a module without a fault, and the kernels that it launches."""
    module = load(library, "emu_operator")
    found = []
    for problem in problems:
        module.take_launched()
        wrong = wrong_with(module, *problem)
        found.append((wrong, tuple(sorted(module.take_launched()))))
    return found


def _forked(module: ModuleType, number: int, problem: Checked) -> str:
    module.choose_fault(number)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        said, error = "", ""
        try:
            said = wrong_with(module, *problem)
        except BaseException:  # of this file's own: nothing that a fault in a kernel raises
            error = traceback.format_exc()
        os.write(write, pickle.dumps((said[:1000], error[-2000:])))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        answered = answer.read()
    _, status = os.waitpid(child, 0)
    if not answered:
        return f"ended by {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else f"ended with {status}"
    said, error = pickle.loads(answered)
    if error:
        raise RuntimeError(error)
    return str(said)
