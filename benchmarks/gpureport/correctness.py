"""Program: problems on the GPU, forward and all gradients, against float64, and run twice: no bit may differ.

The problems are the paper's four maps at batch 16 and 1; maps whose elements share memory; those of tests/cases.py, and, where
the environment variable GCN_KERNELS_GENERATION asks for the kernels of sm_90a, those of their own tests. The rule is that of
tests/rule.py: at most twice the error of PyTorch's own four convolutions, which are measured on the same GPU at the same
precision; in tf32, which PyTorch may use but need not, of convolutions of rounded factors. One line of JSON per problem. A
kernel that crashes leaves its process without a GPU, and one that waits for ever never gives it back, so the work is done by a
second process; where that dies or stands still, the problem is recorded and another goes on behind it.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gcnbench.problems import PRESETS
from gcnbench.variants import first_line

import gcn_kernels
from gcn_kernels import backends

#: Arithmetic by name, the most valuable first: dtype, and whether PyTorch may use tf32.
MATHS = {
    "bfloat16": (torch.bfloat16, False),
    "tf32": (torch.float32, True),
    "float16": (torch.float16, False),
    "float32": (torch.float32, False),
    "float64": (torch.float64, False),
}
MOST_CRASHES = 8
CRASHED = 3
#: A process that has had nothing to say for so many seconds is stopped.
STANDSTILL_SECONDS = 20.0


@dataclass(frozen=True)
class Trial:
    """A case of tests/cases.py in an arithmetic, and the layouts that have the same values."""

    math: str
    case: Any
    layouts: tuple[str, ...]


#: What is checked, the most valuable first: maps of the paper, maps whose elements share memory, the tests' own problems.
SETS = ("paper", "views", "tests")


def problems(maths: Sequence[str] = tuple(MATHS), sets: Sequence[str] = SETS) -> list[Trial]:
    """Every set with every arithmetic asked for."""
    cases: Any = importlib.import_module("cases")
    hopper: Any = importlib.import_module("hopper_problems")
    both = tuple(cases.LAYOUTS)
    trials: dict[str, Callable[[str], list[Trial]]] = {
        "paper": lambda math: [Trial(math, case, both) for case in _paper(cases.Case)],
        "views": lambda math: [Trial(math, case, (layout,)) for case, layout in _views(cases.Case)],
        "tests": lambda math: [Trial(math, case, both) for case in (*_hopper_cases(hopper), *cases.CASES)],
    }
    return [trial for name in sets for math in maths for trial in trials[name](math)]


def _paper(make_case: Any) -> list[Any]:
    sizes = [(batch, m) for batch in (16, 1) for m in PRESETS["paper"]]
    k = (15, 15, 15, 15)
    return [make_case(f"{m.name}-batch{n}", n, m.channels, m.height, m.width, m.mid, m.mid, m.out, k) for n, m in sizes]


def _views(make_case: Any) -> list[tuple[Any, str]]:
    """As many channels as the classes of problems have in which the kernels of sm_90a run unasked."""
    layouts: Any = importlib.import_module("wild_layouts")
    k = (15, 15, 15, 15)
    two, lone = make_case("views", 2, 256, 32, 24, 21, 21, 21, k), make_case("lone-row", 1, 256, 1, 200, 21, 21, 21, k)
    return [(lone if layout == "lone" else two, layout) for layout in layouts.LAYOUTS]


def _hopper_cases(module: Any) -> tuple[Any, ...]:
    return tuple(module.CASES) if os.environ.get("GCN_KERNELS_GENERATION") == "hopper" else ()


def _laid_out(block: Any, layout: str) -> Any:
    """The block's maps in a layout; where elements share memory, with other values."""
    if layout in importlib.import_module("cases").LAYOUTS:
        return block.in_layout(layout)
    strides_of = importlib.import_module("wild_layouts").strides_of

    def view(t: torch.Tensor) -> torch.Tensor:
        strides, size = strides_of(layout, t.shape)
        return t.flatten()[torch.arange(size, device=t.device) % t.numel()].as_strided(t.shape, strides)

    return replace(block, x=view(block.x), dy=view(block.dy))


