"""Program: depthwise strips on the GPU. ``check`` compares them with float64, twice; ``time`` measures them beside PyTorch's.

The CUDA kernels have two ways to multiply in 16 bits and in tf32, on tensor cores and by multiply-adds; both are checked and
timed.

``check``: the tests' own problems and maps of the size of SegNeXt's, forward and all gradients, in both layouts, by the rule of
tests/rule.py: at most twice the error of PyTorch's own convolutions on the same GPU, in tf32, which PyTorch may use but need not,
of convolutions of rounded factors; and no bit may differ in a second run.

``time``: MSCA, StripBlock and a pair of strips, forward alone and with all gradients, beside the same by PyTorch's convolutions
in NCHW and in channels_last: variants interleaved, cold L2, replays of CUDA graphs. The floor is the time for the maps that
have to be read and written, at the rate of a copy measured in the same run; one row of JSON for each variant.
"""

import argparse
import importlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gcnbench import environment
from gcnbench.clock import Budget, Clock, CpuClock, CudaClock, round_robin, spread
from gcnbench.problems import LAYOUTS
from gcnbench.variants import Call, first_line
from torch import Tensor

from gcn_kernels import FusedStrips, backends
from gpureport.correctness import MATHS

#: Forms by name: the stem, kernel sizes of the branches, and whether there is a skip.
FORMS: dict[str, tuple[tuple[int, int] | None, list[list[tuple[int, int]]], bool]] = {
    "msca": ((5, 5), [[(1, k), (k, 1)] for k in (7, 11, 21)], True),
    "strip-block": (None, [[(5, 5), (1, 19), (19, 1)]], False),
    "pair": (None, [[(1, 11), (11, 1)]], False),
}
#: N, C, H, W: that of the plan's estimates, then the four stages of a small SegNeXt at batch 16.
MAPS = ((16, 512, 64, 64), (16, 64, 128, 128), (16, 128, 64, 64), (16, 320, 32, 32), (16, 512, 16, 16))
CHECKED = ("bfloat16", "tf32", "float32", "float16", "float64")
#: What a backend is asked for on tensor cores, by the names it has in the results: see GCN_KERNELS_PLAN in docs/gpu.md.
PLANS = {"cuda": {"cuda": "strips_banded=2", "cuda-multiply-adds": "strips_banded=1"}}


def plans_of(backend: str, math: str) -> dict[str, str]:
    """The variants of a backend in an arithmetic, each with what is asked of its plan.

    >>> plans_of("cuda", "bfloat16")
    {'cuda': 'strips_banded=2', 'cuda-multiply-adds': 'strips_banded=1'}
    >>> plans_of("cuda", "float32")
    {'cuda': ''}
    >>> plans_of("triton", "bfloat16")
    {'triton': ''}
    """
    return PLANS.get(backend, {backend: ""}) if math in ("bfloat16", "float16", "tf32") else {backend: ""}


@contextmanager
def asked(plan: str) -> Iterator[None]:
    """With ``plan`` asked of every call, beside what the user asks for."""
    name = "GCN_KERNELS_PLAN"
    given = os.environ.get(name)
    if plan:
        os.environ[name] = ",".join(filter(None, (given, plan)))
    try:
        yield
    finally:
        if given is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = given


@dataclass(frozen=True)
class Problem:
    """A form on a map."""

    form: str
    size: tuple[int, int, int, int]
    math: str

    @property
    def label(self) -> str:
        return f"{self.form} {'x'.join(map(str, self.size))} {self.math}"

    @property
    def dtype(self) -> torch.dtype:
        dtype, _ = MATHS[self.math]
        return dtype

    def bytes_moved(self, mode: str) -> int:
        """Of the maps that have to be read and written: x and y; in the backward pass dy, x and dx."""
        n, c, h, w = self.size
        return n * c * h * w * self.dtype.itemsize * (2 if mode == "fwd" else 5)

    def module(self, device: str, backend: str) -> FusedStrips:
        stem, branches, skip = FORMS[self.form]
        torch.manual_seed(0)
        return FusedStrips(self.size[1], branches, stem=stem, skip=skip, backend=backend, device=device, dtype=self.dtype)

    def calls(self, device: str, names: Sequence[str], mode: str) -> dict[str, Call]:
        """A call of every backend in both layouts."""
        found: dict[str, Call] = {}
        for backend in names:
            module = self.module(device, backend)
            parameters = list(module.parameters())
            for layout, form in LAYOUTS.items():
                x, dy = (torch.randn(self.size, device=device).to(self.dtype).contiguous(memory_format=form) for _ in range(2))
                call = _forward(module, x) if mode == "fwd" else _step(module, x, dy, parameters)
                for name, plan in plans_of(backend, self.math).items():
                    found[f"{name} {layout}"] = _planned(call, plan)
        return found


def _planned(call: Call, plan: str) -> Call:
    def planned() -> tuple[Tensor, ...]:
        with asked(plan):
            return call()

    return planned


def _forward(module: FusedStrips, x: Tensor) -> Call:
    def call() -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return (module(x),)

    return call


def _step(module: FusedStrips, x: Tensor, dy: Tensor, parameters: Sequence[Tensor]) -> Call:
    leaf = x.detach().requires_grad_()

    def call() -> tuple[Tensor, ...]:
        y = module(leaf)
        return (y, *torch.autograd.grad(y, [leaf, *parameters], dy))

    return call


