"""Markers and isolation that every test shares."""

import os
from collections.abc import Iterator

import pytest
import torch

from gcn_kernels.core.library import LIBRARIES


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to test the fallback by accident, as when the source tree without a compiled library shadows the package."""
    if LIBRARIES.cpu_reason is not None:
        raise pytest.UsageError(
            f"the compiled library is not loaded ({LIBRARIES.cpu_reason}): run `pip install .` and then `pytest` "
            "(`python -m pytest` would import the sources in this folder), or `pip install -e .`"
        )
    if os.environ.get("TRITON_INTERPRET") == "1":
        import triton_repairs

        triton_repairs.install()
        # Triton computes in tf32 where PyTorch's convolutions do, and those of a CPU, which set the rule, do not.
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _same_start_for_every_test() -> Iterator[None]:
    """Fix the seed; put back what a test may switch globally."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    # What float32 results are compared with is computed on the CPU, in float32.
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """No graph compiled by an earlier test counts as a recompilation in this one."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()