def rows_of(trial: Trial, device: str, names: list[str]) -> Iterator[dict[str, object]]:
    """Run one problem in its layouts on every backend, twice.

    Yields:
        The error and the allowed error of the worst result, or what went wrong.
    """
    cases: Any = importlib.import_module("cases")
    rule: Any = importlib.import_module("rule")
    dtype, tf32 = MATHS[trial.math]
    # Convolutions and matrix products alike, by the switch that sets all of PyTorch's finer ones.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    block = _laid_out(cases.make(trial.case, dtype).to(device), trial.layouts[0])
    own = importlib.import_module("problems").tf32_gcn if tf32 else gcn_kernels.reference.gcn
    expected = rule.expect(block, device, own)
    for backend in names:
        for layout in trial.layouts:
            row: dict[str, object] = {"math": trial.math, "case": trial.case.name, "layout": layout, "backend": backend}
            if (reason := backends.why_not(backend, device)) is not None:
                yield row | {"status": "skipped", "reason": reason}
                continue
            try:
                run, given = _operator(backend), _laid_out(block, layout) if len(trial.layouts) > 1 else block
                results, again = rule.evaluate(run, given), rule.evaluate(run, given)
                found = {name: rule.error(t, expected.values[name]) for name, t in results.items()}
            except torch.AcceleratorError:
                raise
            except Exception as error:
                if device == "cuda":
                    torch.cuda.synchronize()  # raises where the error has left no working GPU behind
                yield row | {"status": "failed", "reason": first_line(error)}
                continue
            shares = {name: _share(error, expected.allowed[name]) for name, error in found.items()}
            worst = max(shares, key=lambda name: shares[name])
            broken = [_describe(name, results[name], expected) for name, share in shares.items() if share > 1]
            changed = [name for name, t in results.items() if not torch.equal(t, again[name])]
            broken += [f"{', '.join(changed)}: other bits in a second run"] if changed else []
            yield row | {
                "status": "failed" if broken else "passed",
                "worst": worst,
                "error": found[worst],
                "allowed": expected.allowed[worst],
                "share_of_allowed": shares[worst],
                "reason": "; ".join(broken),
            }


def _describe(name: str, result: torch.Tensor, expected: Any) -> str:
    """How wrong a result is, and where: its own error, how many elements are off, and the first and last of them."""
    allowed = expected.allowed[name]
    off = (~((result.double() - expected.values[name].to(result.device)).abs() <= allowed)).nonzero()
    where = f"from {off[0].tolist()} to {off[-1].tolist()}, columns {off.amin(0).tolist()} to {off.amax(0).tolist()}"
    error = (result.double() - expected.values[name].to(result.device)).abs().max().item()
    return f"{name}: error {error:.3e}, allowed {allowed:.3e}, {len(off)} of {result.numel()} elements off, {where}"


def _operator(backend: str) -> Any:
    return lambda *arguments: gcn_kernels.fused_gcn(*arguments, backend=backend)


def _share(error: float, allowed: float) -> float:
    if error <= allowed:
        return error / allowed if allowed else 0.0
    return error / allowed if allowed and error == error else float("inf")


def work(out: Path, first: int, deadline: float, device: str, names: list[str], trials: Sequence[Trial]) -> int:
    """Do the problems from number ``first`` on, adding lines to ``out``."""
    with out.open("a") as file:

        def write(line: dict[str, object]) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        for number, trial in enumerate(trials[first:], first):
            about = {"number": number, "math": trial.math, "case": trial.case.name}
            if time.time() > deadline:
                write({"number": number, "status": "not reached"})
                return 0
            write(about | {"status": "started"})
            try:
                for row in rows_of(trial, device, names):
                    if device == "cuda":
                        torch.cuda.synchronize()
                    write({"number": number, **row})
            except torch.AcceleratorError as error:
                write(about | {"status": "crashed", "reason": first_line(error)})
                return CRASHED
    return 0


def _run_watched(command: list[str], out: Path) -> int | None:
    """The exit status of a program that writes to ``out``; None if it was stopped because it stood still."""
    process = subprocess.Popen(command)
    size, since = out.stat().st_size, time.monotonic()
    while (code := process.poll()) is None:
        time.sleep(0.1)
        if (now := out.stat().st_size) != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > STANDSTILL_SECONDS:
            process.kill()
            process.wait()
            return None
    return code


def read(path: Path) -> list[dict[str, Any]]:
    """The results in ``path``; a problem that was started and has none has crashed."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    rows = [line for line in lines if line["status"] not in ("started", "not reached")]
    answered = {row["number"] for row in rows}
    for line in lines:
        if line["status"] == "started" and line["number"] not in answered:
            rows.append({**line, "status": "crashed", "reason": "the process ended or was stopped"})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of the results, one JSON object per line")
    parser.add_argument("--seconds", type=float, required=True, help="no problem is started after these")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backends", nargs="+", default=["cuda"])
    parser.add_argument("--math", nargs="+", choices=MATHS, default=list(MATHS), help="default: all")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="default: all")
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.first is not None:
        return work(given.out, given.first, given.deadline, given.device, given.backends, problems(given.math, given.sets))

    given.out.write_text("")
    deadline, first = time.time() + given.seconds, 0
    options = ["--out", given.out, "--seconds", given.seconds, "--device", given.device, "--deadline", deadline]
    options += ["--backends", *given.backends, "--math", *given.math, "--sets", *given.sets]
    for _ in range(MOST_CRASHES):
        command = [sys.executable, "-m", "gpureport.correctness", *options, "--first", first]
        if _run_watched([str(part) for part in command], given.out) == 0:
            break
        started = [json.loads(line)["number"] for line in given.out.read_text().splitlines()]
        if not started:
            return 1
        first = max(started) + 1
    rows = read(given.out)
    bad = [row for row in rows if row["status"] not in ("passed", "skipped")]
    for row in bad:
        print(f"{row['status']}: {row['math']} {row['case']} {row.get('layout', '')} {row.get('backend', '')}: {row['reason']}")
    print(f"{len(rows) - len(bad)} of {len(rows)} are within the rule or skipped")
    return 1 if bad or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
