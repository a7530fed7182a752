"""Program: the doubling of a map on the GPU, checked against float64 or timed against PyTorch's transposed convolution.

``--check``: forward and all gradients by the rule of tests/upsample_cases.py, twice, in both layouts; no bit may differ. In tf32,
which PyTorch may use but need not, its own error is that of a convolution of rounded factors. One line of JSON per problem.

``--time``: forward, and forward and backward, of the paper's decoder and of a wide one at batch 16: every backend and eager
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
from gcnbench.clock import Budget, CudaClock, round_robin, spread
from gcnbench.problems import LAYOUTS
from gcnbench.variants import first_line
from torch import Tensor

from gcn_kernels import fused_upsample, reference
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


def check(sizes: Sizes, math: str, layout: str, backend: str, device: torch.device) -> dict[str, object]:
    """Run one problem twice; what became of it."""
    cases: Any = importlib.import_module("upsample_cases")
    dtype, tf32 = MATHS[math]
    torch.backends.cudnn.allow_tf32 = tf32
    about: dict[str, object] = {"sizes": sizes, "math": math, "layout": layout, "backend": backend}
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
    sizes: Sizes, math: str, backends: Sequence[str], clock: CudaClock, device: torch.device, seconds: float, copy_rate: float
) -> list[dict[str, object]]:
    """Milliseconds of every variant, forward and forward with backward."""
    dtype, torch.backends.cudnn.allow_tf32 = MATHS[math]
    n, c, o, h, w = sizes
    rows: list[dict[str, object]] = []
    for mode in ("fwd", "fwdbwd"):
        calls: dict[str, Callable[[], tuple[Tensor, ...]]] = {}
        for layout in LAYOUTS:
            *leaves, dy = tensors(sizes, dtype, device, layout)
            for name, run in (("eager", reference.upsample), *((f"fused {b}", operator(b)) for b in backends)):
                calls[f"{name} {layout}"] = _call(run, leaves, dy, backward=mode == "fwdbwd")
        for call in calls.values():
            call()
        armed, remarks = clock.arm(calls, mode)
        times = round_robin(armed, clock, Budget(seconds, 3), 0)
        bytes_moved = n * h * w * (c + 4 * o) * dtype.itemsize * (1 if mode == "fwd" else 3)
        floor = bytes_moved / copy_rate * 1e3
        for name, found in times.items():
            median, low, high = spread(found)
            place = {"sizes": sizes, "math": math, "mode": mode, "variant": name}
            rows.append({**place, "ms": median, "p20": low, "p80": high, "floor_ms": floor, "remark": remarks.get(name, "")})
            print(f"{'x'.join(map(str, sizes))} {math} {mode:<6} {name:<28} {median:8.4f} ms, floor {floor:.4f}", flush=True)
    return rows


def _call(run: Run, leaves: Sequence[Tensor], dy: Tensor, *, backward: bool) -> Callable[[], tuple[Tensor, ...]]:
    if not backward:

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (run(*leaves),)

        return forward
    recorded = [t.detach().requires_grad_() for t in leaves]
    return lambda: torch.autograd.grad(run(*recorded), recorded, dy)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true")
    what.add_argument("--time", action="store_true")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines of the results")
    parser.add_argument("--seconds", type=float, required=True, help="no problem is started after these")
    parser.add_argument("--backends", nargs="+", default=["triton"])
    parser.add_argument("--math", nargs="+", choices=MATHS, default=["bfloat16", "tf32", "float16", "float32"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="the smallest problems alone, as a trial of this program")
    given = parser.parse_args()
    stop, device = time.monotonic() + given.seconds, torch.device(given.device)
    rows: list[dict[str, object]] = []
    problems = [
        (s, math) for math in given.math for s in (CHECKED if given.check else TIMED) if not given.small or s[2] * s[3] < 200
    ]
    late = 0
    with given.out.open("w") as file:
        if given.time:
            clock = CudaClock(device, "on")
            copy_rate = environment.measure_rates(device, [], clock, 0.3).copy or float("inf")
        for sizes, math in problems:
            if time.monotonic() > stop:
                late += 1
                continue
            if given.check:
                found = [check(sizes, math, layout, backend, device) for backend in given.backends for layout in LAYOUTS]
            else:
                found = measure(sizes, math, given.backends, clock, device, 0.3, copy_rate)
            rows += found
            file.writelines(json.dumps(row) + "\n" for row in found)
            file.flush()
    bad = [row for row in rows if row.get("status") == "failed"]
    for row in bad:
        print(f"failed: {row}")
    print(f"{len(rows) - len(bad)} of {len(rows)} rows without a fault; {late} problems not reached in time")
    return 1 if bad or late or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
