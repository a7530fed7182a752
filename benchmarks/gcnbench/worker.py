"""The process that holds another commit's library: prepares, computes and times calls of its fused operator when asked.

Started by :mod:`gcnbench.base` in the folder of that library, so that ``import gcn_kernels`` finds it; ``gcnbench`` is the
benchmark's own. Requests and answers are pickled tuples on stdin and stdout:

===========================================  ==================================================
``("start", threads)``                       version and file of the library
``("prepare", name, inputs, mode, options)``  nothing; ``name`` stands for the call from now on
``("results", name)``                        the results of a call
``("time", name)``                           milliseconds of a call
===========================================  ==================================================

An answer is ``("ok", value)`` or ``("error", message)``. The end of stdin ends the process.
"""

import gc
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gcnbench.clock import CpuClock, wait_until_idle
from gcnbench.problems import Inputs
from gcnbench.variants import Call, first_line, mode_context, operator, torch_call


class Worker:
    """Answers requests."""

    def __init__(self) -> None:
        self._calls: dict[str, tuple[Call, str]] = {}
        self._clock = CpuClock()

    def start(self, threads: int) -> tuple[str, str]:
        """Load the library."""
        import gcn_kernels

        torch.set_num_threads(threads)
        return gcn_kernels.__version__, gcn_kernels.__file__

    def prepare(self, name: str, inputs: Inputs, mode: str, options: tuple[str, str]) -> None:
        """Build a call. ``inputs`` are those of the benchmark; ``options`` are backend and algorithm."""
        self._calls.pop(name, None)
        gc.collect()
        with mode_context(mode):
            self._calls[name] = torch_call(operator(*options), inputs, mode), mode

    def results(self, name: str) -> tuple[Tensor, ...]:
        """Of one call."""
        call, mode = self._calls[name]
        with mode_context(mode):
            results = call()
        # Those of inference mode, and of a graph, cannot be sent.
        return tuple(t.detach().clone() for t in results)

    def time(self, name: str) -> float:
        """Time one call after one that wakes the threads up; then leave the cores to the other process."""
        call, mode = self._calls[name]
        with mode_context(mode):
            call()
            elapsed = self._clock.measure(call)
        wait_until_idle()
        return elapsed


def main() -> None:
    """Answer until nothing is asked any more."""
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    gc.disable()
    worker = Worker()
    while True:
        try:
            request, *arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: tuple[str, Any]
        try:
            do: Callable[..., Any] = getattr(worker, request)
            answer = "ok", do(*arguments)
        except Exception as error:
            answer = "error", first_line(error)
        answers.write(pickle.dumps(answer))
        answers.flush()


if __name__ == "__main__":
    main()
