"""Problems on which PyTorch's own convolutions write past their memory, so that they cannot be a baseline.

The weight gradient of a k x 1 convolution in float32 on a CPU with AVX-512, NCHW, where the map is lower than about half of the
kernel: oneDNN corrupts the heap, at once or later (torch 2.13.0 and 2.14.1; 10 and 32 rows with kernels of 45 and 63 taps). What
is just beside that is not trusted either: every map that is lower than the kernel.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gcnbench.problems import Inputs
from gcnbench.variants import UnavailableError


def unsafe(inputs: Inputs, needs_gradients: bool) -> bool:
    """Whether PyTorch's convolutions might corrupt the heap on this problem."""
    x, *parameters = inputs.tensors
    tallest = max(t.shape[2] for t in parameters if t.dim() == 4)
    return needs_gradients and x.device.type == "cpu" and x.dtype == torch.float32 and tallest > x.shape[2]


def refuse(is_unsafe: bool) -> None:
    """Keep a baseline from running there.

    Raises:
        UnavailableError: the problem is one of those.
    """
    if is_unsafe:
        raise UnavailableError("oneDNN corrupts the heap in float32 weight gradients of kernels taller than the map")


@contextmanager
def avoided(is_unsafe: bool) -> Iterator[None]:
    """Without oneDNN where it is unsafe: slower, but right."""
    if not is_unsafe:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about switches of another device
        with torch.backends.mkldnn.flags(enabled=False):
            yield
