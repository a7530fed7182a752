"""What an operator behind its own host file says of the faults planted in its kernels, and of copies without one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import planting
import pytest
from emulator import Build
from isolated import call
from planting import Planting


def said_of(
    request: pytest.FixtureRequest, canaries: Mapping[str, Any], module: str, build: Build, library: Callable[..., Path]
) -> dict[str, str]:
    """What was said about the faults of all tests that are run, and, by their headers' names, of copies without a fault.

    Args:
        request: of a fixture; its tests have a parameter ``mutation`` or ``header``.
        canaries: a fault of each header, whose problem a sound copy of it runs.
        module: of this folder, with the functions ``launched`` and ``outcomes``.
        build: the emulated kernels.
        library: the operator over them, with the objects it is given.
    """
    chosen = [item.callspec.params for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    asked = [(p["mutation"].name, p["mutation"], p["mutation"].fault) for p in chosen if "mutation" in p]
    asked += [(p["header"], canaries[p["header"]], None) for p in chosen if "header" in p]
    names = call(f"{module}:launched", str(library()), [m.name for _, m, _ in asked])
    plantings = [
        Planting(n, m.fault.file, fault, kernels)
        for n, ((_, m, fault), kernels) in enumerate(zip(asked, names, strict=True), start=1)
    ]
    planted = library(planting.objects(build, plantings))
    numbered = [(n, m.name) for n, (_, m, _) in enumerate(asked, start=1)]
    answers = call(f"{module}:outcomes", str(planted), numbered)
    return {name: answer for (name, _, _), answer in zip(asked, answers, strict=True)}
