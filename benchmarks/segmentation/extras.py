"""Libraries that only some uses need: looked for at the start of a script, imported when they are used."""

import importlib
import importlib.util
from collections.abc import Iterable
from typing import Any

#: Module -> the package to install, and what it is for.
EXTRAS = {
    "torchmetrics": ("torchmetrics", "evaluation"),
    "tensorboard": ("tensorboard", "the log for TensorBoard"),
    "tqdm": ("tqdm", "the progress bar"),
    "PIL": ("pillow", "reading and writing pictures"),
    "scipy": ("scipy", "the label files of SBD (.mat)"),
    "matplotlib": ("matplotlib", "pictures and plots"),
    "timm": ("timm", "encoders of timm"),
}


def check(modules: Iterable[str]) -> None:
    """Raise ImportError if any of these keys of :data:`EXTRAS` is not installed, with one command that installs them all."""
    missing = [EXTRAS[m] for m in modules if importlib.util.find_spec(m) is None]
    if missing:
        reasons = ", ".join(f"{package} ({purpose})" for package, purpose in missing)
        raise ImportError(f"not installed: {reasons}. Try: pip install {' '.join(package for package, _ in missing)}")


def require(module: str) -> Any:
    """Import ``module``, of a package in :data:`EXTRAS` or of PyTorch.

    Raises:
        ImportError: it is not installed; the message says which package to install, and for what.

    Example:
        >>> require("tqdm").tqdm([1, 2], disable=True).total
        2
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package, purpose = EXTRAS["tensorboard" if module == "torch.utils.tensorboard" else module.partition(".")[0]]
        raise ImportError(f"{purpose} needs {package}: pip install {package}") from error


def progress_bar(*arguments: Any, **options: Any) -> Any:
    """A bar of tqdm."""
    return require("tqdm").tqdm(*arguments, **options)
