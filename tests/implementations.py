"""Every way to run the operator: what can run here runs one and the same list of tests, the rest is skipped with its reason."""

import os
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from _pytest.mark.structures import ParameterSet
from cases import Block
from torch import Tensor

from gcn_kernels import backends, fused_gcn

#: The device whose tensors a backend is tested with; Triton's interpreter takes those of the CPU.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = {"cpu": "cpu", "torch": "cpu", "cuda": "cuda", "triton": "cpu" if INTERPRETED else "cuda"}


@dataclass(frozen=True)
class Implementation:
    """A backend and an algorithm; calling it runs the operator."""

    backend: str
    algo: str = "auto"

    @property
    def device(self) -> str:
        return DEVICES[self.backend]

    @property
    def name(self) -> str:
        return self.backend if self.algo == "auto" else f"{self.backend}-{self.algo}"

    @property
    def why_not(self) -> str | None:
        if self.device == "cuda" and not torch.cuda.is_available():
            return backends.why_not(self.backend, "cuda") or "this machine has no CUDA device"
        return backends.why_not(self.backend, self.device)

    def why_not_for(self, dtype: torch.dtype) -> str | None:
        """Why this implementation refuses a dtype; test_errors.py checks that it does refuse it."""
        if dtype == torch.float64 and self.backend == "triton":
            return "float64 has no matrix instructions in Triton"
        return "float64 goes through the direct algorithm" if self.algo == "fft" and dtype == torch.float64 else None

    @property
    def forward_operator(self) -> Any:
        """The registered operator itself, which gives the middle maps beside the result."""
        name = "triton_gcn" if self.backend == "triton" else "gcn"
        return getattr(torch.ops.gcn_kernels, name).default

    @property
    def backward_operator(self) -> Any:
        name = "triton_gcn_backward" if self.backend == "triton" else "gcn_backward"
        return getattr(torch.ops.gcn_kernels, name).default

    def operator_arguments(self, block: Block, channels_last: bool = False) -> tuple[object, ...]:
        """What ``forward_operator`` takes, without tf32 where that is a question."""
        self._skip_unless_it_takes(block.x)
        cache_weights = allow_tf32 = False
        options = (allow_tf32,) if self.backend == "triton" else (cache_weights, allow_tf32, self.algo)
        return (*block.arguments, channels_last, *options)

    def backward_arguments(self, block: Block, wanted: int) -> tuple[object, ...]:
        """What ``backward_operator`` takes, after a run of ``forward_operator``."""
        allow_tf32 = False
        with torch.no_grad():
            _, u_l, u_r = self.forward_operator(*self.operator_arguments(block))
        options = (allow_tf32,) if self.backend == "triton" else (allow_tf32, self.algo)
        return (block.dy, block.x, u_l, u_r, *block.weights, block.biases[0], block.biases[2], wanted, *options)

    def __call__(self, *arguments: Tensor | None) -> Tensor:
        self._skip_unless_it_takes(arguments[0])
        return fused_gcn(*arguments, backend=self.backend, algo=self.algo)  # type: ignore[arg-type]

    def _skip_unless_it_takes(self, x: Tensor | None) -> None:
        if x is not None and (reason := self.why_not_for(x.dtype)) is not None:
            pytest.skip(f"{self.name}: {reason}")


def parameter(implementation: Implementation) -> ParameterSet:
    """The value of a parameter: marked, and skipped with the reason where it cannot run."""
    reason = implementation.why_not
    marks = [pytest.mark.skipif(reason is not None, reason=f"{implementation.name}: {reason}")]
    if implementation.device == "cuda":
        marks.append(pytest.mark.gpu)
    return pytest.param(implementation, id=implementation.name, marks=marks)


#: The algorithms to choose from are the CPU's.
_COMPILED = [
    Implementation(b, algo)
    for b in backends.BACKENDS
    if b not in ("auto", "torch")
    for algo in (backends.ALGORITHMS if b == "cpu" else ["auto"])
]
_AUTOMATIC = [i for i in _COMPILED if i.algo == "auto"]
_DEFINITION = Implementation("torch")

#: Every algorithm of every compiled backend; and with the definition that they replace beside them.
every_kernel = pytest.mark.parametrize("run", [parameter(i) for i in _COMPILED])
every_implementation = pytest.mark.parametrize("run", [parameter(i) for i in [*_COMPILED, _DEFINITION]])
#: The same, for what is decided before an algorithm is chosen: registration, strides, derivatives, tracing.
every_compiled_backend = pytest.mark.parametrize("run", [parameter(i) for i in _AUTOMATIC])
every_backend = pytest.mark.parametrize("run", [parameter(i) for i in [*_AUTOMATIC, _DEFINITION]])
#: The compiled kernels that run here, for a test that shares one costly expectation among them.
RUNNABLE = [i for i in _COMPILED if i.why_not is None]
