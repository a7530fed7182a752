"""Tile sizes by architecture and arithmetic, and where an autotuned choice is kept.

The table is arithmetic, not measurement: it fits shared memory and registers (``tests/test_triton_compile.py`` compiles every
entry for every architecture) and follows the cost model in :mod:`gcn_kernels.triton.cost`. What a user's GPU measured with
:func:`gcn_kernels.triton.autotune` takes its place.
"""

import json
import os
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch

#: Names a file of autotuned choices; by default one in the user's cache directory.
ENVIRONMENT = "GCN_KERNELS_TRITON_CONFIG"


@dataclass(frozen=True)
class Tile:
    """The block sizes of one kernel.

    Attributes:
        rows: pixels (fork, join) or pairs of tap and middle channel (weight_gradient) of a program's result.
        columns: columns of its result, at most; problems with fewer get fewer.
        depth: of one step of its matrix product, at most.
        warps: of a program.
        stages: of the pipelined loop.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Config:
    """The tiles of the three kernels that do the work."""

    fork: Tile
    join: Tile
    weight_gradient: Tile


def arithmetic(dtype: torch.dtype, allow_tf32: bool, architecture: str) -> str:
    """How products are computed: ``"16"`` (fp16 and bf16), ``"tf32"`` (NVIDIA's alone) or ``"ieee"`` float32."""
    if dtype != torch.float32:
        return "16"
    return "tf32" if allow_tf32 and architecture.startswith("sm_") else "ieee"


_IEEE = Config(Tile(64, 64, 16, 8, 2), Tile(64, 32, 16, 4, 2), Tile(64, 64, 16, 8, 2))
#: By family of architectures and arithmetic. Families: 163 KB of shared memory (sm_80), 99 KB (sm_86, 89, 120), 227 KB
#: (sm_90, sm_100), and AMD, whose 64 KB hold two stages.
TABLE = {
    ("sm_80", "16"): Config(Tile(128, 64, 64, 8, 3), Tile(128, 128, 32, 8, 3), Tile(64, 128, 32, 4, 3)),
    ("sm_80", "tf32"): Config(Tile(64, 64, 32, 8, 3), Tile(128, 64, 32, 4, 3), Tile(64, 128, 32, 8, 3)),
    ("sm_86", "16"): Config(Tile(128, 64, 64, 8, 3), Tile(128, 128, 32, 8, 3), Tile(64, 128, 32, 4, 3)),
    ("sm_86", "tf32"): Config(Tile(64, 64, 32, 8, 2), Tile(128, 64, 32, 8, 2), Tile(64, 128, 32, 8, 2)),
    ("sm_90", "16"): Config(Tile(128, 64, 64, 8, 4), Tile(128, 128, 64, 8, 3), Tile(128, 128, 64, 8, 3)),
    ("sm_90", "tf32"): Config(Tile(128, 64, 32, 8, 4), Tile(128, 128, 32, 8, 3), Tile(64, 128, 32, 8, 3)),
    ("sm_100", "16"): Config(Tile(128, 64, 32, 8, 4), Tile(128, 128, 64, 8, 3), Tile(128, 128, 32, 8, 3)),
    ("sm_100", "tf32"): Config(Tile(128, 64, 32, 8, 4), Tile(128, 128, 32, 8, 3), Tile(128, 128, 32, 8, 3)),
    ("amd", "16"): Config(Tile(128, 64, 32, 4, 2), Tile(128, 64, 32, 4, 2), Tile(64, 128, 32, 4, 2)),
    ("sm_100", "ieee"): Config(Tile(32, 64, 16, 4, 2), _IEEE.join, _IEEE.weight_gradient),
    **{(family, "ieee"): _IEEE for family in ("sm_80", "sm_86", "sm_90", "amd")},
}


def family(architecture: str) -> str:
    """The family of an architecture as ``sm_90`` or ``gfx942``.

    Example:
        >>> family("sm_89"), family("sm_100"), family("sm_120")
        ('sm_86', 'sm_100', 'sm_86')
    """
    if not architecture.startswith("sm_"):
        return "amd"
    number = int(architecture.removeprefix("sm_"))
    if number in (80, 87):
        return "sm_80"
    if 90 <= number < 120:
        return "sm_90" if number < 100 else "sm_100"
    return "sm_86"


def wide_class(channels: int) -> str:
    """Channels of the wide map, in powers of two: problems of one class share an autotuned choice."""
    return f"C{1 << max(0, channels - 1).bit_length()}"


def key(architecture: str, kind: str, channels: int, taps: int) -> str:
    """The name of a stored choice, as ``sm_90/16/C256/k15``."""
    return f"{architecture}/{kind}/{wide_class(channels)}/k{taps}"


@lru_cache
def choose(architecture: str, kind: str, channels: int, taps: int) -> Config:
    """The tiles for a problem: the stored choice if there is one, else the table's."""
    stored = load().get(key(architecture, kind, channels, taps))
    return default(architecture, kind) if stored is None else stored


def default(architecture: str, kind: str) -> Config:
    """The table's tiles."""
    return TABLE[family(architecture), kind]


def path() -> Path:
    """Where autotuned choices are kept: ``GCN_KERNELS_TRITON_CONFIG`` or a file in the user's cache directory."""
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "gcn_kernels" / "triton.json"


def load() -> dict[str, Config]:
    """All stored choices.

    Raises:
        ValueError: the file is there and is not what :func:`store` writes.
    """
    file = path()
    if not file.is_file():
        return {}
    try:
        return {name: _config(entry) for name, entry in json.loads(file.read_text()).items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file}: expected choices written by gcn_kernels.triton.autotune, got {error!r}; remove it") from error


def store(name: str, config: Config) -> None:
    """Keep one choice beside those that are there."""
    file = path()
    entries = {**load(), name: config}
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_suffix(f".{os.getpid()}")
    written.write_text(json.dumps({n: asdict(c) for n, c in sorted(entries.items())}, indent=1) + "\n")
    written.replace(file)


def _config(entry: dict[str, dict[str, int]]) -> Config:
    return Config(**{kernel: Tile(**tile) for kernel, tile in entry.items()})
