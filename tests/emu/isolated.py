"""Calls a function in a process of its own, under sanitizers if asked: a faulty kernel may crash, or never end."""

import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from emulator import COMPILER, HERE


class Died(RuntimeError):
    """The process ended without a result; the text says why."""


#: Seconds after which a process hangs, however busy the machine is: whoever plants faults bounds the processor's time of each.
LONGEST = 7200.0


def call(function: str, *arguments: object, sanitized: bool = False) -> Any:
    """Call ``module:function``, whose module lies in this folder, and return what it returns or raise what it raises."""
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder) / "request", Path(folder) / "answer"
        request.write_bytes(pickle.dumps((function, arguments)))
        command = [sys.executable, str(HERE / "isolated.py"), str(request), str(answer)]
        environment = os.environ | (_sanitizers() if sanitized else {})
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONGEST)
        except subprocess.TimeoutExpired:
            raise Died(f"did not end within {LONGEST:.0f} s") from None
        if not answer.exists():
            raise Died(_why(done.returncode, done.stderr))
        result, error = pickle.loads(answer.read_bytes())
    if error is not None:
        raise RuntimeError(error)
    return result


def _sanitizers() -> dict[str, str]:
    """The runtime has to be there before Python starts, and the C++ library before the runtime looks for it."""

    def library(name: str) -> str:
        found = subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        return found.stdout.strip()

    return {
        "LD_PRELOAD": f"{library('libasan.so')}:{library('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def _why(status: int, stderr: str) -> str:
    findings = [line for line in stderr.splitlines() if "ERROR: AddressSanitizer" in line or "runtime error:" in line]
    if findings:
        return findings[0]
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return f"ended with status {status}: {stderr[-2000:]}"


def _main(request: str, answer: str) -> None:
    name, arguments = pickle.loads(Path(request).read_bytes())
    module, function = name.split(":")
    result, error = None, None
    try:
        result = getattr(importlib.import_module(module), function)(*arguments)
    except Exception as exception:
        error = f"{type(exception).__name__}: {exception}"
    Path(answer).write_bytes(pickle.dumps((result, error)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
