"""Every way to run the operator: what can run here runs one and the same list of tests, the rest is skipped with its reason."""

from dataclasses import dataclass

import pytest
import torch
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

    def __call__(self, *arguments: Tensor | None) -> Tensor:
        if (reason := self.why_not_for(arguments[0].dtype)) is not None:  # type: ignore[union-attr]
            pytest.skip(f"{self.name}: {reason}")
        return fused_gcn(*arguments, backend=self.backend, algo=self.algo)  # type: ignore[arg-type]


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

#: Compiled kernels only, and with the definition that they replace beside them.
every_kernel = pytest.mark.parametrize("run", [_parameter(i) for i in _COMPILED])
every_implementation = pytest.mark.parametrize("run", [_parameter(i) for i in [*_COMPILED, Implementation("torch")]])
#: The compiled kernels that run here, for a test that shares one costly expectation among them.
RUNNABLE = [i for i in _COMPILED if i.why_not is None]
