"""What is benchmarked: maps of the paper and of the wild, their inputs, and the work in them.

All counts are those of the *direct* algorithm, whatever a kernel does in fact: two operations per multiply-add of the four
convolutions, zero padding included::

    first  stage   2 * N * H * W * C   * (k * M + k * M)
    second stage   2 * N * H * W * O   * (k * M + k * M)

A backward pass needs two products of the same size for each (gradient of the input, gradient of the weight). Bytes are
the compulsory ones: every argument read once and every result written once.
"""

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

AnyInputs = TypeVar("AnyInputs", bound="Inputs")
MODES = ("fwd", "bwd", "fwdbwd")
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
#: The differentiable arguments in the order of the operator's signature. Not read from the package, which may be another
#: commit's (``--base``).
ARGUMENTS = ("x", "w_l1", "w_l2", "w_r1", "w_r2", "b_l1", "b_l2", "b_r1", "b_r2")


@dataclass(frozen=True)
class Map:
    """A feature map and the channels of the block on it: C -> M -> O."""

    name: str
    channels: int
    height: int
    width: int
    mid: int = 21
    out: int = 21

    @property
    def label(self) -> str:
        """The map as the table shows it."""
        size = f"{self.channels}x{self.height}x{self.width}"
        return f"{self.name} {size}" if self.name else size


def _resnet(height: int, width: int, classes: int) -> tuple[Map, ...]:
    """The four stages of a ResNet; ``height`` and ``width`` are those of res-2."""
    return tuple(Map(f"res-{2 + i}", 256 << i, height >> i, width >> i, classes, classes) for i in range(4))


PRESETS = {
    # 512 x 512, 21 classes: VOC.
    "paper": _resnet(128, 128, 21),
    # 1024 x 2048, 19 classes.
    "cityscapes": _resnet(256, 512, 19),
    # Blocks that are not "classes in, classes out": a detector's head, a video segmenter, a wide block.
    "wide": (
        Map("detect", 2048, 38, 63, 256, 490),
        Map("video", 1024, 30, 54, 256, 256),
        Map("wide", 512, 64, 64, 512, 512),
    ),
}


def parse_map(text: str) -> Map:
    """Read ``CxHxW``.

    Raises:
        ValueError: it is something else.

    Example:
        >>> parse_map("256x128x64").label
        '256x128x64'
    """
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if match is None or "0" in match.groups():
        raise ValueError(f"expected CxHxW such as 256x128x128, each at least 1, got {text!r}")
    channels, height, width = map(int, match.groups())
    return Map("", channels, height, width)


@dataclass(frozen=True)
class AnyProblem(ABC):
    """A block of any operator on one map: everything that decides the work.

    Attributes:
        k: the longest kernel.
    """

    map: Map
    batch: int
    k: int
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        """``float32`` and so on."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def arithmetic(self) -> torch.dtype:
        """The dtype whose matrix rate bounds the arithmetic."""
        return self.dtype

    @abstractmethod
    def heading(self) -> str:
        """The lines above the problem's rows."""

    @abstractmethod
    def flops(self, mode: str) -> int:
        """Operations of the direct algorithm in ``mode`` (fwd, bwd or fwdbwd)."""

    @abstractmethod
    def bytes(self, mode: str) -> int:
        """Bytes that have to be read and written in ``mode`` if every tensor moves once."""


@dataclass(frozen=True)
class Problem(AnyProblem):
    """One GCN block on one map."""

    def heading(self) -> str:
        m = self.map
        work = f"{self.first_flops / 1e9:.3g} + {self.second_flops / 1e9:.3g} GFLOP forward"
        return f"# {m.label}, batch {self.batch}, k {self.k}, M {m.mid}, O {m.out}, {self.dtype_name}\n# {work}"

    @property
    def first_flops(self) -> int:
        """Forward, both first convolutions."""
        m = self.map
        return 2 * self.batch * m.height * m.width * m.channels * 2 * self.k * m.mid

    @property
    def second_flops(self) -> int:
        """Forward, both second convolutions."""
        m = self.map
        return 2 * self.batch * m.height * m.width * m.out * 2 * self.k * m.mid

    def flops(self, mode: str) -> int:
        return {"fwd": 1, "bwd": 2, "fwdbwd": 3}[mode] * (self.first_flops + self.second_flops)

    def bytes(self, mode: str) -> int:
        m = self.map
        x = self.batch * m.channels * m.height * m.width
        y = self.batch * m.out * m.height * m.width
        parameters = 2 * self.k * m.mid * (m.channels + m.out) + 2 * (m.mid + m.out)
        forward, backward = x + parameters + y, 2 * (x + parameters) + y
        elements = {"fwd": forward, "bwd": backward, "fwdbwd": forward + backward}[mode]
        return elements * self.dtype.itemsize


@dataclass(frozen=True)
class Inputs:
    """The operator's arguments and the gradient that comes back.

    Attributes:
        arguments: the names of ``tensors``.
    """

    tensors: tuple[Tensor, ...]
    dy: Tensor
    arguments: tuple[str, ...] = field(default=ARGUMENTS, kw_only=True)

    def laid_out(self: AnyInputs, layout: str) -> AnyInputs:
        """The same values with every 4-D tensor, weights too, in ``layout``."""
        form = LAYOUTS[layout]

        def convert(t: Tensor) -> Tensor:
            return t.contiguous(memory_format=form) if t.dim() == 4 else t

        return replace(self, tensors=tuple(convert(t) for t in self.tensors), dy=convert(self.dy))

    def leaves(self) -> tuple[Tensor, ...]:
        """The arguments as leaves that want a gradient; they share the memory of the originals."""
        return tuple(t.detach().requires_grad_() for t in self.tensors)


def weight_shapes(m: Map, k: int) -> tuple[tuple[int, int, int, int], ...]:
    """Shapes of ``w_l1, w_l2, w_r1, w_r2``."""
    return (m.mid, m.channels, k, 1), (m.out, m.mid, 1, k), (m.mid, m.channels, 1, k), (m.out, m.mid, k, 1)


def make_inputs(problem: Problem, device: torch.device, seed: int) -> Inputs:
    """Random NCHW inputs, the same on every machine: values of order one, weights that keep them so, non-zero biases."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(device, problem.dtype)

    m = problem.map
    x = normal(problem.batch, m.channels, m.height, m.width)
    weights = [normal(*s, scale=1 / math.sqrt(s[1] * s[2] * s[3])) for s in weight_shapes(m, problem.k)]
    biases = [normal(n) for n in (m.mid, m.out, m.mid, m.out)]
    dy = normal(problem.batch, m.out, m.height, m.width)
    return Inputs((x, *weights, *biases), dy)
