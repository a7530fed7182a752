"""One step of the report: a program of its own, with a time limit and a log, whose failure stops nothing else."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Longest log that is kept; the middle of a longer one is left out.
LOG_BYTES = 40_000
#: A step that cannot have this many seconds is not started.
LEAST_SECONDS = 3.0


@dataclass(frozen=True)
class Step:
    """What is run.

    Attributes:
        name: of the step and its log.
        what: it is for, in one line.
        command: the program and its arguments.
        seconds: its time limit.
        why_not: the reason not to run it, or None.
        least: seconds without which it is not worth starting.
        folder: where it runs; that of the logs by default, so that no source tree shadows the installed package.
    """

    name: str
    what: str
    command: Sequence[str]
    seconds: float
    why_not: str | None = None
    least: float = LEAST_SECONDS
    folder: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a step. ``status`` is passed, failed, timed out or skipped; ``reason`` says why it is not passed."""

    name: str
    what: str
    status: str
    reason: str
    seconds: float
    log: str


def run(step: Step, logs: Path, environment: Mapping[str, str], seconds_left: float) -> Outcome:
    """Run one step and write its log.

    Args:
        step: what to run.
        logs: folder of the logs.
        environment: added to that of this process.
        seconds_left: of the whole report; the step gets no more.
    """
    limit = min(step.seconds, seconds_left)
    reason = step.why_not
    if reason is None and limit < step.least:
        reason = f"dropped: it needs {step.least:.0f} s, and of the part's time {max(seconds_left, 0):.0f} s were left"
    if reason is not None:
        return Outcome(step.name, step.what, "skipped", reason, 0.0, "")
    log = logs / f"{step.name}.log"
    start = time.monotonic()
    with log.open("wb") as file:
        try:
            # A session of its own, so that everything the program has started ends with it.
            process = subprocess.Popen(
                step.command,
                cwd=step.folder or logs,
                env={**os.environ, **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(step.name, step.what, "failed", f"{step.command[0]} does not start: {error}", 0.0, "")
        try:
            code = process.wait(limit)
            status, reason = ("passed", "") if code == 0 else ("failed", f"exit status {code}")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status, reason = "timed out", f"stopped after {limit:.0f} s; what it had written by then counts"
    _shorten(log)
    return Outcome(step.name, step.what, status, reason, time.monotonic() - start, log.name)


def _shorten(log: Path) -> None:
    content = log.read_bytes()
    if len(content) > LOG_BYTES:
        half = LOG_BYTES // 2
        log.write_bytes(content[:half] + b"\n... (shortened) ...\n" + content[-half:])
