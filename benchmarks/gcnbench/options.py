"""The command line: what is asked for, and every mistake in it that can be found before anything runs."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from gcn_kernels import backends
from gcn_kernels.core.checks import DTYPES
from gcnbench import base as base_module
from gcnbench import plot
from gcnbench.baselines import BASELINES, default_baselines
from gcnbench.clock import Budget
from gcnbench.problems import LAYOUTS, MODES, PRESETS, Map, Problem, parse_map
from gcnbench.runner import Plan
from gcnbench.variants import Variant, fused

T = TypeVar("T")
DTYPES_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


@dataclass(frozen=True)
class Options:
    """A valid command line.

    Attributes:
        base: another commit to compare with; ``base_calls`` are its backends, algorithms and layouts.
    """

    plan: Plan
    base: base_module.Base | None
    base_calls: list[tuple[str, str, str]]
    threads: int | None
    graphs: str
    json: Path | None
    csv: Path | None
    plot: Path | None


def parser(description: str) -> argparse.ArgumentParser:
    """The argument parser."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--k", type=_odd, nargs="+", default=[15], metavar="K", help="kernel sizes, odd (default: 15)")
    p.add_argument("--preset", choices=PRESETS, help="maps of a published network (default: paper)")
    p.add_argument("--maps", type=chw, nargs="+", metavar="CxHxW", help="maps instead of a preset, e.g. 256x128x128")
    p.add_argument("--classes", type=positive, help="channels M and O (default: the preset's; 21 with --maps)")
    add_sizes(p)
    p.add_argument("--backend", choices=backends.BACKENDS, nargs="+", default=["auto"], help="backends of the fused operator")
    p.add_argument("--algo", choices=backends.ALGORITHMS, nargs="+", default=["auto"], help="algorithms of its kernels")
    add_baselines(p, BASELINES)
    p.add_argument("--base", metavar="REF", help="compare with another commit, which is built once (on a CPU; takes minutes)")
    p.add_argument(
        "--base-cache", type=Path, metavar="FOLDER", help=f"where such builds are kept (default: {base_module.default_cache()})"
    )
    add_run(p)
    return p


def add_sizes(p: argparse.ArgumentParser) -> None:
    """The options that every operator has for what is computed."""
    p.add_argument("--batch", type=positive, nargs="+", default=[1], metavar="N", help="batch sizes (default: 1)")
    p.add_argument("--dtype", choices=DTYPES_BY_NAME, nargs="+", default=["float32"], help="dtypes (default: float32)")
    p.add_argument("--layout", choices=LAYOUTS, nargs="+", default=list(LAYOUTS), help="input layouts of the fused operator")
    p.add_argument("--mode", choices=MODES, nargs="+", default=["fwd", "fwdbwd"], help="default: fwd fwdbwd")


def add_baselines(p: argparse.ArgumentParser, baselines: Iterable[str]) -> None:
    """The option that every operator has for what it is compared with."""
    p.add_argument(
        "--baselines",
        choices=[*baselines, "all", "none"],
        nargs="+",
        metavar="NAME",
        help=f"what to compare with: {', '.join(baselines)}, all, none (default: what is of use and installed)",
    )


def add_run(p: argparse.ArgumentParser) -> None:
    """The options that every operator has for how it is timed, and for what is written."""
    p.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    p.add_argument("--graphs", choices=("auto", "on", "off"), default="auto", help="CUDA graphs (auto: for short calls)")
    p.add_argument("--threads", type=positive, help="CPU threads (default: PyTorch's)")
    p.add_argument("--budget", type=seconds, default=4.0, metavar="S", help="seconds of timing per map and mode (default: 4)")
    p.add_argument("--quick", action="store_true", help="hardly any timing, and only the last two maps of a preset")
    p.add_argument("--seed", type=int, default=0, help="of the random inputs and the order of calls")
    p.add_argument("--json", type=Path, metavar="FILE", help="write everything, single times included")
    p.add_argument("--csv", type=Path, metavar="FILE", help="write the table")
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw times (against k where there are several)")
    p.add_argument("--force", action="store_true", help="overwrite existing files")


