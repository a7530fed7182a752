"""One emulator module with many faults planted in it, one of which is chosen at run time.

The kernels of a header that a fault is planted in are compiled once more in a namespace of the fault's own, and of these only
the instances that its problem launches. When the fault is chosen, they run in the place of the sound ones (simt/planted.h).
All faults of a header share a few translation units, which is an order of magnitude faster than a module to each fault.
"""

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import emulator
from emulator import CACHE, SOURCES, Build
from faults import Fault, without_comments

#: What a fault in a header reaches: the headers that are compiled with it, in their order, and those whose kernels use it.
REACHES = {
    "gcn/first_stage_taps.cuh": ("gcn/first_stage_taps.cuh", "gcn/first_stage.cuh"),
    "gcn/line_conv_output.cuh": tuple(
        f"gcn/{name}.cuh" for name in ("line_conv_output", "line_conv", "second_stage_grad", "second_stage_unpacked")
    ),
    "gcn/line_conv.cuh": ("gcn/line_conv.cuh", "gcn/second_stage_grad.cuh", "gcn/second_stage_unpacked.cuh"),
    "gcn/prepare.cuh": ("gcn/prepare.cuh", "gcn/second_stage_unpacked.cuh"),
    "gcn/weight_grad.cuh": ("gcn/weight_grad.cuh", "gcn/second_stage_grad.cuh"),
    "pixel_runs.cuh": (
        "pixel_runs.cuh",
        *(f"refine/refine_{name}.cuh" for name in ("maps", "products", "tile")),
        *(f"upsample/upsample_{name}.cuh" for name in ("maps", "products", "multiply_add", "tile", "single")),
    ),
    "pixel_unit.cuh": (
        "pixel_unit.cuh",
        *(f"refine/refine_{name}.cuh" for name in ("products", "tile")),
        *(f"upsample/upsample_{name}.cuh" for name in ("products", "tile")),
    ),
    "block_sum.cuh": ("block_sum.cuh", "gcn/direct.cuh", "gcn/finish.cuh"),
    "strips/strips_geometry.cuh": ("strips/strips_geometry.cuh", "strips/strips_unit.cuh", "strips/strips_tile.cuh"),
    "strips/strips_lines.cuh": ("strips/strips_lines.cuh", "strips/strips_tile.cuh"),
    "strips/strips_unit.cuh": ("strips/strips_unit.cuh", "strips/strips_tile.cuh", "strips/strips_banded.cuh"),
    "strips/strips_bands.cuh": ("strips/strips_bands.cuh", "strips/strips_banded.cuh"),
    "refine/refine_maps.cuh": tuple(f"refine/refine_{name}.cuh" for name in ("maps", "products", "finish", "tile")),
    "refine/refine_products.cuh": tuple(f"refine/refine_{name}.cuh" for name in ("products", "finish", "tile")),
    "gcn/hopper/hopper_block.cuh": tuple(
        f"gcn/hopper/hopper_{name}.cuh" for name in ("block", "first_stage", "second_stage", "input_grad", "weight_grad")
    ),
    "upsample/upsample_maps.cuh": tuple(
        f"upsample/upsample_{name}.cuh" for name in ("maps", "products", "multiply_add", "tile", "single")
    ),
    "upsample/upsample_positions.cuh": tuple(f"upsample/upsample_{name}.cuh" for name in ("positions", "single", "direct")),
    "upsample/upsample_products.cuh": tuple(f"upsample/upsample_{name}.cuh" for name in ("products", "tile")),
    "upsample/upsample_multiply_add.cuh": tuple(f"upsample/upsample_{name}.cuh" for name in ("multiply_add", "tile")),
    "gcn/hopper/hopper_first_stage_end.cuh": ("gcn/hopper/hopper_first_stage_end.cuh", "gcn/hopper/hopper_first_stage.cuh"),
    "gcn/hopper/hopper_tiles.h": ("gcn/hopper/hopper_tiles.h", "gcn/hopper/hopper_first_stage.cuh"),
}
#: Faults of a translation unit: few enough that the units of a header keep all cores busy.
FAULTS_TOGETHER = 6

