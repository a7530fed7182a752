"""Measure tiles on the user's GPU, on request: :func:`autotune`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import torch
import triton
from triton.runtime.errors import OutOfResources

from gcn_kernels.core import backends
from gcn_kernels.triton import ops, plan
from gcn_kernels.triton.config import Config, Tile, arithmetic, choose, default, key, path, store
from gcn_kernels.triton.device import architecture_of

#: What is tried for each kernel, besides the table's choice. Not every GPU has room for every one.
CANDIDATES = {
    "fork": [
        *(Tile(128, 64, 64, warps, stages) for warps in (4, 8) for stages in (2, 3, 4)),
        *(Tile(128, 128, depth, 8, 3) for depth in (32, 64)),
        Tile(256, 64, 64, 8, 3),
    ],
    "join": [
        *(Tile(128, 128, depth, 8, stages) for depth in (32, 64) for stages in (2, 3, 4)),
        *(Tile(64, 128, 64, 4, 3), Tile(128, 256, 64, 8, 3)),
    ],
    "weight_gradient": [
        *(Tile(128, 128, depth, 8, stages) for depth in (32, 64) for stages in (2, 3, 4)),
        *(Tile(64, 128, 64, 4, 3), Tile(64, 64, 64, 4, 4)),
    ],
}


def autotune(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 15,
    *,
    size: tuple[int, int],
    batch: int = 1,
    mid_channels: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    channels_last: bool = True,
    device: torch.device | str = "cuda",
) -> Config:
    """Measure the tiles of each kernel in turn on this GPU, print the times, and store the choice for later calls and programs.

    Not needed for right results. Runs a forward and a backward pass per candidate, a few seconds in all and more for the
    first compilation. The choice holds for all blocks with the same kernel size and dtype and about as many input channels.

    Args:
        in_channels: of x.
        out_channels: of the result.
        kernel_size: odd; all four kernels have it.
        size: (H, W) of the map.
        batch: N.
        mid_channels: of the middle maps; ``out_channels`` if not given.
        dtype: float32, bfloat16 or float16; float32 in tf32 where PyTorch's convolutions use that.
        channels_last: the layout of x.
        device: the GPU.

    Returns:
        The choice, stored in the file that the environment variable ``GCN_KERNELS_TRITON_CONFIG`` names, else in
        ``~/.cache/gcn_kernels/triton.json``.

    Raises:
        RuntimeError: the Triton kernels cannot run on the device.

    Example:
        >>> autotune(2048, 21, size=(16, 16), batch=16)  # doctest: +SKIP
    """
    device = torch.device(device)
    if (reason := backends.why_not("triton", device, dtype)) is not None:
        raise RuntimeError(f"autotune needs the backend triton, which cannot run: {reason}")
    allow_tf32 = backends.allow_tf32()
    architecture = architecture_of(device)
    kind = arithmetic(dtype, allow_tf32, architecture)
    name = key(architecture, kind, in_channels, kernel_size)
    step = _training_step(
        (batch, in_channels, *size),
        mid_channels or out_channels,
        out_channels,
        kernel_size,
        dtype,
        channels_last,
        device,
        allow_tf32,
    )

    best = choose(architecture, kind, in_channels, kernel_size)
    with _trial(best):
        fastest = _milliseconds(step)
    print(f"{name}: forward and backward {fastest:.4f} ms with {best}")
    for kernel in fields(Config):
        for tile in _candidates(kernel.name, default(architecture, kind)):
            tried = replace(best, **{kernel.name: tile})
            with _trial(tried):
                try:
                    found = _milliseconds(step)
                except OutOfResources as error:
                    print(f"  {kernel.name} {tile}: no room ({error})")
                    continue
            print(f"  {kernel.name} {tile}: {found:.4f} ms")
            if found < fastest:
                best, fastest = tried, found
    store(name, best)
    choose.cache_clear()
    plan.constants.cache_clear()
    print(f"{name}: {fastest:.4f} ms with {best}, stored in {path()}")
    return best


def _candidates(kernel: str, table: Config) -> Sequence[Tile]:
    return [getattr(table, kernel), *CANDIDATES[kernel]]


@contextmanager
def _trial(config: Config) -> Iterator[None]:
    """Let every plan use ``config``."""
    usual = plan.tiles_for
    plan.constants.cache_clear()
    plan.tiles_for = lambda *_: config
    try:
        yield
    finally:
        plan.tiles_for = usual
        plan.constants.cache_clear()


def _training_step(
    shape: tuple[int, ...],
    mid: int,
    out: int,
    k: int,
    dtype: torch.dtype,
    channels_last: bool,
    device: torch.device,
    allow_tf32: bool,
) -> Callable[[], Any]:
    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, dtype=dtype, device=device)

    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = normal(*shape).contiguous(memory_format=layout)
    c = shape[1]
    weights = (normal(mid, c, k, 1), normal(out, mid, 1, k), normal(mid, c, 1, k), normal(out, mid, k, 1))
    biases = (normal(mid), normal(out), normal(mid), normal(out))
    everything = 0b111111111

    def step() -> None:
        y, u_l, u_r = ops.triton_gcn(x, *weights, *biases, channels_last, allow_tf32)
        ops.triton_gcn_backward(y, x, u_l, u_r, *weights, biases[0], biases[2], everything, allow_tf32)

    return step


def _milliseconds(step: Callable[[], Any]) -> float:
    return float(triton.testing.do_bench(step, return_mode="median"))
