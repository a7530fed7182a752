"""Program: the doubling of a map on the GPU. ``check`` compares it with float64, twice; ``time`` measures it beside PyTorch's.

``check``: forward and all gradients by the rule of tests/upsample_cases.py, twice, in both layouts; no bit may differ. In tf32,
which PyTorch may use but need not, its own error is that of a convolution of rounded factors. One line of JSON per problem.

``time``: forward, and forward and backward, of the paper's decoder and of a wide one at batch 16: every backend and eager
PyTorch in both layouts, interleaved in one process, L2 cold, by replays of CUDA graphs. The floor is x, y and their gradients
read or written once (three times the forward pass) at the measured copy rate. This is what says whether ``backend="auto"``
should choose the kernels.
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from gcnbench import environment
from gcnbench.clock import Budget, Clock, CpuClock, CudaClock, round_robin, spread
from gcnbench.problems import LAYOUTS
from gcnbench.variants import Call, first_line
from torch import Tensor

from gcn_kernels import backends, fused_upsample, reference
from gpureport.correctness import MATHS

#: n, c, o, h, w.
Sizes = tuple[int, int, int, int, int]
CHECKED: tuple[Sizes, ...] = (
    *((16, 21, 21, size, size) for size in (64, 256)),
    *((1, 21, 21, 128, 128), (2, 19, 19, 33, 65), (2, 256, 128, 16, 16), (4, 64, 64, 32, 32), (3, 1, 1, 5, 7), (2, 3, 40, 1, 1)),
)
TIMED: tuple[Sizes, ...] = (
    *((16, 21, 21, size, size) for size in (64, 128, 256)),
    *((1, 21, 21, 256, 256), (16, 256, 128, 64, 64)),
)
SMALL: tuple[Sizes, ...] = ((3, 1, 1, 5, 7), (2, 3, 40, 1, 1))
Run = Callable[..., Tensor]


def _rounded(t: Tensor) -> Tensor:
    bits = (t.contiguous().view(torch.int32) + 0x1000) & -0x2000
    return torch.where(t.isfinite(), bits.view(torch.float32), t)


class _InTf32(torch.autograd.Function):
    """The transposed convolution with every product's factors rounded to tf32, computed in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(_rounded(x), _rounded(weight))
        return reference.upsample(_rounded(x), _rounded(weight), bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        x, weight = (t.detach().requires_grad_() for t in ctx.saved_tensors)
        with torch.enable_grad():
            y = reference.upsample(x, weight)
        return (*torch.autograd.grad(y, (x, weight), _rounded(dy)), dy.sum((0, 2, 3)))


def tensors(sizes: Sizes, dtype: torch.dtype, device: torch.device, layout: str) -> list[Tensor]:
    """x, weight, bias, dy; the same values in every layout."""
    n, c, o, h, w = sizes
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    x, weight, bias, dy = normal(n, c, h, w), normal(c, o, 4, 4) / (2 * c**0.5), normal(o), normal(n, o, 2 * h, 2 * w)
    return [x.contiguous(memory_format=LAYOUTS[layout]), weight, bias, dy.contiguous(memory_format=LAYOUTS[layout])]


def operator(backend: str) -> Run:
    return lambda *given: fused_upsample(*given, backend=backend)


def label(sizes: Sizes) -> str:
    return "{}x{}->{}x{}x{}".format(*sizes)


def check(sizes: Sizes, math: str, layout: str, backend: str, device: torch.device) -> dict[str, object]:
    """Run one problem twice; what became of it."""
    cases: Any = importlib.import_module("upsample_cases")
    dtype, tf32 = MATHS[math]
    torch.backends.cudnn.allow_tf32 = tf32
    about: dict[str, object] = {"case": label(sizes), "math": math, "layout": layout, "backend": backend}
    try:
        given = tensors(sizes, dtype, device, layout)
        found, again = (cases.evaluate(operator(backend), *given) for _ in range(2))
        torch.backends.cudnn.allow_tf32 = False
        cases.check(found, *given, pytorch=_InTf32.apply if tf32 else reference.upsample)
        changed = [name for name in found if not torch.equal(found[name], again[name])]
    except torch.AcceleratorError:
        raise
    except Exception as error:
        return about | {"status": "failed", "reason": first_line(error)}
    reason = f"{', '.join(changed)}: other bits in a second run" if changed else ""
    return about | {"status": "failed" if changed else "passed", "reason": reason}


def measure(
    sizes: Sizes, math: str, names: Sequence[str], clock: Clock, device: torch.device, seconds: float, copy_rate: float
) -> list[dict[str, Any]]:
    """Milliseconds of every variant, forward and forward with backward."""
    dtype, torch.backends.cudnn.allow_tf32 = MATHS[math]
    n, c, o, h, w = sizes
    rows: list[dict[str, Any]] = []
    for mode in ("fwd", "fwdbwd"):
        calls: dict[str, Call] = {}
        for layout in LAYOUTS:
            *leaves, dy = tensors(sizes, dtype, device, layout)
            for name in (*names, "torch"):
                run = reference.upsample if name == "torch" else operator(name)
                calls[f"{name} {layout}"] = _call(run, leaves, dy, backward=mode == "fwdbwd")
        for call in calls.values():
            call()
        armed, remarks = clock.arm(calls, mode)
        times = round_robin(armed, clock, Budget(seconds, 3), 0)
        floor = n * h * w * (c + 4 * o) * dtype.itemsize * (1 if mode == "fwd" else 3) / copy_rate * 1e3
        eager = min(spread(found)[0] for name, found in times.items() if name.startswith("torch"))
        for name, found in times.items():
            median, low, high = spread(found)
            row: dict[str, Any] = {"problem": f"{label(sizes)} {math}", "mode": mode, "variant": name, "ms": median}
            row |= {"ms_low": low, "ms_high": high, "floor_ms": floor, "times_floor": median / floor}
            rows.append(row | {"faster_than_best_eager": eager / median, "remark": remarks.get(name, "")})
    return rows


def _call(run: Run, leaves: Sequence[Tensor], dy: Tensor, *, backward: bool) -> Call:
    if not backward:

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (run(*leaves),)

        return forward
    recorded = [t.detach().requires_grad_() for t in leaves]
    return lambda: torch.autograd.grad(run(*recorded), recorded, dy)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("check", "time"))
    parser.add_argument("--out", type=Path, required=True, help="file of the results, one JSON object per line")
    parser.add_argument("--seconds", type=float, required=True, help="no problem is started after these")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backends", nargs="+", default=["triton"])
    parser.add_argument("--math", nargs="+", choices=MATHS, default=["bfloat16", "tf32", "float16", "float32"])
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
    sizes = SMALL if given.small else CHECKED if given.task == "check" else TIMED
    rows: list[dict[str, Any]] = []
    late = 0
    with given.out.open("w") as file:
        for problem, math in [(s, math) for math in given.math for s in sizes]:
            if time.monotonic() > stop:
                late += 1
                continue
            if given.task == "check":
                found = [check(problem, math, layout, backend, device) for backend in names for layout in LAYOUTS]
            else:
                found = measure(problem, math, names, clock, device, given.budget, copy_rate)
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


if __name__ == "__main__":
    sys.exit(main())
