"""Launching kernels, and what a launch has to know of the GPU."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.library import wrap_triton


def launch(kernel: Any, grid: tuple[Any, ...], arguments: Sequence[Any], **meta: Any) -> None:
    """Launch a kernel; in a traced graph, record that it is launched."""
    wrap_triton(kernel)[grid](*arguments, **meta)


def current(x: Tensor) -> AbstractContextManager[object]:
    """Make x's GPU the current one, as launches go there; tensors that are being traced are on none."""
    if type(x) in (Tensor, torch.nn.Parameter) and x.is_cuda and torch.cuda.current_device() != x.device.index:
        return torch.cuda.device(x.device)
    return nullcontext()


@lru_cache
def architecture_of(device: torch.device) -> str:
    """``sm_90`` or ``gfx942``; where there is no GPU (interpreter, tracing), the one that the tables are thought for."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return "sm_90"
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@lru_cache
def multiprocessors(device: torch.device) -> int:
    """Of the GPU; for tracing without one those of an H100, for the interpreter few, as its programs run in turn."""
    if device.type != "cuda":
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count if torch.cuda.is_available() else 132
