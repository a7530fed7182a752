"""What a swap is expected to gain: the block's sizes timed both ways, here and now, on one small map."""

import time
from collections.abc import Callable
from functools import cache

import torch

from gcn_kernels.gcn.functional import fused_gcn
from gcn_kernels.swap.report import Gain, Sizes

#: Height and width of the map, batch 1: res-4 of a 512 x 512 image.
MAP = 32
REPEATS = 5


@cache
def expected_gain(sizes: Sizes, dtype: torch.dtype, device: torch.device, backend: str) -> Gain | None:
    """Time of four convolutions over the time fused, forward alone and with the backward pass; None where nothing can run."""
    if device.type == "meta":
        return None
    k1, k2, k3, k4 = sizes.kernels
    (m_l, m_r), c, o = sizes.middle, sizes.channels, sizes.out
    shapes = ((1, c, MAP, MAP), (m_l, c, k1, 1), (o, m_l, 1, k2), (m_r, c, 1, k3), (o, m_r, k4, 1))
    generator = torch.Generator(device).manual_seed(0)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        x, *weights = (torch.randn(s, dtype=dtype, device=device, generator=generator, requires_grad=True) for s in shapes)
        try:
            seconds = _best(
                [_job(x, weights, name, training) for training in (False, True) for name in ("torch", backend)], device
            )
        except RuntimeError:
            return None
    return Gain(seconds[0] / seconds[1], seconds[2] / seconds[3])


def _job(x: torch.Tensor, weights: list[torch.Tensor], backend: str, training: bool) -> Callable[[], None]:
    def run() -> None:
        with torch.set_grad_enabled(training):
            y = fused_gcn(x, *weights, backend=backend)
            if training:
                torch.autograd.grad(y.sum(), [x, *weights])

    return run


def _best(jobs: list[Callable[[], None]], device: torch.device) -> list[float]:
    """Shortest time of each job, in turns, so that other load on the machine meets all alike."""
    seconds = [float("inf")] * len(jobs)
    for turn in range(REPEATS + 1):
        for i, job in enumerate(jobs):
            start = time.perf_counter()
            job()
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            if turn:
                seconds[i] = min(seconds[i], time.perf_counter() - start)
    return seconds
