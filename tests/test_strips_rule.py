"""The error rule for depthwise strips: forward and all gradients, named and drawn problems, instruction sets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import DTYPES, LAYOUTS, every_dtype, every_layout
from rule import check, evaluate, expect
from strips_cases import CASES, LSKA, MSCA, PAIR, Case, draw, make

#: Problems drawn for every run of the tests, and for a thorough one.
EVERYDAY, PROOF = 100, 1500


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@every_dtype
def test_named_problem(case: Case, dtype: torch.dtype) -> None:
    block = make(case, dtype)
    expected = expect(block)
    for layout in LAYOUTS:
        check(evaluate(block.fused, block.in_layout(layout)), expected)


def check_drawn(seed: int) -> None:
    block = make(draw(seed), DTYPES[seed % len(DTYPES)], seed)
    layout = ("nchw", "channels_last")[seed // len(DTYPES) % 2]
    check(evaluate(block.fused, block.in_layout(layout)), expect(block))


@pytest.mark.parametrize("first", range(0, EVERYDAY, 50))
def test_drawn_problems(first: int) -> None:
    for seed in range(first, first + 50):
        try:
            check_drawn(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {draw(seed)}: {error}") from error


@pytest.mark.proof
@pytest.mark.parametrize("first", range(EVERYDAY, PROOF, 100))
def test_more_drawn_problems(first: int) -> None:
    for seed in range(first, first + 100):
        try:
            check_drawn(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {draw(seed)}: {error}") from error


#: Run with an instruction set of its own, which is chosen when the library is first used.
OTHER_ISA = """
import json, sys, torch
from rule import check, evaluate, expect
from strips_cases import CASES, LSKA, MSCA, PAIR, draw, make
torch.backends.cudnn.allow_tf32 = False
done = 0
for i, case in enumerate([MSCA, PAIR, LSKA, *map(draw, range(40))]):
    for layout in ("nchw", "channels_last"):
        block = make(case, (torch.float32, torch.float64, torch.bfloat16, torch.float16)[i % 4])
        check(evaluate(block.fused, block.in_layout(layout)), expect(block))
        done += 1
print(json.dumps(done))
"""


@pytest.mark.parametrize("isa", ["avx2", "portable"])
def test_other_instruction_sets(isa: str) -> None:
    environment = {**os.environ, "GCN_KERNELS_CPU_ISA": isa}
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", OTHER_ISA], cwd=here, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == 86


@every_layout
@pytest.mark.parametrize("case", [MSCA, PAIR, LSKA], ids=lambda case: case.name)
def test_only_the_gradients_asked_for(case: Case, layout: str) -> None:
    """Each gradient alone is what it is among all, to the bit."""
    block = make(case).in_layout(layout).leaves()
    leaves = block.named
    alone = {name: torch.autograd.grad(block.fused(*block.arguments), t, block.dy)[0] for name, t in leaves.items()}
    together = torch.autograd.grad(block.fused(*block.arguments), tuple(leaves.values()), block.dy)
    for (name, one), other in zip(alone.items(), together, strict=True):
        assert torch.equal(one, other), name
