"""Every Triton kernel, in every configuration of the table, compiled for every architecture with no GPU.

The launches are those that the Python side makes for the paper's problem. What is asserted are bounds: they hold for every
supported version of Triton, where counts of instructions differ.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from cases import Case, paper

pytest.importorskip("triton")
import os

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter takes the compiler's place in this process", allow_module_level=True)

from suites import in_suites
from triton_launches import Launch, compile_for, record

from gcn_kernels.triton import config, plan

#: Bytes of shared memory that one program may have.
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
#: What a 16-bit matrix product becomes.
MATRIX_INSTRUCTION = {80: r"\bHMMA", 90: r"\bHGMMA", 100: r"\bUTC\w*MMA|\bHMMA", 120: r"\bHMMA"}
ANY_MATRIX_INSTRUCTION = r"\b(HMMA|HGMMA|UTC\w*MMA)"
ARITHMETIC = {"16": (torch.bfloat16, False), "tf32": (torch.float32, True), "ieee": (torch.float32, False)}
LAYOUTS = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}
PAPER = Case("res2", n=16, c=256, h=128, w=128, mid_l=21, mid_r=21, out=21, k=(15, 15, 15, 15))
#: Splits of the channels, and taps that a group leaves over.
DEEP = paper("res5", c=2048, size=16, k=7, classes=21)
WIDE = Case("wide", n=2, c=512, h=32, w=32, mid_l=512, mid_r=512, out=512, k=(7, 7, 7, 7))
#: The JIT makes constants of arguments that are 1, here in one branch and not in the other.
ONES = Case("ones", n=1, c=1, h=1, w=9, mid_l=1, mid_r=20, out=1, k=(1, 15, 7, 1))
SMALL_KERNELS = ("pack", "sum_splits")
PRODUCTS = ("fork", "join", "weight_gradient")


@pytest.fixture(autouse=True)
def _no_stored_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> Iterator[None]:
    monkeypatch.setenv(config.ENVIRONMENT, f"{tmp_path}/none.json")
    config.choose.cache_clear()
    plan.constants.cache_clear()
    yield
    config.choose.cache_clear()
    plan.constants.cache_clear()


def check(launch: Launch, capability: int, kind: str, case: Case) -> None:
    """No spills, enough shared memory, matrix instructions where there should be some, and asynchronous copies of x."""
    compiled = compile_for(launch, capability)
    what = f"{launch.name} for sm_{capability} with {launch.meta}"
    assert compiled.count(r"\b(LDL|STL)\b") == 0, f"{what}: spills registers ({compiled.resources})"
    assert compiled.resources["registers"] <= 255
    assert compiled.shared_bytes <= SHARED[capability], f"{what}: {compiled.shared_bytes} bytes of shared memory"
    if launch.name in PRODUCTS:
        matrix = compiled.count(MATRIX_INSTRUCTION[capability] if kind == "16" else ANY_MATRIX_INSTRUCTION)
        assert (matrix > 0) == (kind != "ieee"), f"{what}: {matrix} matrix instructions"
        # What moves y or dy has 21 channels in a row, too few for the copies of 16 bytes that pipelining takes.
        if kind != "ieee" and case.c in launch.numbers:
            assert compiled.count(r"\bLDGSTS") > 0, f"{what}: loads are not pipelined"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ARITHMETIC)
@pytest.mark.parametrize("capability", in_suites(SHARED, everyday=lambda capability: capability == 90))
def test_products_of_the_paper(capability: int, kind: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launches = record(monkeypatch, capability, PAPER, ARITHMETIC[kind][0], LAYOUTS[layout], ARITHMETIC[kind][1])
    products = {launch.key: launch for launch in launches if launch.name in PRODUCTS}
    assert {launch.name for launch in products.values()} == set(PRODUCTS)
    for launch in products.values():
        check(launch, capability, kind, PAPER)


@pytest.mark.parametrize("case", in_suites([DEEP, WIDE], everyday=lambda case: case is DEEP), ids=lambda case: case.name)
def test_other_shapes_of_a_launch(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Split channels, taps left over, one tap a product; every small kernel."""
    launches = record(monkeypatch, 90, case, torch.bfloat16, torch.channels_last, False)
    different = {launch.key: launch for launch in launches}
    forks = [launch for launch in different.values() if launch.name == "fork"]
    assert any(launch.meta["LEFT_OVER"] for launch in forks)
    assert case is WIDE or any(launch.meta["PARTIAL"] for launch in forks)
    assert {launch.name for launch in different.values()} == {*PRODUCTS, *SMALL_KERNELS}
    for launch in different.values():
        check(launch, 90, "16", case)


@pytest.mark.parametrize("case", [ONES, replace(ONES, mid_l=20, mid_r=1, h=9, w=1, k=(15, 1, 1, 15))], ids=["v", "h"])
def test_sizes_of_one(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    launches = record(monkeypatch, 90, case, torch.bfloat16, torch.contiguous_format, False)
    for launch in {launch.key: launch for launch in launches}.values():
        assert compile_for(launch, 90).cubin


def test_fp16_compiles_like_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    for launch in record(monkeypatch, 90, PAPER, torch.float16, torch.channels_last, False):
        if launch.name == "fork":
            check(launch, 90, "16", PAPER)


def test_every_entry_of_the_table_has_been_compiled() -> None:
    """AMD's entries cannot be: there is no assembler for them here."""
    families = {config.family(f"sm_{capability}") for capability in SHARED}
    assert {(f, kind) for f in families for kind in ARITHMETIC} == {entry for entry in config.TABLE if entry[0] != "amd"}


def test_a_check_would_see_spills(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile that is far too large for its warps is reported."""
    (launch, *_) = (
        one for one in record(monkeypatch, 80, PAPER, torch.bfloat16, torch.channels_last, False) if one.name == "join"
    )
    too_large = Launch(launch.kernel, launch.grid, launch.arguments, {**launch.meta, "P": 256, "N": 256, "num_warps": 4})
    with pytest.raises((AssertionError, RuntimeError)):
        check(too_large, 80, "16", PAPER)