def measure(problem: Problem, device: str, names: Sequence[str], clock: Clock, copy_rate: float, seconds: float) -> list[Any]:
    """Rows of one problem, forward and with gradients."""
    _, torch.backends.cudnn.allow_tf32 = MATHS[problem.math]
    rows: list[dict[str, object]] = []
    for mode in ("fwd", "fwdbwd"):
        calls = problem.calls(device, names, mode)
        for call in calls.values():
            call()
        armed, remarks = clock.arm(calls, mode)
        times = round_robin(armed, clock, Budget(seconds, 5), 0)
        floor = problem.bytes_moved(mode) / copy_rate * 1e3
        eager = min(spread(t)[0] for name, t in times.items() if name.startswith("torch"))
        for name, t in times.items():
            median, low, high = spread(t)
            row: dict[str, object] = {"problem": problem.label, "mode": mode, "variant": name, "ms": median}
            row |= {"ms_low": low, "ms_high": high, "floor_ms": floor, "times_floor": median / floor}
            rows.append(row | {"faster_than_best_eager": eager / median, "remark": remarks.get(name, "")})
    return rows


def check(device: str, names: Sequence[str], stop: float, write: Callable[[dict[str, object]], None]) -> int:
    """Compare with float64; the number of problems that are wrong."""
    cases: Any = importlib.import_module("strips_cases")
    rule: Any = importlib.import_module("rule")
    layouts: Any = importlib.import_module("cases").LAYOUTS
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    large = [replace(cases.MSCA, name=f"msca-{h}", n=2, c=24, h=h, w=w) for h, w in ((64, 64), (128, 128), (300, 200))]
    wrong = 0
    # All dtypes of a case before the next, and the largest maps last, so that a run that ends early has seen something of each.
    for case in (large[0], *cases.CASES, *large[1:]):
        for math in CHECKED:
            if time.monotonic() > stop:
                write({"status": "not reached", "math": math, "case": case.name})
                continue
            dtype, tf32 = MATHS[math]
            block = cases.make(case, dtype).to(device)
            torch.backends.cudnn.allow_tf32 = False
            expected = rule.expect(block, device, cases.InTf32(case) if tf32 else None)
            torch.backends.cudnn.allow_tf32 = tf32
            for backend in [b for b in names if backends.why_not(b, device, block.x.dtype) is None]:
                for name, layout in itertools.product(plans := plans_of(backend, math), layouts):
                    row: dict[str, object] = {"math": math, "case": case.name, "layout": layout, "backend": name}
                    with asked(plans[name]):
                        reason = _wrong_with(rule, cases.Run(case, backend), block.in_layout(layout), expected)
                    write(row | {"status": "failed" if reason else "passed", "reason": reason})
                    wrong += bool(reason)
    return wrong


def _wrong_with(rule: Any, run: Any, block: Any, expected: Any) -> str:
    try:
        found, again = rule.evaluate(run, block), rule.evaluate(run, block)
        rule.check(found, expected)
    except torch.AcceleratorError:
        raise
    except (AssertionError, RuntimeError) as error:
        return first_line(error)
    changed = [name for name, t in found.items() if not torch.equal(t, again[name])]
    return f"{', '.join(changed)}: other bits in a second run" if changed else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("check", "time"))
    parser.add_argument("--out", type=Path, required=True, help="file of the results, one JSON object per line")
    parser.add_argument("--seconds", type=float, required=True, help="no problem is started after these")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backends", nargs="+", default=["cuda"])
    parser.add_argument("--math", nargs="+", choices=CHECKED, default=["bfloat16", "tf32", "float32"], help="timed")
    parser.add_argument("--budget", type=float, default=0.4, help="seconds of timing per problem and mode")
    parser.add_argument("--small", action="store_true", help="the smallest map alone at batch 1")
    given = parser.parse_args()
    stop = time.monotonic() + given.seconds
    names = [b for b in given.backends if backends.why_not(b, given.device) is None]
    if not names:
        print(*(f"{b} cannot run: {backends.why_not(b, given.device)}" for b in given.backends), sep="\n")
        return 1
    with given.out.open("w") as file:

        def write(row: dict[str, object]) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()
            if row.get("status") not in (None, "passed"):
                print(row)

        if given.task == "check":
            return 1 if check(given.device, names, stop, write) else 0
        clock: Clock = CudaClock(torch.device(given.device), "on") if given.device == "cuda" else CpuClock()
        rates = environment.measure_rates(torch.device(given.device), [], clock, 0.3)
        copy_rate = rates.copy if given.device == "cuda" and rates.copy else 30e9
        write({"machine": environment.describe(torch.device(given.device)), "copy_rate": copy_rate})
        maps = ((1, 64, 16, 16),) if given.small else MAPS
        for problem in [Problem(f, m, d) for d in given.math for m in maps for f in FORMS]:
            if time.monotonic() > stop:
                print(f"not reached in time: {problem.label}")
                continue
            for row in measure(problem, given.device, [*names, "torch"], clock, copy_rate, given.budget):
                write(row)
                print(
                    f"{row['problem']:36} {row['mode']:7} {row['variant']:20} {row['ms']:8.4f} ms "
                    f"{row['times_floor']:6.2f} x floor {row['faster_than_best_eager']:6.2f} x eager"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
