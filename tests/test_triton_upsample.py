"""The doubling's Triton kernels, compiled for every architecture with no GPU; in traced graphs: test_triton_traced.py."""

import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter takes the compiler's place in this process", allow_module_level=True)

from suites import in_suites
from test_triton_compile import ANY_MATRIX_INSTRUCTION, ARITHMETIC, LAYOUTS, SHARED
from triton_launches import Launch, compile_for, recording

from gcn_kernels.triton.upsample import ops

PRODUCTS = ("double", "input_gradient", "weight_gradient")
FORWARD, BACKWARD = ["pack", "double"], ["pack", "input_gradient", "weight_gradient", "finish"]


def record(
    monkeypatch: pytest.MonkeyPatch, capability: int, sizes: tuple[int, ...], kind: str, layout: torch.memory_format
) -> list[Launch]:
    """Every launch of the forward and the backward pass of a problem n, c, o, h, w."""
    launches = recording(monkeypatch, capability)
    (n, c, o, h, w), (dtype, allow_tf32) = sizes, ARITHMETIC[kind]
    x = torch.empty((n, c, h, w), dtype=dtype, device="meta").to(memory_format=layout)
    weight = torch.empty((c, o, 4, 4), dtype=dtype, device="meta")
    bias = torch.empty(o, dtype=dtype, device="meta")
    y = ops.forward(x, weight, bias, layout == torch.channels_last, allow_tf32)
    ops.backward(y, x, weight, 0b111, allow_tf32)
    return launches


@pytest.mark.parametrize("sizes", [(16, 21, 21, 256, 256), (4, 256, 128, 64, 64)], ids=["paper", "wide"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ARITHMETIC)
@pytest.mark.parametrize("capability", in_suites(SHARED, everyday=lambda capability: capability == 90))
def test_no_spills_and_matrix_instructions(
    capability: int, kind: str, layout: str, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    launches = record(monkeypatch, capability, sizes, kind, LAYOUTS[layout])
    assert [launch.name for launch in launches] == FORWARD + BACKWARD
    for launch in {launch.key: launch for launch in launches}.values():
        compiled = compile_for(launch, capability)
        what = f"{launch.name} for sm_{capability} with {launch.meta}"
        assert compiled.count(r"\b(LDL|STL)\b") == 0, f"{what}: spills registers ({compiled.resources})"
        assert compiled.shared_bytes <= SHARED[capability], f"{what}: {compiled.shared_bytes} bytes of shared memory"
        if launch.name in PRODUCTS:
            assert (compiled.count(ANY_MATRIX_INSTRUCTION) > 0) == (kind != "ieee"), what


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (1, 1, 40, 1, 9), (3, 40, 1, 9, 1)], ids=str)
def test_sizes_of_one(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The JIT makes constants of arguments that are 1."""
    for launch in {
        launch.key: launch for launch in record(monkeypatch, 90, sizes, "16", torch.contiguous_format)
    }.values():  # fmt: skip
        assert compile_for(launch, 90).cubin


def test_launches_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is for a gradient that nobody asked for."""
    launches = recording(monkeypatch, 90)
    x, weight, dy = (torch.empty(s, device="meta") for s in ((2, 5, 6, 7), (5, 4, 4, 4), (2, 4, 12, 14)))
    asked = {0: [], 1: BACKWARD[:2], 2: BACKWARD[2:], 4: [], 3: BACKWARD}
    for wanted, expected in asked.items():
        launches.clear()
        ops.backward(dy, x, weight, wanted, False)
        assert [launch.name for launch in launches] == expected


def test_tiles_waste_little_of_the_maps_that_there_are() -> None:
    for size in (64, 128, 256, 512):
        rows, columns = ops.tiling(64, size + 1, size + 1)
        covered = -(-(size + 1) // rows) * rows * -(-(size + 1) // columns) * columns
        assert covered <= 1.31 * (size + 1) ** 2 and columns >= 8
    assert ops.tiling(64, 2, 301)[0] <= 2 and ops.tiling(64, 301, 2)[1] == 4
