"""A part of the report: its steps in the order of their value, within a time that it keeps to, resumed where it was stopped."""

import json
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gpureport.steps import Outcome, Step

#: Seconds of a part, and of them what is kept for loading PyTorch, and for writing and packing the results.
SECONDS = 200.0
PACKING_SECONDS = 10.0

Run = Callable[[Step, float], Outcome]


@dataclass
class Budget:
    """Seconds that a part may take from ``start`` on, by ``clock``."""

    seconds: float
    start: float
    clock: Callable[[], float] = time.monotonic

    def left(self) -> float:
        return self.seconds - PACKING_SECONDS - (self.clock() - self.start)


def run(steps: Sequence[Step], before: dict[str, Outcome], budget: Budget, do: Run, note: Callable[[Outcome], None]) -> None:
    """Do the steps that have not passed in an earlier run, the most valuable first.

    A step gets the time that is left, or its own limit if that is less; one that cannot have what it needs is dropped, and
    its outcome says so. A less valuable one that needs less may still follow.

    Args:
        steps: of the part, in order.
        before: outcomes of earlier runs by name; new ones take their places.
        budget: of this run.
        do: runs one step within the seconds given.
        note: told each new outcome.
    """
    for step in steps:
        found = before.get(step.name)
        if found is not None and found.status == "passed":
            continue
        outcome = do(step, budget.left())
        before[step.name] = outcome
        note(outcome)


def read(path: Path) -> tuple[dict[str, Outcome], str]:
    """The outcomes in a ``report.json``, and the state of the sources that they are about."""
    content: dict[str, Any] = json.loads(path.read_text())
    names = {field.name for field in fields(Outcome)}
    found = [Outcome(**{key: value for key, value in step.items() if key in names}) for step in content["steps"]]
    return {outcome.name: outcome for outcome in found}, str(content.get("sources", ""))


def pack(out: Path) -> Path:
    """Write the whole folder to ``<folder>.tar.gz`` beside it; the old archive stands until the new one is complete."""
    archive = out.with_name(f"{out.name}.tar.gz")
    partial = archive.with_suffix(".partial")
    with tarfile.open(partial, "w:gz", compresslevel=6) as tar:
        tar.add(out, out.name)
    partial.replace(archive)
    return archive
