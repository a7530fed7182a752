"""An operator that is checked and timed on the GPU by a program of its own, beside the same by PyTorch.

``check``: forward and all gradients by the operator's rule in tests, twice, in both layouts; no bit may differ. In tf32, which
PyTorch may use but need not, its own error is that of a convolution of rounded factors. One line of JSON per problem.

``time``: forward, and forward and backward: every backend and eager PyTorch in both layouts, interleaved in one process, L2
cold, by replays of CUDA graphs. The floor is the maps that have to be read or written once, at the measured copy rate. This is
what says whether ``backend="auto"`` should choose the kernels.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gcnbench import environment
from gcnbench.clock import Budget, Clock, CpuClock, CudaClock, round_robin, spread
from gcnbench.problems import LAYOUTS
from gcnbench.variants import Call, first_line
from torch import Tensor

from gcn_kernels import backends
from gpureport.correctness import MATHS

Sizes = tuple[int, ...]
Run = Callable[..., Tensor]


def rounded(t: Tensor) -> Tensor:
    """To the nearest of ten stored bits, as tf32 has them, ties away from zero."""
    bits = (t.contiguous().view(torch.int32) + 0x1000) & -0x2000
    return torch.where(t.isfinite(), bits.view(torch.float32), t)


@dataclass(frozen=True)
class Subject:
    """What the program has to know of an operator.

    Attributes:
        run: the operator by a backend, as a function of its tensors.
        definition: the same by PyTorch.
        in_tf32: the same with every product's factors rounded to tf32, as PyTorch may.
        tensors: the operator's tensors, and dy, of some sizes, dtype, device and layout; the same values in every layout.
        timed_tensors: likewise, for timing.
        rule: gives ``evaluate(run, tensors, dy)`` and ``check(results, tensors, dy, theirs)`` of the tests, when it is needed.
        label: sizes, for people to read.
        moved: elements of the maps that are read or written once, forward, and forward and backward.
        checked, timed, small: sizes of the problems.
        backends: that are run unless others are asked for.
        maths: likewise.
    """

    run: Callable[[str], Run]
    definition: Run
    in_tf32: Run
    tensors: Callable[[Sizes, torch.dtype, torch.device, str], list[Tensor]]
    timed_tensors: Callable[[Sizes, torch.dtype, torch.device, str], list[Tensor]]
    rule: Callable[[], tuple[Callable[..., dict[str, Tensor]], Callable[..., None]]]
    label: Callable[[Sizes], str]
    moved: Callable[[Sizes], tuple[int, int]]
    checked: tuple[Sizes, ...]
    timed: tuple[Sizes, ...]
    small: tuple[Sizes, ...]
    backends: tuple[str, ...]
    maths: tuple[str, ...] = ("bfloat16", "tf32", "float16", "float32")

    def check(self, sizes: Sizes, math: str, layout: str, backend: str, device: torch.device) -> dict[str, object]:
        """Run one problem twice; what became of it."""
        evaluate, check = self.rule()
        dtype, tf32 = MATHS[math]
        torch.backends.cudnn.allow_tf32 = tf32
        about: dict[str, object] = {"case": self.label(sizes), "math": math, "layout": layout, "backend": backend}
        try:
            *given, dy = self.tensors(sizes, dtype, device, layout)
            found, again = (evaluate(self.run(backend), given, dy) for _ in range(2))
            torch.backends.cudnn.allow_tf32 = False
            check(found, given, dy, self.in_tf32 if tf32 else self.definition)
            changed = [name for name in found if not torch.equal(found[name], again[name])]
        except torch.AcceleratorError:
            raise
        except Exception as error:
            return about | {"status": "failed", "reason": first_line(error)}
        reason = f"{', '.join(changed)}: other bits in a second run" if changed else ""
        return about | {"status": "failed" if changed else "passed", "reason": reason}

    def measure(
        self, sizes: Sizes, math: str, names: Sequence[str], clock: Clock, device: torch.device, seconds: float, copy_rate: float
    ) -> list[dict[str, Any]]:
        """Milliseconds of every variant, forward and forward with backward."""
        dtype, torch.backends.cudnn.allow_tf32 = MATHS[math]
        rows: list[dict[str, Any]] = []
        for mode, moved in zip(("fwd", "fwdbwd"), self.moved(sizes), strict=True):
            calls: dict[str, Call] = {}
            for layout in LAYOUTS:
                *leaves, dy = self.timed_tensors(sizes, dtype, device, layout)
                for name in (*names, "torch"):
                    run = self.definition if name == "torch" else self.run(name)
                    calls[f"{name} {layout}"] = _call(run, leaves, dy, backward=mode == "fwdbwd")
            for call in calls.values():
                call()
            armed, remarks = clock.arm(calls, mode)
            times = round_robin(armed, clock, Budget(seconds, 3), 0)
            floor = moved * dtype.itemsize / copy_rate * 1e3
            eager = min(spread(found)[0] for name, found in times.items() if name.startswith("torch"))
            for name, found in times.items():
                median, low, high = spread(found)
                row: dict[str, Any] = {"problem": f"{self.label(sizes)} {math}", "mode": mode, "variant": name, "ms": median}
                row |= {"ms_low": low, "ms_high": high, "floor_ms": floor, "times_floor": median / floor}
                rows.append(row | {"faster_than_best_eager": eager / median, "remark": remarks.get(name, "")})
        return rows

    def main(self, about: str | None) -> int:
        """The program. ``about``: what it is for."""
        parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("task", choices=("check", "time"))
        parser.add_argument("--out", type=Path, required=True, help="file of the results, one JSON object per line")
        parser.add_argument("--seconds", type=float, required=True, help="no problem is started after these")
        parser.add_argument("--device", default="cuda")
        parser.add_argument("--backends", nargs="+", default=self.backends)
        parser.add_argument("--math", nargs="+", choices=MATHS, default=self.maths)
        parser.add_argument("--budget", type=float, default=0.3, help="seconds of timing per problem and mode")
        parser.add_argument("--small", action="store_true", help="small problems alone")
        given = parser.parse_args()
        stop, device = time.monotonic() + given.seconds, torch.device(given.device)
        names = [b for b in given.backends if backends.why_not(b, device) is None]
        if not names:
            print(*(f"{b} cannot run: {backends.why_not(b, device)}" for b in given.backends), sep="\n")
            return 1
        clock: Clock = CudaClock(device, "on") if device.type == "cuda" else CpuClock()
        copy_rate = 30e9
        if given.task == "time" and device.type == "cuda":
            copy_rate = environment.measure_rates(device, [], clock, 0.3).copy or copy_rate
        sizes = self.small if given.small else self.checked if given.task == "check" else self.timed
        rows: list[dict[str, Any]] = []
        late = 0
        with given.out.open("w") as file:
            for problem, math in [(s, math) for math in given.math for s in sizes]:
                if time.monotonic() > stop:
                    late += 1
                    continue
                if given.task == "check":
                    found = [self.check(problem, math, layout, backend, device) for backend in names for layout in LAYOUTS]
                else:
                    found = self.measure(problem, math, names, clock, device, given.budget, copy_rate)
                rows += found
                for row in found:
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                    if row.get("status") == "failed":
                        print(row)
                    elif given.task == "time":
                        print(
                            f"{row['problem']:36} {row['mode']:7} {row['variant']:20} {row['ms']:8.4f} ms "
                            f"{row['times_floor']:6.2f} x floor {row['faster_than_best_eager']:6.2f} x eager"
                        )
        failed = sum(row.get("status") == "failed" for row in rows)
        print(f"{len(rows) - failed} of {len(rows)} rows without a fault; {late} problems not reached in time")
        return 1 if failed or late or not rows else 0


def _call(run: Run, leaves: Sequence[Tensor], dy: Tensor, *, backward: bool) -> Call:
    if not backward:

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (run(*leaves),)

        return forward
    recorded = [t.detach().requires_grad_() for t in leaves]
    return lambda: torch.autograd.grad(run(*recorded), recorded, dy)
