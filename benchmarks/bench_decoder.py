"""The layers of the paper's decoder beside its heads, as operators against plain PyTorch, eager and compiled, in both layouts.

    python benchmarks/bench_decoder.py                        # boundary refinement; 21 channels; 128, 256, 512 squared; batch 1
    python benchmarks/bench_decoder.py --sizes 512 --no-compile
    python benchmarks/bench_decoder.py --layer doubling4 doubling2 --sizes 64 128 256

``doublingK`` is a transposed convolution by K x K that doubles a map, of all channels or, ``doublingK-single``, of each alone.
Values and gradients are compared before anything is timed. All variants take turns within one run; times are medians in
milliseconds. The baseline is the fastest of the plain variants, whatever its layout. Memory is the peak of a training step beyond
its arguments (gcnbench/memory.py), for the baseline that trains fastest.
"""

import argparse
import functools
import platform
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from gcnbench.clock import Budget, CpuClock, round_robin
from gcnbench.memory import peak
from gcnbench.options import positive
from torch import Tensor

from gcn_kernels import fused_refine, fused_upsample, reference

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
BACKENDS = ("auto", "cpu")
Results = tuple[Tensor, ...]
Run = Callable[..., Tensor]
Job = Callable[[], Results]


class Layer(NamedTuple):
    """Two functions of a map and the same parameters."""

    fused: Run
    plain: Run
    parameters: list[Tensor]
    tolerance: Callable[[int], float]  # of the gradients, by the side of the map
    scale: int = 1  # a side of the result over one of the map


def refine(channels: int, backend: str) -> Layer:
    """Boundary refinement."""
    shape = (channels, channels, 3, 3)
    weights = [torch.randn(shape) / (9 * channels) ** 0.5 for _ in range(2)]
    parameters = [*weights, *(torch.randn(channels) for _ in range(2))]
    # Where an activation is within rounding of zero, its gradient may be there or not: one pixel among size^2 terms.
    return Layer(functools.partial(fused_refine, backend=backend), reference.refine, parameters, lambda size: 3 / size)


def doubling(kernel: int, single: bool, channels: int, backend: str) -> Layer:
    """A transposed convolution by kernel x kernel with stride 2."""
    groups = channels if single else 1
    parameters = [torch.randn(channels, channels // groups, kernel, kernel) / kernel, torch.randn(channels)]
    fused = functools.partial(fused_upsample, groups=groups, backend=backend)
    return Layer(fused, functools.partial(reference.upsample, groups=groups), parameters, lambda _: 1e-4, scale=2)


LAYERS: dict[str, Callable[[int, str], Layer]] = {"refine": refine}
LAYERS |= {f"doubling{k}": functools.partial(doubling, k, False) for k in (4, 3, 2)}
LAYERS |= {f"doubling{k}-single": functools.partial(doubling, k, True) for k in (4, 3, 2)}


def main(arguments: list[str] | None = None) -> None:
    """Print one row for each layer, size, layout and pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", choices=LAYERS, nargs="+", default=["refine"])
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="of the operator (default: auto)")
    parser.add_argument("--sizes", type=positive, nargs="+", default=[128, 256, 512])
    parser.add_argument("--channels", type=positive, default=21)
    parser.add_argument("--batch", type=positive, default=1)
    parser.add_argument("--repeats", type=positive, default=15)
    parser.add_argument("--no-bias", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args(arguments)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, float32")
    for name in options.layer:
        torch.manual_seed(0)
        layer = LAYERS[name](options.channels, options.backend)
        if options.no_bias:
            layer = layer._replace(parameters=[t for t in layer.parameters if t.dim() > 1])
        print(f"\n{name}")
        shapes = [(options.batch, options.channels, size) for size in options.sizes]
        compare_times(layer, shapes, options.repeats, not options.no_compile)


def compare_times(layer: Layer, shapes: list[tuple[int, int, int]], repeats: int, compiled: bool) -> None:
    """Print the rows of a layer, for maps of so many images, channels, and rows and columns."""
    parameters = [t.requires_grad_() for t in layer.parameters]
    runs: dict[str, Run] = {"fused": layer.fused, "eager": layer.plain}
    if compiled:
        runs["compile"] = torch.compile(layer.plain)
    gains: dict[str, list[float]] = {"forward": [], "training": []}
    for batch, channels, size in shapes:
        torch.compiler.reset()  # else the variants compiled for other sizes count against its limit
        jobs: dict[str, dict[tuple[str, str], Job]] = {"forward": {}, "training": {}}
        for layout, memory_format in LAYOUTS.items():
            x, dy = (torch.randn(batch, channels, side, side) for side in (size, layer.scale * size))
            x, dy = (t.contiguous(memory_format=memory_format) for t in (x, dy))
            for name, run in runs.items():
                jobs["forward"][name, layout] = forward(run, x, parameters)
                jobs["training"][name, layout] = training(run, x.detach().requires_grad_(), parameters, dy)
            for pass_name, tolerance in ("forward", 1e-4), ("training", layer.tolerance(size)):
                compare(jobs[pass_name]["fused", layout](), jobs[pass_name]["eager", layout](), tolerance)
        for pass_name, pass_ in jobs.items():
            times = measure(pass_, repeats)
            baseline = min((key for key in times if key[0] != "fused"), key=lambda key: times[key])
            for layout in LAYOUTS:
                gain = times[baseline] / times["fused", layout]
                gains[pass_name].append(gain)
                others = ", ".join(f"{' '.join(key)} {time:.2f}" for key, time in times.items() if key[0] != "fused")
                print(f"{size:4} {pass_name:8} {layout:13} {times['fused', layout]:7.2f} ms  {gain:5.2f}x ({others})")
            if pass_name == "training":
                ours, theirs = (peak(pass_[key], torch.device("cpu")).bytes / 2**20 for key in (("fused", baseline[1]), baseline))
                print(f"{size:4} training peak memory {ours:.1f} MiB, {' '.join(baseline)} {theirs:.1f}: {ours / theirs:.2f}")
    for name, values in gains.items():
        print(f"{name}: geometric mean {statistics.geometric_mean(values):.2f}x")


def forward(run: Run, x: Tensor, parameters: list[Tensor]) -> Job:
    """Inference."""

    def job() -> Results:
        with torch.no_grad():
            return (run(x, *parameters),)

    return job


def training(run: Run, x: Tensor, parameters: list[Tensor], dy: Tensor) -> Job:
    """A forward and a backward pass, all gradients."""

    def job() -> Results:
        return torch.autograd.grad(run(x, *parameters), (x, *parameters), dy)

    return job


def compare(found: Results, expected: Results, tolerance: float) -> None:
    """End the program unless all results agree."""
    for ours, theirs in zip(found, expected, strict=True):
        error = ((ours - theirs).norm() / theirs.norm()).item()
        if not error < tolerance:
            raise SystemExit(f"the results do not agree (relative error {error:.1e}): nothing is timed")


def measure(jobs: dict[tuple[str, str], Job], repeats: int) -> dict[tuple[str, str], float]:
    """Median milliseconds of every job, in turns."""
    names = {" ".join(key): key for key in jobs}
    times = round_robin({name: jobs[key] for name, key in names.items()}, CpuClock(), Budget(1e-9, repeats), seed=0)
    return {key: statistics.median(times[name]) for name, key in names.items()}


if __name__ == "__main__":
    main()
