"""Load the compiled libraries without ever breaking ``import gcn_kernels``.

``_C`` holds the operator schemas and the CPU kernels; ``_cuda`` holds the CUDA kernels and is loaded only where this
PyTorch has CUDA, because a library linked to CUDA's part of PyTorch cannot load anywhere else. A library that is missing
or does not fit gives one warning, and the package falls back to plain PyTorch.
"""

import importlib.metadata
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

NAMESPACE = "gcn_kernels"
#: What the Python side calls, by name: filled by :func:`load`.
SCHEMAS: dict[str, str] = {}
#: Those of them that the library _cuda has kernels for.
WITH_CUDA: set[str] = set()


@dataclass
class Libraries:
    """What is loaded and from where, and for everything that is not, why."""

    folder: Path | None = None
    cpu_reason: str | None = None
    cuda_reason: str | None = None
    build: dict[str, object] = field(default_factory=dict)

    @property
    def architectures(self) -> tuple[str, ...]:
        """What ``_cuda`` is built for, as in TORCH_CUDA_ARCH_LIST."""
        listed = self.build.get("architectures", ())
        return tuple(str(name) for name in listed) if isinstance(listed, list) else ()


#: Filled by :func:`load`.
LIBRARIES = Libraries()


def load(schemas: Mapping[str, str], with_cuda: Iterable[str], version: str) -> None:
    """Load ``_C`` and, where it can work, ``_cuda``; warn once about a library that should be here and is not usable.

    Args:
        schemas: what the Python side calls, by name. A library built from other sources than these is refused, not called.
        with_cuda: names of those that ``_cuda`` has kernels for.
        version: of this package.
    """
    SCHEMAS.update(schemas)
    WITH_CUDA.update(with_cuda)
    libraries = LIBRARIES
    folder = libraries.folder = _folder_of_libraries(Path(__file__).parent.parent, version)
    description = folder / "_build.json"
    if description.is_file():
        libraries.build = json.loads(description.read_text())
    built_with = libraries.build.get("torch", "an unknown version")

    libraries.cpu_reason = _load_file(folder, "_C") or _schema_mismatch()
    if libraries.cpu_reason is not None:
        warnings.warn(
            f"gcn_kernels: the compiled library cannot be used ({libraries.cpu_reason}); it was built with torch {built_with}, "
            f"this is torch {torch.__version__}. Falling back to plain PyTorch convolutions. "
            "Reinstall the package (pip install .) to get the kernels back.",
            RuntimeWarning,
            stacklevel=3,
        )
        libraries.cuda_reason = "the library _C, which declares the operators, is not loaded"
    elif torch.version.cuda is None:
        libraries.cuda_reason = f"torch {torch.__version__} is built without CUDA"
    else:
        libraries.cuda_reason = _why_not_built(libraries.build) or _load_file(folder, "_cuda")
        if libraries.cuda_reason is None and not _registered_for_cuda():
            libraries.cuda_reason = "the library _cuda was built from other sources: it does not register the operators"


def _folder_of_libraries(package: Path, version: str) -> Path:
    """The package's own folder; that of the installed package where this is a source tree in which nothing was compiled.

    After ``pip install .`` Python imports the source tree wherever the current folder is one.
    """
    if _files(package, "_C") or not (package.parent / "setup.py").is_file():
        return package
    for installed in importlib.metadata.distributions(name="gcn-kernels"):
        folder = Path(str(installed.locate_file("gcn_kernels")))
        if installed.version == version and _files(folder, "_C"):
            return folder
    return package


def _files(folder: Path, name: str) -> list[Path]:
    return sorted(path for suffix in (".so", ".pyd", ".dylib") for path in folder.glob(f"{name}*{suffix}"))


def _why_not_built(build: dict[str, object]) -> str | None:
    """What the build said about ``_cuda``, if it left it out."""
    reason = build.get("cuda_left_out")
    return None if reason is None else f"the library _cuda was not built: {reason}"


def _registered_for_cuda() -> bool:
    return all(torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", "CUDA") for name in WITH_CUDA)


def _load_file(folder: Path, name: str) -> str | None:
    """Load one library; return why it could not be, or None."""
    files = _files(folder, name)
    if not files:
        return f"the library {name} was not built"
    try:
        torch.ops.load_library(files[0])  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError, ImportError) as error:
        return f"{files[0].name} does not load: {error}"
    return None


def _schema_mismatch() -> str | None:
    for name, expected in SCHEMAS.items():
        packet = getattr(torch.ops.gcn_kernels, name, None)
        found = "nothing" if packet is None else str(packet.default._schema)
        if found != expected:
            return f"it was built from other sources: its operator {name} has another signature"
    return None
