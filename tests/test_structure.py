"""The package's modules form a hierarchy: none imports, at any time, one that imports it."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import gcn_kernels

PACKAGE = Path(gcn_kernels.__file__).parent


def name_of(path: Path) -> str:
    parts = ["gcn_kernels", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imports(name: str) -> set[str]:
    """Modules of the package that ``name`` imports, on top or inside of a function, or by a name in a string."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module" and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant):
                found.add(str(argument.value))
    return {module for module in found if module in MODULES and module != name}


def test_imports_have_no_circle() -> None:
    graph = {name: imports(name) for name in MODULES}
    assert "gcn_kernels.core.backends" in graph["gcn_kernels.triton.tuning"], "this test no longer sees imports"
    TopologicalSorter(graph).prepare()


def test_the_core_knows_no_operator() -> None:
    below = {name for name in MODULES if name.startswith("gcn_kernels.core")}
    assert {found for name in below for found in imports(name)} <= below
