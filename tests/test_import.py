"""``import gcn_kernels`` never breaks: without a library, or with one that does not fit, it warns once and falls back."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gcn_kernels
from gcn_kernels import info
from gcn_kernels.core.library import LIBRARIES

PACKAGE = Path(gcn_kernels.__file__).parent

#: Runs in a fresh interpreter: what the import warned about, and whether the operator works after it.
PROBE = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import gcn_kernels
    import torch
    module = gcn_kernels.FusedGCN(6, 3, 5)
    x = torch.randn(2, 6, 9, 8, requires_grad=True)
    module(x).sum().backward()
    torch.testing.assert_close(module(x), module.conv_l2(module.conv_l1(x)) + module.conv_r2(module.conv_r1(x)))
    assert x.grad.abs().sum() > 0
    try:
        gcn_kernels.FusedGCN(6, 3, 5, backend="cpu")(x)
        refusal = ""
    except RuntimeError as error:
        refusal = str(error)
ours = [w for w in caught if "gcn_kernels" in str(w.message)]
print(json.dumps({
    "file": gcn_kernels.__file__,
    "warnings": [(w.category.__name__, str(w.message)) for w in ours],
    "refusal": refusal,
}))
"""


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with the package that lies in ``folder``."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def probe(folder: Path) -> dict[str, object]:
    done = python(folder, "-c", PROBE)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    assert Path(str(found["file"])).parent == folder / "gcn_kernels"
    return found


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with the package's Python files and nothing compiled."""
    compiled = shutil.ignore_patterns("*.so", "*.pyd", "*.dylib", "__pycache__", "_build.json")
    shutil.copytree(PACKAGE, tmp_path / "gcn_kernels", ignore=compiled)
    return tmp_path


def test_the_library_of_this_installation_is_loaded() -> None:
    assert LIBRARIES.cpu_reason is None
    assert LIBRARIES.build["torch"]


def test_an_intact_copy_gives_no_warning(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "gcn_kernels")
    found = probe(tmp_path)
    assert (found["warnings"], found["refusal"]) == ([], "")


def assert_fallen_back(folder: Path, *says: str) -> None:
    found = probe(folder)
    ((category, message),) = found["warnings"]  # type: ignore[misc]
    assert category == "RuntimeWarning"
    for text in (*says, torch.__version__, "Falling back", "pip install"):
        assert text in message
    assert "backend='cpu' cannot run" in str(found["refusal"])
    for text in says:
        assert text in str(found["refusal"]) or text == "9.9.9"


def installed_beside(source: Path, folder: Path, version: str) -> None:
    """What ``pip install .`` leaves in ``folder``, seen from the source tree."""
    shutil.copytree(PACKAGE, folder / "gcn_kernels", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    described = folder / "gcn_kernels-0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: gcn-kernels\nVersion: {version}\n")
    (source / "setup.py").write_text("")


@pytest.mark.parametrize("version", [gcn_kernels.__version__, "9.9.9"])
def test_in_the_source_tree_the_installed_libraries_are_used(
    copied: Path, tmp_path_factory: pytest.TempPathFactory, version: str
) -> None:
    """README's next step after ``pip install .`` is run in the checkout, which is imported first; not another version's."""
    site = tmp_path_factory.mktemp("site")
    installed_beside(copied, site, version)
    code = "import gcn_kernels; from gcn_kernels.core.library import LIBRARIES; print(LIBRARIES.cpu_reason, LIBRARIES.folder)"
    environment = {**os.environ, "PYTHONPATH": f"{copied}{os.pathsep}{site}"}
    done = subprocess.run([sys.executable, "-c", code], cwd=copied, env=environment, capture_output=True, text=True, check=True)
    if version == gcn_kernels.__version__:
        assert (done.stdout.split(), done.stderr) == (["None", str(site / "gcn_kernels")], "")
    else:
        assert str(site) not in done.stdout  # but those of this installation, where they are on the path, too


