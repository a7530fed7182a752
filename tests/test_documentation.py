"""What the documentation shows runs as it stands there."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = sorted(p.relative_to(ROOT) for p in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")) if p.is_file())
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULES = [
    "gcn_kernels.gcn.functional",
    "gcn_kernels.gcn.module",
    "gcn_kernels.reference",
    "gcn_kernels.info",
    "gcn_kernels.strips.functional",
    "gcn_kernels.strips.module",
    "gcn_kernels.refine.functional",
    "gcn_kernels.refine.module",
    "gcn_kernels.upsample.functional",
    "gcn_kernels.upsample.module",
]


@pytest.mark.parametrize("page", PAGES or [None], ids=str)
def test_python_of_a_page_runs(page: Path | None) -> None:
    """In order, in one namespace, as a reader would type it."""
    if page is None:
        pytest.skip("the tests were copied without README and docs")
    text = (ROOT / page).read_text()
    namespace: dict[str, object] = {"__name__": "page"}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block[1], str(page), "exec"), namespace)


def test_readme_and_operators_show_python() -> None:
    shown = {str(page) for page in PAGES if BLOCK.search((ROOT / page).read_text())}
    assert not PAGES or {"README.md", "docs/operators/gcn.md", "docs/swap.md"} <= shown


@pytest.mark.parametrize("page", PAGES or [None], ids=str)
def test_links_of_a_page_lead_somewhere(page: Path | None) -> None:
    if page is None:
        pytest.skip("the tests were copied without README and docs")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES or [None], ids=str)
def test_links_within_a_page_lead_to_its_headings(page: Path | None) -> None:
    if page is None:
        pytest.skip("the tests were copied without README and docs")
    text = (ROOT / page).read_text()
    headings = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"(?m)^#+ (.*)$", text)}
    assert [anchor for anchor in re.findall(r"\]\(#([^)]+)\)", text) if anchor not in headings] == []


def test_what_pip_is_told_is_what_the_build_asks_for() -> None:
    if not PAGES:
        pytest.skip("the tests were copied without README and docs")
    project = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text())
    command = next(line for line in (ROOT / "docs/install.md").read_text().splitlines() if "--no-build-isolation" in line)
    assert all(requirement in command for requirement in project["build-system"]["requires"])
    assert f"]({project['project']['urls']['Paper']})" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs={"torch": torch})
    assert results.failed == 0


def test_public_names_have_examples() -> None:
    import gcn_kernels

    documented = (gcn_kernels.fused_gcn, gcn_kernels.FusedGCN, gcn_kernels.fused_strips, gcn_kernels.FusedStrips)
    assert all(">>>" in (public.__doc__ or "") for public in documented)
