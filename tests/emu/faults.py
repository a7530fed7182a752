"""Faults to plant in kernels: replacements in a copy of their source."""

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """``old`` stands exactly once in ``file`` and becomes ``new``; ``why`` says what is wrong then."""

    file: str
    old: str
    new: str
    why: str

    def plant(self, sources: Path, copy: Path) -> None:
        """Make ``copy`` a copy of ``sources`` with the fault in it."""
        shutil.copytree(sources, copy)
        path = copy / self.file
        text = path.read_text()
        found = text.count(self.old)
        if found != 1:
            raise ValueError(f"{self.why}: expected once in {self.file}, found {found} times: {self.old!r}")
        path.write_text(text.replace(self.old, self.new))
