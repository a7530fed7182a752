"""What the documentation shows runs as it stands there."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULES = ["gcn_kernels.functional", "gcn_kernels.modules", "gcn_kernels.reference", "gcn_kernels.info"]


def test_python_blocks_of_the_readme() -> None:
    """In order, in one namespace, as a reader would type them."""
    if not README.is_file():
        pytest.skip("the tests were copied without the README")
    text = README.read_text()
    blocks = list(BLOCK.finditer(text))
    assert blocks, "README.md shows no python"
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block[1], str(README), "exec"), namespace)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs={"torch": torch})
    assert results.failed == 0


def test_public_names_have_examples() -> None:
    import gcn_kernels

    assert all(">>>" in (documented.__doc__ or "") for documented in (gcn_kernels.fused_gcn, gcn_kernels.FusedGCN))
