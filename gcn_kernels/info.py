"""What was built, what can run here, and what the GPU kernels would do: ``python -m gcn_kernels.info [--json]``."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

import torch

import gcn_kernels
from gcn_kernels.core import backends
from gcn_kernels.core.checks import DTYPES, integers
from gcn_kernels.core.library import LIBRARIES

#: Where the CUDA kernels have been run and checked. Entries come with results under benchmarks/results; of other GPUs, nothing
#: is known but what an emulator shows.
SEEN_ON_GPUS = ("an H100 (benchmarks/results/h100)", "an H200 (benchmarks/results/h200)")

#: What is built or compiled for GPUs and has run on none: only in an emulator or an interpreter.
NOT_ON_GPUS = (
    "CUDA kernels of fused_strips, rewritten since an H200 ran them, in 16 bits and tf32 for tensor cores",
    "CUDA and Triton kernels of fused_refine",
    "CUDA kernels of fused_upsample, and Triton kernels of its forms other than 4 x 4 with groups=1 and of its sum",
    "Triton kernels of fused_strips",
    "sm_90a kernel of the gradient of x, whose copies, and into NCHW its products, are others than an H200 ran",
    "sm_90a first stage, whose first copies of x no longer wait for the launch that packs the weights",
    "sm_90a second stage with turned windows (GCN_KERNELS_PLAN=second_stage_turned=1)",
    "CUDA kernels of a forward pass in two launches (GCN_KERNELS_PLAN=unpacked_weights=1)",
)

#: Multiprocessors, and bytes of shared memory of a block and of a multiprocessor.
H100 = (132, 227 << 10, 228 << 10)
#: The same of GPUs that plans are made for by name; and what their devices say: kHz of the clock and of the memory's, bits of the
#: memory's bus, bytes of L2.
NAMED = {"H100": (H100, (1980000, 2619000, 5120, 50 << 20)), "H200": (H100, (1980000, 3201000, 6144, 60 << 20))}

#: As the operator ``gpu_plan`` numbers them.
GENERATIONS = {"portable": 0, "hopper": 1, "auto": 2}


def describe() -> dict[str, str]:
    """The installation as an ordered mapping of names to one-line values.

    Returns:
        Versions, what the libraries were built with, the devices, and for every backend whether it runs here or why not.

    Example:
        >>> describe()["backend torch"]
        'runs (plain PyTorch convolutions, the reference)'
    """
    return {
        "gcn_kernels": gcn_kernels.__version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda or 'not in this build'}",
        "built with torch": str(LIBRARIES.build.get("torch", "unknown")),
        "CPU": f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} of {os.cpu_count()} threads",
        "libraries": str(LIBRARIES.folder),
        "CPU kernels": _cpu_kernels(),
        "CPU weight spectra": _spectra(),
        "GPU": _gpu() if torch.cuda.is_available() else "none visible",
        "CUDA kernels": _cuda_build(),
        "sm_90a kernels": _measured(),
        "never on a GPU": "; ".join(NOT_ON_GPUS),
        "backend cpu": _status("cpu", "cpu", "C++ kernels, forward and backward"),
        "backend cuda": _status("cuda", "cuda", "CUDA kernels"),
        "backend triton": _status("triton", "cuda", "Triton kernels"),
        "backend torch": _status("torch", "cpu", "plain PyTorch convolutions, the reference"),
    }


def spectra_cache_bytes(*, clear: bool = False) -> int:
    """Bytes of weight spectra that the CPU kernels keep between calls, for all blocks together.

    At most 256 MB, or ``GCN_KERNELS_SPECTRA_MB`` megabytes (0 keeps none); the least recently used go first.

    Args:
        clear: drop them all first, and the spare memory (32 MB at most) that calls reuse for their workspaces.

    Example:
        >>> spectra_cache_bytes(clear=True)
        0
    """
    if LIBRARIES.cpu_reason is not None:
        return 0
    return int(torch.ops.gcn_kernels.cpu_spectra_cache(clear))


def plan(
    in_channels: int,
    out_channels: int,
    size: Sequence[int],
    kernel_size: int | Sequence[int] = 15,
    *,
    mid_channels: int | Sequence[int] | None = None,
    batch: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    channels_last: bool = False,
    backward: bool = False,
    allow_tf32: bool = True,
    gpu: Sequence[int] | str | None = None,
    generation: str = "portable",
) -> dict[str, Any]:
    """What the CUDA kernels would do with a block on a map: launches, tiles, splits, workspace and predicted times.

    Needs no GPU and asks for nothing of one: the plan is for an H100, or for what ``gpu`` says. The environment variable
    ``GCN_KERNELS_PLAN`` overrides choices of the plans, as it does for calls on a GPU: ``first_stage_sharing=2`` and so on,
    with commas between them; an unknown name lists those there are.

    Args:
        in_channels: channels C of the map.
        out_channels: channels O of the result.
        size: (H, W) of the map.
        kernel_size: odd k, or (k1, k2, k3, k4) in the order of the weights ``w_l1, w_l2, w_r1, w_r2``.
        mid_channels: M, or (M_l, M_r); ``out_channels`` if None.
        batch: N.
        dtype: of all tensors.
        channels_last: the layout of the map and the result; dense and aligned.
        backward: the plan of the backward pass, for all gradients.
        allow_tf32: whether float32 products may be made of tf32 factors.
        gpu: "H100" or "H200"; or multiprocessors, and bytes of shared memory that a block and a multiprocessor can have, of a GPU
            that is as fast as an H100 otherwise.
        generation: "portable"; "hopper" for the kernels of sm_90a wherever they take the problem; or "auto" for them where they
            were measured to be faster, which is what a Hopper GPU does unless the environment variable
            ``GCN_KERNELS_GENERATION`` asks for another.

    Returns:
        ``launches``, each with its kernel, blocks, waves, GFLOP, megabytes and predicted time; their sum ``predicted_us``
        beside ``floor_us``, the time that no direct method can beat; ``workspace_bytes``; the tiles and splits of every
        kernel; and where the tensor cores are not used, ``why_direct``, and ``why_portable`` where kernels of sm_90a were
        asked for and some of the portable ones stay, and ``why_packed`` where ``GCN_KERNELS_PLAN`` asks for unpacked weights and
        they are packed all the same, and ``measured_sources`` where a measurement has chosen them: the state
        of the sources it was made on. Times are predictions of a cost model.

    Raises:
        RuntimeError: the compiled library is not loaded.
        TypeError: a dtype that the kernels do not know.
        ValueError: sizes that do not form a block.

    Example:
        >>> found = plan(256, 21, (128, 128), batch=16)
        >>> [launch["kernel"] for launch in found["launches"]]
        ['prepare', 'first_stage', 'combine', 'line_conv y']
        >>> found["tensor_cores"]
        True
    """
    if LIBRARIES.cpu_reason is not None:
        raise RuntimeError(f"plans are made by the library _C: {LIBRARIES.cpu_reason}")
    if dtype not in DTYPES:
        raise TypeError(f"dtype: expected one of {', '.join(map(str, DTYPES))}, got {dtype}")
    middles = integers("mid_channels", out_channels if mid_channels is None else mid_channels, 2, spread=True)
    kernels = integers("kernel_size", kernel_size, 4, spread=True)
    if any(k % 2 == 0 for k in kernels):
        raise ValueError(f"kernel_size: expected odd numbers, got {kernel_size!r}")
    (batch,), (c,), (o,) = (
        integers(name, given, 1, spread=True)
        for name, given in (("batch", batch), ("in_channels", in_channels), ("out_channels", out_channels))
    )
    sizes = [batch, c, *integers("size", size, 2, spread=True), *middles, o, *kernels]
    if generation not in GENERATIONS:
        raise ValueError(f"generation: expected {', '.join(GENERATIONS)}, got {generation!r}")
    if isinstance(gpu, str):
        if gpu not in NAMED:
            raise ValueError(f"gpu: expected {', '.join(NAMED)} or three numbers, got {gpu!r}")
        sizes_of, rates = NAMED[gpu]
        machine = [*sizes_of, GENERATIONS[generation], *rates]
    else:
        machine = [] if gpu is None else integers("gpu (multiprocessors, bytes of shared memory per block and in all)", gpu, 3)
        if GENERATIONS[generation]:
            machine = [*(machine or H100), GENERATIONS[generation]]
    math = "tf32" if dtype == torch.float32 and allow_tf32 else str(dtype).removeprefix("torch.")
    described = torch.ops.gcn_kernels.gpu_plan(sizes, math, channels_last, backward, machine)
    found: dict[str, Any] = json.loads(described)
    return found


def _cpu_kernels() -> str:
    """The instruction set of the frequency domain, or what is wrong with the environment variable that asks for one."""
    if LIBRARIES.cpu_reason is not None:
        return "not loaded"
    try:
        planned = json.loads(torch.ops.gcn_kernels.cpu_plan([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], False, True))
    except RuntimeError as error:
        return f"cannot run: {error}"
    found = planned["forward"]["fft"]
    return f"instruction set {found['l1']['isa']}" if found else "direct method only"


def _spectra() -> str:
    try:
        return f"{spectra_cache_bytes() / 1e6:.1f} MB kept"
    except RuntimeError as error:
        return f"none kept: {error}"


def _gpu() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}"


def _cuda_build() -> str:
    """What ``_cuda`` is built for, whether that is the GPU here, and where it has been run."""
    if not LIBRARIES.architectures:
        return "not built"
    line = f"built by nvcc {LIBRARIES.build.get('nvcc', 'unknown')} for {', '.join(LIBRARIES.architectures)}"
    if torch.cuda.is_available():
        reason = backends.why_not_capability(torch.cuda.get_device_capability(), LIBRARIES.architectures)
        line += ", this GPU among them" if reason is None else ", this GPU not among them"
    return f"{line}; those of fused_gcn run on {', '.join(SEEN_ON_GPUS)}, elsewhere only emulated"


def _measured() -> str:
    """On which state of the sources a GPU has shown the kernels of sm_90a faster, beside the state of this build."""
    if LIBRARIES.cpu_reason is not None:
        return "unknown: plans are made by the library _C"
    here = LIBRARIES.build.get("cuda_sources", "unknown")
    asked = os.environ.get("GCN_KERNELS_GENERATION", "auto")
    if asked not in GENERATIONS:  # which only a GPU's calls read
        return f"cannot run: GCN_KERNELS_GENERATION: expected auto, portable or hopper, got {asked}"
    try:
        measured = plan(256, 21, (128, 128), batch=16, channels_last=True, generation="auto")["measured_sources"]
    except (RuntimeError, ValueError) as error:
        return f"cannot run: {error}"
    if measured == here:
        return f"chosen by a measurement of this code (sources {here})"
    return f"chosen by a measurement of sources {measured}; the code has changed since (now {here})"


def _status(backend: str, device_type: str, what: str) -> str:
    reason = backends.why_not(backend, device_type)
    return f"runs ({what})" if reason is None else f"does not run: {reason}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what ``describe`` finds."""
    parser = argparse.ArgumentParser(prog="python -m gcn_kernels.info", description="What was built and what can run here.")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines, for programs and bug reports")
    given = parser.parse_args(arguments)
    lines = describe()
    if given.json:
        print(json.dumps(lines, indent=1))
        return 0
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
