"""``bench_gcn.py --base``: another commit is found, built once, and timed in a process of its own."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import bench_gcn
import pytest
import torch
from gcnbench import base, clock, options, report
from gcnbench.problems import Map, Problem, make_inputs
from gcnbench.report import Mean, Row
from gcnbench.variants import UnavailableError, fused, mode_context, operator, torch_call

import gcn_kernels

CPU = torch.device("cpu")
PROBLEM = Problem(Map("", 6, 8, 5, 4, 3), 2, 3, torch.float32)
TINY = ["--maps", "6x8x5", "--k", "3", "--device", "cpu", "--quick", "--baselines", "eager-nchw"]
#: A library without kernels, as another commit could be.
LIBRARY = """
import torch
from torch.nn.functional import conv2d

__version__ = "0.0.1"


def fused_gcn(x, w_l1, w_l2, w_r1, w_r2, b_l1=None, b_l2=None, b_r1=None, b_r2=None, *, backend, algo):
    k = w_l1.shape[2] // 2
    left = conv2d(conv2d(x, w_l1, b_l1, padding=(k, 0)), w_l2, b_l2, padding=(0, k))
    return left + conv2d(conv2d(x, w_r1, b_r1, padding=(0, k)), w_r2, b_r2, padding=(k, 0))
"""
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "BACKEND"

[project]
name = "gcn-kernels"
version = "0.0.1"
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    run = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return run.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose first commit, ``works``, is the library above, and whose second does not build."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = tmp_path / "checkout"
    (folder / "gcn_kernels").mkdir(parents=True)
    (folder / "gcn_kernels" / "__init__.py").write_text(LIBRARY)
    (folder / "pyproject.toml").write_text(PROJECT.replace("BACKEND", "setuptools.build_meta"))
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "Works")
    git(folder, "tag", "works")
    (folder / "pyproject.toml").write_text(PROJECT.replace("BACKEND", "no_such_backend"))
    git(folder, "commit", "--quiet", "-a", "-m", "Does not build")
    monkeypatch.setattr(base, "CHECKOUT", folder)
    return folder


@pytest.fixture(scope="module")
def process() -> Iterator[base.Process]:
    """This very package in a process of its own."""
    with base.Process(Path(gcn_kernels.__file__).parents[1]) as process:
        yield process


@pytest.mark.parametrize("layout", ["NCHW", "channels_last"])
@pytest.mark.parametrize("mode", ["fwd", "bwd", "fwdbwd"])
def test_the_other_process_computes_the_same_bits(process: base.Process, mode: str, layout: str) -> None:
    assert process.version == gcn_kernels.__version__
    inputs = make_inputs(PROBLEM, CPU, seed=0).laid_out(layout)
    call = base.variant("0123456789abcdef", "cpu", "auto", layout, process).prepare(inputs, mode)
    with mode_context(mode):
        expected = torch_call(operator("cpu", "auto"), inputs, mode)()
        found = call()
    assert len(found) == len(expected)
    for ours, theirs in zip(expected, found, strict=True):
        assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()
    assert 0 < clock.CpuClock().measure(call) < 1e4


def test_what_fails_there_is_a_reason_here_and_the_process_goes_on(process: base.Process) -> None:
    inputs = make_inputs(PROBLEM, CPU, seed=0)
    broken = base.variant("0123456789abcdef", "cuda", "auto", "NCHW", process)
    with pytest.raises(UnavailableError, match="RuntimeError: backend='cuda' cannot run"):
        broken.prepare(inputs, "fwd")()
    right = base.variant("0123456789abcdef", "cpu", "direct", "NCHW", process)
    assert right.name == "base 0123456 cpu direct NCHW"
    assert len(right.prepare(inputs, "fwd")()) == 1


def test_a_process_that_dies_or_does_not_start_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gcn_kernels").mkdir()
    (tmp_path / "gcn_kernels" / "__init__.py").write_text("raise ImportError('no libc')")
    with pytest.raises(base.BaseError, match=r"does not load: ImportError: no libc"):
        base.Process(tmp_path)
    (tmp_path / "gcn_kernels" / "__init__.py").write_text("import os\nprint('library speaks')\nos._exit(3)")
    with pytest.raises(base.BaseError, match="has ended with status 3"):
        base.Process(tmp_path)
    printed = capfd.readouterr()
    assert "library speaks" not in printed.out, "it would have got between the answers"


def test_a_commit_is_built_once_and_compared_in_every_row(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, path = tmp_path / "cache", tmp_path / "out.json"
    command = [*TINY, "--mode", "fwd", "fwdbwd", "--base", "works", "--base-cache", str(cache), "--json", str(path)]
    assert bench_gcn.main(command) == 0
    printed = capsys.readouterr().out
    commit = git(checkout, "rev-parse", "works")
    assert f"building it in {cache}" in printed and f"commit {commit[:12]}, works" in printed
    assert [p.name.startswith(commit[:12]) for p in cache.iterdir()] == [True], "nothing else is left there"
    assert git(checkout, "status", "--porcelain") == ""

    content = json.loads(path.read_text())
    rows = [Row(**fields) for fields in content["rows"]]
    names = [f"base {commit[:7]} {layout}" for layout in ("NCHW", "channels_last")]
    for mode in ("fwd", "fwdbwd"):
        of_mode = [row for row in rows if row.mode == mode]
        assert [row.kind for row in of_mode] == ["floor", "baseline", "base", "base", "fused", "fused"]
        assert all(row.status == "ok" for row in of_mode)
        others, ours = of_mode[2:4], of_mode[4:]
        assert [row.backend for row in others] == [row.base for row in ours] == names
        for other, own in zip(others, ours, strict=True):
            ratios = [b / o for b, o in zip(other.times_ms, own.times_ms, strict=True)]
            assert (own.ratio_base, own.ratio_base_p20, own.ratio_base_p80) == clock.spread(ratios)
            assert own.error is not None and other.error is not None and other.peak_bytes is None
        best = of_mode[1].ms
        assert best is not None and all(row.ms and row.ratio == pytest.approx(best / row.ms) for row in ours), "not the base's"
    means = [mean for mean in content["geometric_means"] if mean["ratio_base"] is not None]
    assert len(means) == 4 and all(mean["kind"] == "fused" for mean in means)
    assert all(f"  x base: {row.ratio_base:.3f}" in printed for row in rows if row.kind == "fused")
    assert printed.count(" x base, batch 1, k 3, float32") == 4

    said: list[str] = []
    assert base.build(base.find("works", cache), said.append).parent == cache
    assert said[0].startswith(f"base {commit[:7]}: built before, in {cache}")


def test_lines_fit_a_terminal() -> None:
    row = Row("res-2", 1, 1, 1, 1, 1, 1, 15, "float32", "fwd", "base 0123456 channels_last", "base", ms=12.3, ms_p20=12.2)
    row.ms_p80, row.times_ms, row.gflops, row.percent_of_floor, row.ratio, row.error = 12.4, [12.3] * 2, 1.0, 1.0, 1.0, 1e-7
    name, numbers = row.line().splitlines()
    assert name == "base 0123456 channels_last" and numbers.strip().startswith("12.3 [12.2, 12.4]")
    row.status, row.reason = "unavailable", "TypeError: " + "long " * 20
    assert row.line().splitlines()[:2] == [name, " " * 24 + "not run: TypeError: long long long long long long long"[:56]]
    assert all(len(line) <= report.WIDTH for line in row.line().splitlines())
    ours = Mean(1, 15, "float32", "fwdbwd", "fused cpu direct channels_last", "fused", 4, 4, 1.0, 1.0, 1.0, 1.01, 100.0)
    table = report.means_table([ours]).splitlines()
    assert all(len(line) <= report.WIDTH for line in table) and table[-1].strip() == "1.010 x base, batch 1, k 15, float32"


def test_a_build_that_fails_shows_its_last_lines(checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "cache"
    assert bench_gcn.main([*TINY, "--base", "HEAD", "--base-cache", str(cache)]) == 1
    error = capsys.readouterr().err
    assert "--base HEAD: " in error and "its last lines:" in error and "no_such_backend" in error
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "no-such-branch"], "--base no-such-branch: expected a commit, branch or tag of"),
        (["--base=--all"], "--base --all: expected a commit, branch or tag of"),
        (["--base", "works", "--base-cache", "checkout/cache"], "expected a folder outside of the checkout"),
        (["--base-cache", "cache"], "--base-cache: is of use with --base REF only"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(checkout.parent)
    with pytest.raises(SystemExit) as stop:
        bench_gcn.main([*TINY, *arguments])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_copy_without_its_repository_has_no_other_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "CHECKOUT", tmp_path / "copy")
    (tmp_path / "copy").mkdir()
    with pytest.raises(base.BaseError, match="is not a git checkout: clone the repository"):
        base.find("HEAD", tmp_path / "cache")


def test_on_a_gpu_it_is_a_mistake_in_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    parser = options.parser("")
    with pytest.raises(SystemExit):
        options._base(parser, parser.parse_args(["--base", "HEAD"]), torch.device("cuda"))
    assert "two commits are compared on a CPU only so far" in capsys.readouterr().err


@pytest.mark.parametrize(("spins", "sleeps"), [(0, 1), (3, 4), (1000, 50)])
def test_threads_that_spin_are_waited_for(monkeypatch: pytest.MonkeyPatch, spins: int, sleeps: int) -> None:
    """On a clock of its own: the processor's time grows for so many pauses; half a second is the most that is waited."""
    passed: list[float] = []
    fake = SimpleNamespace(
        perf_counter=lambda: sum(passed), process_time=lambda: sum(passed[:spins]), sleep=lambda seconds: passed.append(seconds)
    )
    monkeypatch.setattr(clock, "time", fake)
    clock.wait_until_idle(0.4999)
    assert len(passed) == sleeps


@pytest.mark.proof
def test_the_commit_that_is_checked_out_is_built_and_compared(tmp_path: Path) -> None:
    """The whole of it, on this repository: takes as long as compiling the CPU library."""
    if shutil.which("git") is None or not (base.CHECKOUT / ".git").exists():
        pytest.skip("needs a git checkout")
    path = tmp_path / "out.json"
    command = [*TINY, "--mode", "fwd", "--base", "HEAD", "--base-cache", str(tmp_path / "cache"), "--json", str(path)]
    assert bench_gcn.main(command) == 0
    rows = [Row(**fields) for fields in json.loads(path.read_text())["rows"]]
    assert [row.status for row in rows if row.kind == "base"] == ["ok", "ok"]
    assert [row.base is not None for row in rows if row.kind == "fused"] == [True, True]


def test_a_variant_names_its_base() -> None:
    assert fused("cpu", "auto", "NCHW", CPU).base is None
    assert fused("cpu", "direct", "NCHW", CPU, "0123456789").base == "base 0123456 cpu direct NCHW"
