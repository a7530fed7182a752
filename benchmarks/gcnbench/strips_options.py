"""The command line of the benchmark of depthwise strips."""

import argparse
from collections.abc import Sequence

from gcn_kernels.strips.functional import KERNELS
from gcnbench import models, strips
from gcnbench.baselines import default_baselines
from gcnbench.options import (
    DTYPES_BY_NAME,
    Options,
    add_baselines,
    add_run,
    add_sizes,
    budget,
    check_device_and_files,
    chosen_baselines,
    chw,
    unique,
    with_plan,
)
from gcnbench.problems import Map
from gcnbench.runner import Plan
from gcnbench.strips import Form, Place, StripsProblem, parse_form

#: The preset that is no blocks but the models that have them.
MODELS = "models"


def parser(description: str) -> argparse.ArgumentParser:
    """The argument parser."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--preset", choices=[*strips.PRESETS, MODELS], help="blocks of a published network (default: mscan-t)")
    p.add_argument("--form", type=_form, nargs="+", metavar="FORM", help="blocks instead of a preset, with --maps")
    p.add_argument("--maps", type=chw, nargs="+", metavar="CxHxW", help="maps of --form, e.g. 64x128x128")
    add_sizes(p)
    p.add_argument("--backend", choices=("auto", *KERNELS, "torch"), nargs="+", default=["auto"], help="of the operator")
    add_baselines(p, strips.BASELINES)
    add_run(p)
    return p


def parse(arguments: Sequence[str] | None, description: str) -> Options:
    """Read the command line; exits with status 2 and a message if there is anything wrong with it."""
    p = parser(description)
    given = p.parse_args(arguments)
    if given.preset is not None and (given.form or given.maps):
        p.error("--preset: stands for --form and --maps, got both")
    if (given.form is None) != (given.maps is None):
        p.error("--form and --maps: expected both or neither")
    device = check_device_and_files(p, given)
    modes, layouts = unique(given.mode), unique(given.layout)
    dtypes = [DTYPES_BY_NAME[name] for name in unique(given.dtype)]
    batches = unique(given.batch)
    if given.preset == MODELS:
        if given.backend != ["auto"]:
            p.error(f"--preset {MODELS}: converted models choose their kernels themselves, expected --backend auto")
        known = models.BASELINES
        compared = chosen_baselines(p, given.baselines, known, list(known), modes)
        variants = [*compared, *(models.variant(True, layout) for layout in layouts)]
        whole = [models.ModelProblem.of(name, n, dtype) for dtype in dtypes for n in batches for name in models.MODELS]
        return with_plan(given, Plan(whole, modes, variants, device, budget(given), given.seed, models.SUBJECT))

    default = [name for name in default_baselines(device, modes) if name in strips.BASELINES]
    variants = chosen_baselines(p, given.baselines, strips.BASELINES, default, modes)
    for backend in unique(given.backend):
        try:
            variants += [strips.fused(backend, layout, device) for layout in layouts]
        except RuntimeError as error:
            p.error(f"--backend {backend}: {error}")
    problems = [StripsProblem.of(place, n, dtype, device) for dtype in dtypes for n in batches for place in _places(p, given)]
    return with_plan(given, Plan(problems, modes, variants, device, budget(given), given.seed, strips.SUBJECT))


def _places(p: argparse.ArgumentParser, given: argparse.Namespace) -> list[Place]:
    if given.form is None:
        return list(strips.PRESETS[given.preset or "mscan-t"])[-2 if given.quick else 0 :]
    forms: list[Form] = unique(given.form)
    maps: list[Map] = unique(given.maps)
    if any(form.slices and m.channels < 8 for form in forms for m in maps):
        p.error("--form inception: has slices of an eighth of the channels, expected maps of at least 8")
    return [(form, m.channels, m.height, m.width) for form in forms for m in maps]


def _form(text: str) -> Form:
    try:
        return parse_form(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
