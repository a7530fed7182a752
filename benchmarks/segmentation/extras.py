"""Libraries that only some uses need: imported when they are, with an error that names the package."""

import importlib
from typing import Any


def require(module: str, package: str, purpose: str) -> Any:
    """Import ``module``.

    Raises:
        ImportError: it is not installed; the message says which ``package`` to install and for what ``purpose``.

    Example:
        >>> require("math", "python", "arithmetic").pi > 3
        True
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {package}: pip install {package}") from error
