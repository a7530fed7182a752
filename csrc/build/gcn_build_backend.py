"""Build backend: setuptools, building against the PyTorch that the user already has.

pip builds in an isolated environment, where naming torch as a requirement would download another, perhaps different, one
of several gigabytes. Here torch is looked up in the environment that pip installs into, and asked for as a build
requirement only when it is not there.
"""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401  hooks that need no torch
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

TORCH = "torch>=2.11"


def _installed_torch() -> str | None:
    """The site-packages folder of the torch that the installing interpreter sees, or None."""
    isolation = ("PYTHONPATH", "PYTHONNOUSERSITE")
    environment = {k: v for k, v in os.environ.items() if k not in isolation}
    code = "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s and s.origin else '')"
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    origin = found.stdout.strip()
    return str(Path(origin).parent.parent) if found.returncode == 0 and origin else None


def _requirements(from_setuptools: list[str]) -> list[str]:
    return from_setuptools if _installed_torch() else [*from_setuptools, TORCH]


def _make_torch_importable() -> None:
    # At the end of the path: what the isolated environment has itself comes first.
    if (site_packages := _installed_torch()) is not None:
        sys.path.append(site_packages)


def get_requires_for_build_wheel(config_settings=None):
    return _requirements(build_meta.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings=None):
    return _requirements(build_meta.get_requires_for_build_editable(config_settings))


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    _make_torch_importable()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    _make_torch_importable()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
