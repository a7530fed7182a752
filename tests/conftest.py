"""Markers and isolation that every test shares."""

from collections.abc import Iterator

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: runs on a CUDA device; skipped with its reason where there is none")


@pytest.fixture(autouse=True)
def _same_start_for_every_test() -> Iterator[None]:
    """Fix the seed; put back what a test may switch globally."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """No graph compiled by an earlier test counts as a recompilation in this one."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()