INCLUDE = re.compile(r'^#include "(.*)"\n', re.MULTILINE)
SYSTEM_INCLUDE = re.compile(r"^#include <.*>\n", re.MULTILINE)
KERNEL = re.compile(r"(\w+_kernel)\(GCN_PARAMS")
NAMESPACE = "namespace gcn::cuda {"


@dataclass(frozen=True)
class Planting:
    """A fault with its number, and the full names of the kernels that its problem launches. Without a fault, a sound copy."""

    number: int
    header: str
    fault: Fault | None
    launched: tuple[str, ...]


def library(base: Build, plantings: Sequence[Planting]) -> Path:
    """The module of ``base`` with all of these in it."""
    base.library()  # compiles the sound objects, all at a time
    return base.library(objects(base, plantings))


def objects(base: Build, plantings: Sequence[Planting]) -> list[Path]:
    """All of these, compiled as ``base`` is."""
    headers: dict[str, list[Planting]] = {}
    for planting in plantings:
        headers.setdefault(planting.header, []).append(planting)
    units = [
        translation_unit(header, together[i : i + FAULTS_TOGETHER])
        for header, together in headers.items()
        for i in range(0, len(together), FAULTS_TOGETHER)
    ]
    flags = (*base.flags, "-O1")  # they are compiled once and run once, on a small problem
    with ThreadPoolExecutor(emulator.JOBS) as pool:
        return list(pool.map(lambda unit: _compiled(unit, flags), units))


def _compiled(unit: str, flags: tuple[str, ...]) -> Path:
    folder = CACHE / "planted"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(unit.encode()).hexdigest()[:24]}.cpp"
    path.write_text(unit)
    try:
        return emulator.compiled(str(path), SOURCES, flags, ("-w",))  # a compiler may well warn of a fault
    finally:
        path.unlink()


def translation_unit(header: str, plantings: Sequence[Planting]) -> str:
    """C++: each planting's copy of the kernels in a namespace of its own, after what the headers include."""
    reached = REACHES.get(header, (header,))
    texts = {name: without_comments((SOURCES / name).read_text()) for name in reached}
    kernels = {kernel for text in texts.values() for kernel in KERNEL.findall(text)}
    parts = [*_includes(texts)]
    for planting in plantings:
        own = f"fault_{planting.number}"
        parts.append(f"\n// {planting.fault.why if planting.fault else 'no fault'}\n")
        for name, text in texts.items():
            if planting.fault is not None and name == planting.fault.file:
                text = planting.fault.planted(text)
            parts.append(_body(text).replace(NAMESPACE, f"namespace gcn::cuda::{own} {{"))
        chosen = [full for full in planting.launched if _template_name(full) in kernels]
        if not chosen:
            raise ValueError(f"{header}: the problem launches none of its kernels: {sorted(kernels)}")
        for i, full in enumerate(chosen):
            copy = full.removeprefix("void ").replace("gcn::cuda::", f"gcn::cuda::{own}::", 1)
            parts.append(
                f"static const simt::Plant planted_{planting.number}_{i}"
                f'({planting.number}, "{full}", reinterpret_cast<const void*>(&{copy}));\n'
            )
    return "".join(parts)


def _template_name(full: str) -> str:
    found = re.match(r"(?:void )?gcn::cuda::(\w+)", full)
    return found[1] if found else ""


def _includes(texts: dict[str, str]) -> list[str]:
    """What the headers include, but for themselves; paths from the folder of the sources."""
    system = {line for text in texts.values() for line in SYSTEM_INCLUDE.findall(text)}
    own = []
    for name, text in texts.items():
        for included in INCLUDE.findall(text):
            path = (SOURCES / name).parent / included
            relative = path.resolve().relative_to(SOURCES).as_posix() if path.exists() else included
            if relative not in texts and relative not in own:
                own.append(relative)
    return [*sorted(system), *(f'#include "{path}"\n' for path in own)]


def _body(text: str) -> str:
    return SYSTEM_INCLUDE.sub("", INCLUDE.sub("", text)).replace("#pragma once\n", "")
