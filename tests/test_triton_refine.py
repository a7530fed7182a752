"""The refinement's Triton kernels, compiled for every architecture with no GPU; in traced graphs: test_triton_traced.py."""

import importlib.util
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter takes the compiler's place in this process", allow_module_level=True)

from suites import in_suites
from test_triton_compile import ANY_MATRIX_INSTRUCTION, ARITHMETIC, LAYOUTS, SHARED
from triton_launches import Launch, compile_for, recording

from gcn_kernels import backends, fused_refine
from gcn_kernels.refine import functional
from gcn_kernels.triton.refine import kernels, ops

PRODUCTS = ("refine", "gradients")
#: n, c, m, h, w: the paper's, one that small tiles are for, and one with many channels.
SIZES = {"paper": (16, 21, 21, 256, 256), "small": (1, 21, 21, 64, 64), "wide": (4, 256, 128, 64, 64)}
FORWARD = ["pack", "pack", "refine"]
BACKWARD = ["pack", "pack", "pack", "gradients", "finish", "finish"]


def record(
    monkeypatch: pytest.MonkeyPatch, capability: int, sizes: tuple[int, ...], kind: str, layout: torch.memory_format
) -> list[Launch]:
    """Every launch of the forward and the backward pass of a problem n, c, m, h, w."""
    launches = recording(monkeypatch, capability)
    (n, c, m, h, w), (dtype, allow_tf32) = sizes, ARITHMETIC[kind]
    x = torch.empty((n, c, h, w), dtype=dtype, device="meta").to(memory_format=layout)
    w1, w2, b1, b2 = (torch.empty(s, dtype=dtype, device="meta") for s in ((m, c, 3, 3), (c, m, 3, 3), (m,), (c,)))
    y = ops.forward(x, w1, w2, b1, b2, layout == torch.channels_last, allow_tf32)
    ops.backward(y, x, w1, w2, b1, 0b11111, allow_tf32)
    return launches


#: The paper's problem in every arithmetic for every architecture, and what else may need other registers.
COMPILED = [
    *((capability, kind, "paper", "nchw") for capability in SHARED for kind in ARITHMETIC),
    *((capability, "16", "paper", "channels_last") for capability in (80, 90)),
    *((capability, kind, "wide", "channels_last") for capability in (80, 90) for kind in ARITHMETIC),
    (90, "16", "small", "nchw"),
]


@pytest.mark.parametrize(
    "which",
    in_suites(COMPILED, lambda which: which[0] == 90 and which[2:] == ("paper", "nchw")),
    ids=lambda w: "-".join(map(str, w)),
)
def test_no_spills_and_matrix_instructions(which: tuple[int, str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    capability, kind, sizes, layout = which
    launches = record(monkeypatch, capability, SIZES[sizes], kind, LAYOUTS[layout])
    assert [launch.name for launch in launches] == FORWARD + BACKWARD
    for launch in {launch.key: launch for launch in launches}.values():
        compiled = compile_for(launch, capability)
        what = f"{launch.name} for sm_{capability} with {launch.meta}"
        assert compiled.count(r"\b(LDL|STL)\b") == 0, f"{what}: spills registers ({compiled.resources})"
        assert compiled.shared_bytes <= SHARED[capability], f"{what}: {compiled.shared_bytes} bytes of shared memory"
        if launch.name in PRODUCTS:
            assert (compiled.count(ANY_MATRIX_INSTRUCTION) > 0) == (kind != "ieee"), what


@pytest.mark.parametrize("sizes", in_suites([(1, 1, 1, 1, 1), (1, 1, 40, 1, 9)], lambda sizes: sizes[2] == 1), ids=str)
def test_sizes_of_one(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The JIT makes constants of arguments that are 1."""
    for launch in {
        launch.key: launch for launch in record(monkeypatch, 90, sizes, "16", torch.contiguous_format)
    }.values():  # fmt: skip
        assert compile_for(launch, 90).cubin


def test_launches_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is for a gradient that nobody asked for."""
    launches = recording(monkeypatch, 90)
    x, w1, w2, dy = (torch.empty(s, device="meta") for s in ((2, 5, 6, 7), (4, 5, 3, 3), (5, 4, 3, 3), (2, 5, 6, 7)))
    packs = {0: 0, 0b00001: 3, 0b00010: 2, 0b00100: 1, 0b01000: 2, 0b10000: 0, 0b00111: 3}
    for wanted, packed in packs.items():
        launches.clear()
        ops.backward(dy, x, w1, w2, None, wanted, False)
        finished = ["finish"] * ((wanted >> 1 & 1) + (wanted >> 2 & 1))
        expected = [*["pack"] * packed, "gradients", *finished] if wanted & 0b1111 else []
        assert [launch.name for launch in launches] == expected


def test_tiles_waste_little_and_fill_the_gpu() -> None:
    for size in (64, 128, 256, 512):
        for images in (1, 16):
            found = ops.tiling((512, 64), images, size, size, 528)
            assert found.tiles * found.rows * found.columns == images * size**2
            assert found.tiles >= 264 or found.rows * found.columns == 64
    assert ops.tiling((512, 64), 1, 1, 300, 528).rows == 1 and ops.tiling((512, 64), 1, 300, 1, 528).columns == 1
    assert ops.tiling((512, 64), 16, 512, 512, 264, most=54).programs == 54


def test_explicit_request_says_why_it_cannot_run_and_auto_does_not_choose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w1, w2 = torch.zeros(1, 2, 3, 3), torch.zeros(4, 2, 3, 3), torch.zeros(2, 4, 3, 3)
    with pytest.raises(RuntimeError, match="backend='triton' cannot run: the tensors are on device cpu; use backend='auto'"):
        fused_refine(x, w1, w2, backend="triton")
    monkeypatch.setattr(backends, "why_not", lambda backend, *_: "no" if backend == "cpu" else None)
    assert backends.choose("auto", "auto", x, functional.KERNELS, functional.UNASKED) == "torch"
    assert backends.choose("triton", "auto", x, functional.KERNELS, functional.UNASKED) == "triton"


def unguarded(ptx: str) -> int:
    """Loads from global memory that follow a store to it with no barrier between, in the order of the text."""
    found, stored = 0, False
    for match in re.finditer(r"bar\.sync|st\.global|ld\.global", ptx):
        if match[0] == "ld.global":
            found += stored
        else:
            stored = match[0] == "st.global"
    return found


def test_barriers_stand_between_what_is_written_and_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The scratch is written by some threads of a program and read by others: the compiler has to leave the barriers there."""
    launches = record(monkeypatch, 90, SIZES["paper"], "16", torch.channels_last)
    launch = next(one for one in launches if one.name == "refine")
    assert unguarded(compile_for(launch, 90).ptx) == 0

    changed = tmp_path / "changed.py"
    changed.write_text(Path(str(kernels.__file__)).read_text().replace("tl.debug_barrier()", "pass"))
    spec = importlib.util.spec_from_file_location("changed", changed)
    assert spec is not None and spec.loader is not None
    without = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(without)
    assert unguarded(compile_for(replace(launch, kernel=without.refine), 90).ptx) > 0