def parse(arguments: Sequence[str] | None, description: str) -> Options:
    """Read the command line; exits with status 2 and a message if there is anything wrong with it."""
    p = parser(description)
    given = p.parse_args(arguments)
    if given.maps is not None and given.preset is not None:
        p.error("--maps and --preset: expected one of them, got both")
    device = check_device_and_files(p, given)

    maps: list[Map] = given.maps or list(PRESETS[given.preset or "paper"])[-2 if given.quick else 0 :]
    if given.classes is not None:
        maps = [replace(m, mid=given.classes, out=given.classes) for m in maps]
    problems = [
        Problem(m, batch, k, DTYPES_BY_NAME[dtype])
        for dtype in unique(given.dtype)
        for batch in unique(given.batch)
        for k in unique(given.k)
        for m in unique(maps)
    ]
    modes = unique(given.mode)
    base = _base(p, given, device)
    commit = None if base is None else base.commit
    base_calls: list[tuple[str, str, str]] = []
    variants = chosen_baselines(p, given.baselines, BASELINES, default_baselines(device, modes), modes)
    for backend in unique(given.backend):
        for algo in unique(given.algo):
            try:
                variants += [fused(backend, algo, layout, device, commit) for layout in unique(given.layout)]
                base_calls += [(backend, algo, layout) for layout in unique(given.layout)]
            except (RuntimeError, ValueError) as error:
                p.error(f"--backend {backend} --algo {algo}: {error}")
    if "fft" in given.algo and "float64" in given.dtype:
        p.error("--algo fft --dtype float64: the frequency domain computes in float32; expected another dtype, or auto or direct")
    plan = Plan(problems, modes, variants, device, budget(given), given.seed)
    return replace(with_plan(given, plan), base=base, base_calls=base_calls)


def with_plan(given: argparse.Namespace, plan: Plan) -> Options:
    """``plan`` without what it has twice, and the options that are none of its business."""
    variants = list({variant.name: variant for variant in plan.variants}.values())
    plan = replace(plan, variants=variants)
    return Options(plan, None, [], given.threads, given.graphs, given.json, given.csv, given.plot)


def _base(p: argparse.ArgumentParser, given: argparse.Namespace, device: torch.device) -> base_module.Base | None:
    if given.base is None:
        if given.base_cache is not None:
            p.error("--base-cache: is of use with --base REF only")
        return None
    if device.type != "cpu":
        p.error(f"--base {given.base}: two commits are compared on a CPU only so far, got device {device}; --device cpu")
    try:
        return base_module.find(given.base, given.base_cache)
    except base_module.BaseError as error:
        p.error(str(error))


def budget(given: argparse.Namespace) -> Budget:
    """How long is measured."""
    return Budget(0.1, 1, 0.1) if given.quick else Budget(given.budget, 3)


def check_device_and_files(p: argparse.ArgumentParser, given: argparse.Namespace) -> torch.device:
    """The device, if it is there and nothing that would be written over is."""
    if given.device == "cuda" and not torch.cuda.is_available():
        p.error("--device cuda: no GPU that this PyTorch can use")
    check_files(p, given)
    return torch.device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def chosen_baselines(
    p: argparse.ArgumentParser,
    given: list[str] | None,
    known: Mapping[str, Variant],
    default: list[str],
    modes: list[str],
) -> list[Variant]:
    """What ``--baselines`` asks for of those that are known."""
    return [known[name] for name in _baseline_names(p, given, known, default, modes)]


def _baseline_names(
    p: argparse.ArgumentParser,
    given: list[str] | None,
    known: Mapping[str, Variant],
    default: list[str],
    modes: list[str],
) -> list[str]:
    if given is None:
        return default
    if len(given) > 1 and {"all", "none"} & set(given):
        p.error(f"--baselines: all and none stand alone, got {' '.join(given)}")
    if given == ["none"]:
        return []
    if given == ["all"]:
        return list(known)
    for name in given:
        if name not in known:
            p.error(f"--baselines {name}: expected one of {', '.join(known)}")
        if not set(known[name].modes) & set(modes):
            p.error(f"--baselines {name}: expected a --mode that it can do, {' '.join(known[name].modes)}, got {' '.join(modes)}")
    return unique(given)


def check_files(p: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """End with a message if a file that is to be written, of those that there are options for, could not be or is there."""
    files = {name: path for name in ("json", "csv", "plot") if (path := getattr(given, name, None)) is not None}
    for name, path in files.items():
        if not path.parent.is_dir():
            p.error(f"--{name} {path}: the folder {path.parent} does not exist")
        if path.exists() and not given.force:
            p.error(f"--{name} {path}: exists; --force overwrites it")
    if len({path.absolute() for path in files.values()}) < len(files):
        p.error(f"{', '.join(f'--{name}' for name in files)}: expected different files")
    if "plot" in files:
        if (reason := plot.missing()) is not None:
            p.error(f"--plot: {reason}")
        if given.plot.suffix not in plot.SUFFIXES:
            p.error(f"--plot {given.plot}: expected a name ending in one of {', '.join(plot.SUFFIXES)}")


def unique(values: Sequence[T]) -> list[T]:
    return list(dict.fromkeys(values))


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _odd(text: str) -> int:
    if not text.isdigit() or int(text) % 2 == 0:
        raise argparse.ArgumentTypeError(f"expected an odd kernel size, got {text!r}")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text!r}")
    return value


def chw(text: str) -> Map:
    try:
        return parse_map(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
