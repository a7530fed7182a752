"""Faults to plant in kernels: replacements in a copy of their source."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMENT = re.compile(r"//[^\n]*")


@dataclass(frozen=True)
class Fault:
    """``old`` stands exactly once in the code of ``file`` and becomes ``new``; ``why`` says what is wrong then."""

    file: str
    old: str
    new: str
    why: str

    def planted(self, text: str) -> str:
        """``text`` with the fault in it. A comment may say what it likes: it is no part of the code."""
        code = without_comments(text)
        found = code.count(self.old)
        if found != 1:
            raise ValueError(f"{self.why}: expected once in {self.file}, found {found} times: {self.old!r}")
        return code.replace(self.old, self.new)

    def plant(self, sources: Path, copy: Path) -> None:
        """Make ``copy`` a copy of ``sources`` with the fault in it."""
        shutil.copytree(sources, copy)
        path = copy / self.file
        path.write_text(self.planted(path.read_text()))


@dataclass(frozen=True)
class Mutation:
    """A fault, and the case that has to show it."""

    name: str
    fault: Fault
    caught_by: Any


def mutations_of(file: str, *mutations: tuple[str, str, str, str, Any]) -> list[Mutation]:
    """Mutations of one file, as (name, old, new, why, caught by)."""
    operator, _, name_of_file = file.rpartition("/")
    prefix = name_of_file.removeprefix(f"{operator}_").removesuffix(".cuh").replace("_", "-")
    return [Mutation(f"{prefix}-{name}", Fault(file, old, new, why), case) for name, old, new, why, case in mutations]


def without_comments(text: str) -> str:
    """The code of a file, in its lines; a line that was a comment alone is gone."""
    lines = []
    for line in text.splitlines():
        code = COMMENT.sub("", line).rstrip()
        if code or not line:
            lines.append(code)
    return "\n".join(lines) + "\n"
