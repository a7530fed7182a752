"""The host file of the CUDA operators, ``gcn_cuda.cpp``, over emulated kernels: what it allocates, passes on and returns.

What the kernels compute has tests of its own; here it is strides, layouts, types, empty batches and what is wanted.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import emulator
import pytest
import torch
from ahead import Job
from cases import INPUTS, SMALL, Block, Case, make
from rule import check, expect, expect_case
from torch import Tensor
from views import VIEWS

from gcn_kernels import reference
from gcn_kernels.core.library import SCHEMAS
from gcn_kernels.gcn.spec import GCN

reason = emulator.why_not()
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))
EVERYTHING = 0b111111111


def ahead(items: object) -> list[Job]:
    return emulator.OPERATOR.jobs()


@cache
def operators() -> Any:
    for operator in GCN.schemas:
        name, _, signature = SCHEMAS[operator].partition("(")
        torch.library.define(name.replace("gcn_kernels", "gcn_emulated"), f"({signature}")
    torch.ops.load_library(emulator.host_library())
    return torch.ops.gcn_emulated


def run(block: Block, channels_last: bool = False, wanted: int = EVERYTHING) -> dict[str, Tensor]:
    """The result, the middle maps, and the gradients that are wanted."""
    with torch.no_grad():
        y, u_l, u_r = operators().gcn(*block.arguments, channels_last, False, False, "auto")
        saved = (block.dy, block.x, u_l, u_r, *block.weights, block.biases[0], block.biases[2])
        gradients = operators().gcn_backward(*saved, wanted, False, "auto")
    for i, gradient in enumerate(gradients):
        assert gradient.numel() == 0 or wanted >> i & 1
    named = {name: g for i, (name, g) in enumerate(zip(INPUTS, gradients, strict=True)) if wanted >> i & 1}
    return {"y": y, "u_l": u_l, "u_r": u_r, **named}


def results(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in found.items() if not name.startswith("u_")}


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes_and_layouts(dtype: torch.dtype, layout: str) -> None:
    block = make(SMALL, dtype).in_layout(layout)
    found = run(block, layout == "channels_last")
    check(results(found), expect_case(SMALL, dtype))
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert found["y"].is_contiguous(memory_format=form) and found["y"].dtype == dtype
    for name, mid in (("u_l", SMALL.mid_l), ("u_r", SMALL.mid_r)):
        u = found[name]
        assert u.shape == (SMALL.n, SMALL.h, SMALL.w, 8) and u.dtype == dtype and u.is_contiguous()
        assert u[..., :mid].abs().sum() > 0 and (u[..., mid:] == 0).all()


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("of", ["x", "dy", "weights", "biases"])
def test_strides(of: str, view: Callable[[Tensor], Tensor]) -> None:
    """Any strides are read, and gradients have those that empty_like gives."""
    plain = make(Case("strided", n=2, c=16, h=9, w=8), torch.float32)
    changes: dict[str, Any] = {"x": view(plain.x), "dy": view(plain.dy)}
    changes["weights"] = tuple(view(w) for w in plain.weights)
    changes["biases"] = tuple(None if b is None else view(b) for b in plain.biases)
    block = replace(plain, **{of: changes[of]})
    found = run(block)
    check(results(found), expect(block))
    for name, argument in block.named.items():
        assert found[name].stride() == torch.empty_like(argument).stride()


@pytest.mark.parametrize("wanted", [0, *(1 << i for i in range(9)), 0b000011111, 0b111100000, 0b010110011])
def test_what_is_wanted(wanted: int) -> None:
    found = run(make(SMALL), wanted=wanted)
    check(results(found), expect_case(SMALL, torch.float32))
    assert len(results(found)) == 1 + wanted.bit_count()


@pytest.mark.parametrize(
    "case",
    [
        Case("batch0", n=0),
        Case("no-bias", biases=()),
        Case("only-b_r1", biases=("b_r1",)),
        Case("map1x1", h=1, w=1),
        Case("one-channel", n=1, c=1, mid_l=1, mid_r=1, out=1),
        Case("mid_l!=mid_r", mid_l=9, mid_r=2, out=4),
        Case("per-conv-k", k=(3, 11, 5, 9)),
        Case("aligned", n=1, c=64, h=16, w=16, mid_l=21, mid_r=21, out=21),
    ],
    ids=lambda case: case.name,
)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_sizes(case: Case, layout: str) -> None:
    found = run(make(case).in_layout(layout), layout == "channels_last")
    assert set(INPUTS) - set(found) == set()
    named = {name: t for name, t in results(found).items() if name in expect_case(case, torch.float32).values}
    check(named, expect_case(case, torch.float32))


def test_misaligned_storage() -> None:
    """The plan is told where data begins: maps that do not begin at a multiple of 16 bytes are not read in whole pieces."""
    plain = make(Case("aligned", n=1, c=16, h=8, w=8), torch.bfloat16)
    shifted = torch.empty(plain.x.numel() + 1, dtype=plain.x.dtype)[1:].view_as(plain.x).copy_(plain.x)
    assert shifted.data_ptr() % 16
    check(results(run(replace(plain, x=shifted))), expect(plain))


@pytest.mark.proof
def test_more_problems_than_plans_are_kept_for() -> None:
    """Every one has its own plan, also when it comes again, before and after the others have been dropped."""
    cases = [Case("", n=1, c=2, h=h, w=w, mid_l=1, mid_r=1, out=1) for h in range(1, 18) for w in range(1, 17)]
    for case in (*cases[:2], *cases, *cases[:2]):
        block = make(case)
        with torch.no_grad():
            y, *_ = operators().gcn(*block.arguments, False, False, False, "auto")
            assert torch.allclose(y, reference.gcn(*block.arguments), atol=1e-4), f"{case.h} x {case.w}"


def test_tf32_is_used_only_where_it_is_allowed() -> None:
    block = make(Case("aligned", n=1, c=64, h=16, w=16), torch.float32)
    exact = expect(block).values["y"]
    errors = []
    for allowed in (False, True):
        y, *_ = operators().gcn(*block.arguments, False, False, allowed, "auto")
        errors.append((y.double() - exact).abs().max().item())
    assert errors[0] < 1e-5 < 1e-4 < errors[1]


def test_a_failed_launch_names_its_kernel_and_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    block = make(SMALL, torch.bfloat16)
    monkeypatch.setenv("GCN_EMULATOR_REFUSES", "line_conv_kernel")
    says = r"gcn_kernels::gcn: launching line_conv \(grid \d+ x \d+ x \d+ in clusters of 1, \d+ threads, \d+ bytes"
    with pytest.raises(RuntimeError, match=says):
        run(block)
    monkeypatch.delenv("GCN_EMULATOR_REFUSES")
    check(results(run(block)), expect_case(SMALL, torch.bfloat16))


def test_the_environment_is_asked_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    block = make(SMALL, torch.bfloat16)
    run(block)
    monkeypatch.setenv("GCN_KERNELS_PLAN", "first_stage_sharing=two")
    with pytest.raises((RuntimeError, ValueError), match=r"GCN_KERNELS_PLAN: expected name=number.*first_stage_sharing=two"):
        run(block)
    monkeypatch.setenv("GCN_KERNELS_PLAN", "")
    monkeypatch.setenv("GCN_KERNELS_GENERATION", "newest")
    with pytest.raises((RuntimeError, ValueError), match="GCN_KERNELS_GENERATION: expected auto, portable or hopper, got newest"):
        run(block)


def test_refusals() -> None:
    block = make(SMALL)
    call = operators().gcn
    with pytest.raises(RuntimeError, match=r"algo: expected auto.*got fft"):
        call(*block.arguments, False, False, False, "fft")
    with pytest.raises(RuntimeError, match="b_l1: expected"):
        call(*block.arguments[:5], torch.ones(99), *block.arguments[6:], False, False, False, "auto")
    with pytest.raises(RuntimeError, match="u_l: expected the middle map"):
        saved = (block.dy, block.x, block.x, block.x, *block.weights, None, None)
        operators().gcn_backward(*saved, EVERYTHING, False, "auto")
    with pytest.raises(RuntimeError, match="expected float32, float64, bfloat16 or float16"):
        call(*(t.to(torch.int32) for t in block.arguments), False, False, False, "auto")