def test_missing_library(copied: Path) -> None:
    assert_fallen_back(copied, "_C was not built")


def test_corrupt_library(copied: Path) -> None:
    (copied / "gcn_kernels" / "_C.abi3.so").write_bytes(b"not a library")
    assert_fallen_back(copied, "_C.abi3.so does not load")


def test_library_of_other_contents(copied: Path) -> None:
    """It loads, and does not declare the operators that the Python side calls: a stale build."""
    other = next((Path(torch.__file__).parent / "lib").glob("*torch_global_deps*"), None)
    if other is None:
        pytest.skip("no small library at hand on this platform")
    shutil.copy(other, copied / "gcn_kernels" / "_C.abi3.so")
    assert_fallen_back(copied, "built from other sources")


def test_warning_names_both_versions(copied: Path) -> None:
    (copied / "gcn_kernels" / "_build.json").write_text(json.dumps({"torch": "9.9.9"}))
    (copied / "gcn_kernels" / "_C.abi3.so").write_bytes(b"not a library")
    assert_fallen_back(copied, "9.9.9")


def test_info_runs() -> None:
    done = python(PACKAGE.parent, "-m", "gcn_kernels.info")
    assert done.returncode == 0, done.stderr
    for text in (
        torch.__version__,
        gcn_kernels.__version__,
        "backend cpu",
        "backend cuda",
        "backend triton",
        "backend torch",
        "never on a GPU",
    ):
        assert text in done.stdout


@pytest.mark.skipif(LIBRARIES.cpu_reason is not None, reason=str(LIBRARIES.cpu_reason))
@pytest.mark.parametrize(("variable", "expected"), [("PLAN", "name=number"), ("GENERATION", "auto, portable or hopper")])
def test_info_says_what_is_wrong_with_a_variable(monkeypatch: pytest.MonkeyPatch, variable: str, expected: str) -> None:
    monkeypatch.setenv(f"GCN_KERNELS_{variable}", "newest")
    assert f"GCN_KERNELS_{variable}: expected {expected}" in info.describe()["sm_90a kernels"]


def test_info_says_why_not(copied: Path) -> None:
    done = python(copied, "-m", "gcn_kernels.info")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("backend cpu")]
    assert "does not run" in line and "not built" in line


def test_import_leaves_triton_alone() -> None:
    """An installation for CPUs has none, and importing it takes time; it is there when it is asked for."""
    code = "import gcn_kernels, sys; assert not any(name.split('.')[0] == 'triton' for name in sys.modules)"
    done = python(PACKAGE.parent, "-c", code)
    assert done.returncode == 0, done.stderr


def test_without_triton_the_backend_says_so(tmp_path: Path) -> None:
    """Triton's absence, which a file that cannot be imported stands for, is a reason and not an error."""
    (tmp_path / "triton.py").write_text("raise ImportError('not here')\n")
    code = (
        f"import os, sys; sys.path.insert(0, {str(tmp_path)!r}); os.environ['TRITON_INTERPRET'] = '1'; import torch; "
        "from gcn_kernels import backends; reason = backends.why_not('triton', 'cpu'); "
        "assert reason is not None and 'not here' in reason and 'pip install triton' in reason, reason; "
        "assert backends.choose('auto', 'auto', torch.ones(1)) == 'cpu'"
    )
    done = python(PACKAGE.parent, "-c", code)
    assert done.returncode == 0, done.stderr


def test_import_is_free_of_side_effects() -> None:
    """No thread count, default dtype or random state of PyTorch changes by importing the package."""
    code = (
        "import torch; state = lambda: (torch.get_num_threads(), torch.get_default_dtype(), torch.initial_seed(), "
        "torch.get_rng_state().tolist(), torch.are_deterministic_algorithms_enabled()); torch.manual_seed(1); "
        "before = state(); import gcn_kernels; assert state() == before"
    )
    done = python(PACKAGE.parent, "-c", code)
    assert done.returncode == 0, done.stderr
