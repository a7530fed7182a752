"""Every way to run the operator: what can run here runs one and the same list of tests, the rest is skipped with its reason."""

from dataclasses import dataclass

import pytest
import torch
from cases import Block
from torch import Tensor

from gcn_kernels import backends, fused_gcn

#: The device whose tensors a backend is tested with.
DEVICES = {"cpu": "cpu", "torch": "cpu", "cuda": "cuda", "triton": "cuda"}


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
        """Why this algorithm refuses a dtype; test_errors.py checks that it does refuse it."""
        return "float64 goes through the direct algorithm" if self.algo == "fft" and dtype == torch.float64 else None

    def operator(self, block: Block, channels_last: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The registered operator itself, which gives the middle maps beside the result."""
        return torch.ops.gcn_kernels.gcn.default(*self.operator_arguments(block, channels_last))  # type: ignore[no-any-return]

    def operator_arguments(self, block: Block, channels_last: bool = False) -> tuple[object, ...]:
        self._skip_unless_it_takes(block.x)
        cache_weights = False
        return (*block.arguments, channels_last, cache_weights, self.algo)

    def __call__(self, *arguments: Tensor | None) -> Tensor:
        self._skip_unless_it_takes(arguments[0])
        return fused_gcn(*arguments, backend=self.backend, algo=self.algo)  # type: ignore[arg-type]

    def _skip_unless_it_takes(self, x: Tensor | None) -> None:
        if x is not None and (reason := self.why_not_for(x.dtype)) is not None:
            pytest.skip(f"{self.name}: {reason}")


def _parameter(implementation: Implementation) -> object:
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
every_kernel = pytest.mark.parametrize("run", [_parameter(i) for i in _COMPILED])
every_implementation = pytest.mark.parametrize("run", [_parameter(i) for i in [*_COMPILED, _DEFINITION]])
#: The same, for what is decided before an algorithm is chosen: registration, strides, derivatives, tracing.
every_compiled_backend = pytest.mark.parametrize("run", [_parameter(i) for i in _AUTOMATIC])
every_backend = pytest.mark.parametrize("run", [_parameter(i) for i in [*_AUTOMATIC, _DEFINITION]])
#: The compiled kernels that run here, for a test that shares one costly expectation among them.
RUNNABLE = [i for i in _COMPILED if i.why_not is None]
