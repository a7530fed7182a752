"""Another commit of this checkout as a row of the table: built once, timed in a process of its own, in turns with the others.

Two versions of the library cannot live in one process, as both declare the operators of ``torch.ops.gcn_kernels``. So the other
one gets a process of its own (:mod:`gcnbench.worker`), which is idle unless it is asked for a call; while it computes, this one
is. Both have as many threads, the same inputs, and the same calls around the operator.
"""

import os
import pickle
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gcnbench.clock import wait_until_idle
from gcnbench.problems import Inputs
from gcnbench.variants import Call, TimedElsewhere, UnavailableError, Variant, base_name

#: Where this package is, and the checkout that it belongs to.
BENCHMARKS = Path(__file__).resolve().parents[1]
CHECKOUT = BENCHMARKS.parent
#: So many lines of a failed build are shown.
LAST_LINES = 15


class BaseError(Exception):
    """Another commit that cannot be compared with; the message says why, and what to do."""


@dataclass(frozen=True)
class Base:
    """Another commit.

    Attributes:
        commit: all 40 digits.
        ref: what it was called on the command line.
        cache: folder of the libraries that were built.
    """

    commit: str
    ref: str
    cache: Path

    @property
    def folder(self) -> Path:
        """Where its library is, or will be: one for each commit, PyTorch and Python."""
        version = f"torch{torch.__version__}-{sys.implementation.cache_tag}-{platform.machine()}"
        return self.cache / f"{self.commit[:12]}-{version}"


def default_cache() -> Path:
    """``~/.cache/gcn_kernels/base``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gcn_kernels" / "base"


def find(ref: str, cache: Path | None = None) -> Base:
    """The commit that ``ref`` names.

    Raises:
        BaseError: no git checkout, no such commit, or a cache inside of the checkout.
    """
    cache = (cache or default_cache()).expanduser().absolute()
    if cache.resolve().is_relative_to(CHECKOUT.resolve()):
        raise BaseError(f"--base-cache {cache}: expected a folder outside of the checkout {CHECKOUT}")
    if shutil.which("git") is None:
        raise BaseError("--base: needs the program git, which is not on the PATH")
    top = _git("rev-parse", "--show-toplevel")
    if top.returncode or Path(top.stdout.strip()).resolve() != CHECKOUT.resolve():
        raise BaseError(f"--base {ref}: {CHECKOUT} is not a git checkout: clone the repository, a copy has no other commits")
    # A name that begins with a dash would be an option.
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if found.returncode:
        raise BaseError(f"--base {ref}: expected a commit, branch or tag of {CHECKOUT}; git knows none of this name")
    return Base(found.stdout.split()[-1], ref, cache)


def build(base: Base, say: Callable[[str], None]) -> Path:
    """The folder with the library of ``base``, which is built unless it is there.

    Raises:
        BaseError: the build failed, with its last lines.
    """
    if base.folder.is_dir():
        say(f"base {base.commit[:7]}: built before, in {base.folder}")
        return base.folder
    say(f"base {base.commit[:7]}: building it in {base.folder}; this takes minutes, once for this commit and PyTorch")
    try:
        base.cache.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that a build that is broken off leaves nothing that looks finished.
        with tempfile.TemporaryDirectory(prefix="building-", dir=base.cache) as temporary:
            source, built = Path(temporary) / "source", Path(temporary) / "built"
            archive = Path(temporary) / "source.zip"
            _run(["git", "-C", str(CHECKOUT), "archive", "--format=zip", f"--output={archive}", base.commit], base)
            shutil.unpack_archive(archive, source)
            command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
            _run([*command, "--target", str(built), str(source)], base, GCN_KERNELS_NO_CUDA="1")
            built.rename(base.folder)
    except OSError as error:
        raise BaseError(f"--base {base.ref}: {error}") from error
    return base.folder


def _run(command: list[str], base: Base, **environment: str) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
    )
    if done.returncode:
        last = "\n".join(f"  {line}" for line in done.stdout.splitlines()[-LAST_LINES:])
        raise BaseError(f"--base {base.ref}: {' '.join(command)} ended with status {done.returncode}; its last lines:\n{last}")


def _git(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True)


class Process:
    """The process with another commit's library, as a context: it ends with it.

    Args:
        folder: where the package ``gcn_kernels`` is.

    Raises:
        BaseError: the library does not load there; later, when the process has ended by itself.
    """

    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join(filter(None, (str(BENCHMARKS), os.environ.get("PYTHONPATH"))))
        # What an interpreter is told with -m finds modules in its working folder first.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gcnbench.worker"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C is for this process, which ends the other.
            start_new_session=True,
        )
        try:
            self.version, file = self.ask("start", torch.get_num_threads())
        except UnavailableError as error:
            self.end()
            raise BaseError(f"the library in {folder} does not load: {error}") from error
        if not Path(file).resolve().is_relative_to(folder.resolve()):
            self.end()
            raise BaseError(f"expected the library in {folder}, got {file}")

    def ask(self, *request: Any) -> Any:
        """The answer to a request (see :mod:`gcnbench.worker`).

        Raises:
            UnavailableError: the request failed there.
            BaseError: the process has ended.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(pickle.dumps(request))
            stdin.flush()
            status, value = pickle.load(stdout)
        except (BrokenPipeError, EOFError) as error:
            raise BaseError(f"the process of the base has ended with status {self._process.wait()}") from error
        if status != "ok":
            raise UnavailableError(value)
        return value

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *raised: object) -> None:
        self.end()


class _BaseCall(TimedElsewhere):
    def __init__(self, process: Process, name: str) -> None:
        self._process, self._name = process, name

    def __call__(self) -> tuple[Tensor, ...]:
        results: tuple[Tensor, ...] = self._process.ask("results", self._name)
        return results

    def milliseconds(self) -> float:
        wait_until_idle()
        elapsed: float = self._process.ask("time", self._name)
        return elapsed


def variant(commit: str, backend: str, algo: str, layout: str, process: Process) -> Variant:
    """The fused operator of another commit. Like any baseline, it is only checked to be the same function."""
    name = base_name(commit, backend, algo, layout)

    def prepare(inputs: Inputs, mode: str) -> Call:
        process.ask("prepare", name, inputs, mode, (backend, algo))
        return _BaseCall(process, name)

    return Variant(name, False, layout, prepare, own_process=True)
