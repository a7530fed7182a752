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
from upsample_cases import FORMS

from gcn_kernels.triton.upsample import ops

PRODUCTS = ("double", "input_gradient", "weight_gradient")
FORWARD, BACKWARD = ["pack", "double"], ["pack", "input_gradient", "weight_gradient", "finish"]
DEPTHWISE = ["double_depthwise", "input_gradient_depthwise", "weight_gradient_depthwise", "finish"]
#: Form, arithmetic and layout: every form, and both layouts of those that need the most registers. The first two every day.
OTHER_FORMS = [
    ("2x2", "16", "nchw"),
    ("3x3-depthwise", "16", "channels_last"),
    ("3x3", "16", "nchw"),
    ("3x3", "16", "channels_last"),
    ("3x3", "tf32", "channels_last"),
    ("4x4-depthwise", "16", "nchw"),
    ("4x4-depthwise", "16", "channels_last"),
    ("2x2-depthwise", "16", "nchw"),
]


def record(
    monkeypatch: pytest.MonkeyPatch,
    capability: int,
    sizes: tuple[int, ...],
    kind: str,
    layout: torch.memory_format,
    form: str = "4x4",
) -> list[Launch]:
    """Every launch of the forward and the backward pass of a problem n, c, o, h, w, with a lateral map."""
    launches = recording(monkeypatch, capability)
    (n, c, o, h, w), (dtype, allow_tf32) = sizes, ARITHMETIC[kind]
    k, depthwise = FORMS[form]
    x = torch.empty((n, c, h, w), dtype=dtype, device="meta").to(memory_format=layout)
    weight = torch.empty((c, 1 if depthwise else o, k, k), dtype=dtype, device="meta")
    bias = torch.empty(o, dtype=dtype, device="meta")
    add = torch.empty((n, o, 2 * h, 2 * w), dtype=dtype, device="meta").to(memory_format=layout)
    groups = c if depthwise else 1
    y = ops.forward(x, weight, bias, add, None, None, groups, layout == torch.channels_last, allow_tf32)
    ops.backward(y, x, weight, 0b111, groups, allow_tf32)
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
    compile_all(launches, capability, kind)


@pytest.mark.parametrize("case", in_suites(OTHER_FORMS, everyday=lambda case: case in OTHER_FORMS[:2]), ids="-".join)
@pytest.mark.parametrize("capability", in_suites(SHARED, everyday=lambda capability: capability == 90))
def test_other_forms_have_no_spills(capability: int, case: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    form, kind, layout = case
    launches = record(monkeypatch, capability, (16, 21, 21, 256, 256), kind, LAYOUTS[layout], form)
    assert [launch.name for launch in launches] == (DEPTHWISE if FORMS[form][1] else FORWARD + BACKWARD)
    compile_all(launches, capability, kind)


def compile_all(launches: list[Launch], capability: int, kind: str) -> None:
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
        ops.backward(dy, x, weight, wanted, 1, False)
        assert [launch.name for launch in launches] == expected
    by_itself = weight[:, :1]
    dy = torch.empty((2, 5, 11, 14), device="meta")  # of a result that was cropped
    for wanted, expected in {0: [], 1: DEPTHWISE[1:2], 2: DEPTHWISE[2:], 4: DEPTHWISE[2:], 7: DEPTHWISE[1:]}.items():
        launches.clear()
        ops.backward(dy, x, by_itself, wanted, 5, False)
        assert [launch.name for launch in launches] == expected


def test_weights_of_too_many_elements_are_refused() -> None:
    x, weight = torch.empty((1, 1 << 14, 1, 1), device="meta"), torch.empty((1 << 14, 1 << 13, 4, 4), device="meta")
    with pytest.raises(RuntimeError, match=r"^weight: expected fewer than 2\^31 elements with its padding, got 2147483648"):
        ops.forward(x, weight, None, None, None, None, 1, False, False)


def test_tiles_waste_little_of_the_maps_that_there_are() -> None:
    for size in (64, 128, 256, 512):
        rows, columns = ops.tiling(64, size + 1, size + 1)
        covered = -(-(size + 1) // rows) * rows * -(-(size + 1) // columns) * columns
        assert covered <= 1.31 * (size + 1) ** 2 and columns >= 8
    assert ops.tiling(64, 2, 301)[0] <= 2 and ops.tiling(64, 301, 2)[1] == 4
