"""The Triton kernels of the strips, compiled for every architecture with no GPU; in traced graphs: test_triton_traced.py."""

import os
from collections.abc import Sequence

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter takes the compiler's place in this process", allow_module_level=True)

from strips_cases import LSKA, MSCA, Case, column, pairs, row, square
from suites import in_suites
from test_triton_compile import LAYOUTS
from triton_launches import Launch, compile_for, recording

from gcn_kernels.triton.strips import ops

#: A stem with taps on both axes and a pair whose taps leave a rest: every kind of launch that a network makes.
SEGNEXT = Case("segnext", pairs(11), square(5), skip=True, n=16, c=64, h=64, w=64)
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
#: Steps of the stem, the first and the last of a pair, and the kernels of a pass for the parameters of one step.
PARAMETERS = ["weight_gradient", "finish"]


def record(
    monkeypatch: pytest.MonkeyPatch,
    capability: int,
    case: Case,
    dtype: torch.dtype = torch.bfloat16,
    layout: torch.memory_format = torch.contiguous_format,
    wanted: Sequence[int] | None = None,
) -> list[Launch]:
    """Every launch of the forward pass, or of the backward pass for the gradients ``wanted``, of a problem."""
    launches = recording(monkeypatch, capability)

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    x = empty(case.n, case.c, case.h, case.w).to(memory_format=layout)
    weights = [empty(case.c, 1, kh, kw) for kh, kw, _ in case.steps]
    biased = [int(case.has_bias(i)) for i in range(len(weights))]
    biases = [empty(case.c) for has in biased if has]
    dilations = [d for *_, pair in case.steps for d in pair]
    form = ([len(branch) for branch in case.branches], dilations, biased, case.stem is not None, case.skip)
    if wanted is None:
        ops.forward(x, weights, biases, *form, layout == torch.channels_last)
    else:
        ops.backward(x, x, weights, biases, sum(1 << i for i in wanted), *form)
    return launches


#: Architecture, type and layout.
COMPILED = [
    *((90, dtype, layout) for dtype in DTYPES for layout in LAYOUTS if (dtype, layout) != ("bfloat16", "nchw")),
    *((capability, "bfloat16", "nchw") for capability in (80, 100, 120)),
    (80, "float32", "channels_last"),
]
EVERY_DAY = ((90, "bfloat16", "channels_last"), (90, "float32", "nchw"))


@pytest.mark.parametrize("trial", in_suites(COMPILED, everyday=lambda trial: trial in EVERY_DAY), ids=str)
def test_no_spills_and_loads_of_vectors(trial: tuple[int, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    capability, dtype, layout = trial
    launches: list[Launch] = []
    for wanted in (None, range(7)):
        launches += record(monkeypatch, capability, SEGNEXT, DTYPES[dtype], LAYOUTS[layout], wanted)
    for launch in {launch.key: launch for launch in launches}.values():
        compiled = compile_for(launch, capability)
        what = f"{launch.name} for sm_{capability} with {launch.meta}"
        assert compiled.count(r"\b(LDL|STL)\b") == 0, f"{what}: spills registers ({compiled.resources})"
        if not launch.name.startswith("convolve"):
            continue
        # Nothing but reads, products and a write: no thread waits for another.
        assert compiled.shared_bytes == 0, f"{what}: {compiled.shared_bytes} bytes of shared memory"
        vectors, loads = compiled.count(r"\bLDG\S*\.(64|128)"), compiled.count(r"\bLDG")
        if launch.name == "convolve":
            # Windows of four elements each.
            assert vectors >= launch.meta["R"] + launch.meta["T"] - 1, f"{what}: {vectors} loads of vectors"
        if capability >= 100:
            continue  # where products go by many names
        products = compiled.count(r"\bFFMA")
        if launch.name == "convolve":
            assert products == 4 * launch.meta["R"] * (launch.meta["T"] + launch.meta["REST"]), what
            assert 2 * loads < products, f"{what}: {loads} loads"
        else:
            # A load of a quad for up to four taps, and one of a weight for each.
            assert 3 * loads < products, f"{what}: {loads} loads"


@pytest.mark.parametrize(
    "case",
    [
        Case("ones", ((row(3), column(3)),), n=1, c=1, h=1, w=1),
        Case("line", ((square(3, 2), column(7)),), n=1, c=3, h=1, w=9, bias="10"),
    ],
    ids=lambda case: case.name,
)
def test_sizes_of_one_and_dilation(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The JIT makes constants of arguments that are 1."""
    launches = [launch for wanted in (None, range(3)) for launch in record(monkeypatch, 90, case, wanted=wanted)]
    for launch in {launch.key: launch for launch in launches}.values():
        assert compile_for(launch, 90).cubin


@pytest.mark.parametrize("layout", LAYOUTS)
def test_launches_of_one_call(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each convolution, with the sums in it; none for a gradient that nobody asked for."""

    def names(case: Case, wanted: Sequence[int] | None = None) -> list[str]:
        launches = record(monkeypatch, 90, case, layout=LAYOUTS[layout], wanted=wanted)
        return [launch.name.removesuffix("_rows") for launch in launches]

    assert names(MSCA) == ["convolve"] * 7
    assert names(LSKA) == ["convolve"] * 4
    # x, seven weights, seven biases. The first and the last step's input again, then a chain from its end to its start.
    assert names(MSCA, [0]) == ["convolve"] * 7
    assert names(MSCA, []) == []
    assert names(MSCA, [14]) == PARAMETERS, "the last bias needs dy alone"
    assert names(MSCA, [3]) == ["convolve", "convolve", *PARAMETERS], "a column's weight needs its input"
    assert names(MSCA, [2]) == ["convolve", "convolve", *PARAMETERS], (
        "a row's needs its input, the stem's, and its output's gradient"
    )
    assert names(MSCA, [1]) == ["convolve"] * 6 + PARAMETERS
    everything = names(MSCA, range(15))
    assert everything.count("convolve") == 1 + 3 + 7 and everything.count("weight_gradient") == 7 == everything.count("finish")


def test_kernels_of_rows_in_nchw_read_quads(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for those with a dilation along the row, of which neighbours in memory are no neighbours."""
    case = Case("rows", ((row(9), column(9), square(5), row(3, 2)),), n=1, c=8, h=9, w=9)
    names = [launch.name for launch in record(monkeypatch, 90, case)]
    assert names == ["convolve_rows", "convolve", "convolve_rows", "convolve"]
    assert {launch.name for launch in record(monkeypatch, 90, case, layout=torch.channels_last)} == {"convolve"}


def test_the_last_to_add_to_a_sum_writes_it_in_the_type_of_x(monkeypatch: pytest.MonkeyPatch) -> None:
    """All maps before that are float32."""
    launches = record(monkeypatch, 90, MSCA)
    written = [launch.arguments[4].dtype for launch in launches]
    assert written == [torch.float32] * 6 + [torch.bfloat16]
    addends = [launch.arguments[3] for launch in launches if launch.meta["ADDED"]]
    assert [launch.meta["ADDED"] for launch in launches] == [False, False, True, False, True, False, True]
    assert all(t.dtype == torch.float32 for t in addends)


def test_a_far_dilation_costs_what_the_map_does(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = (record(monkeypatch, 90, Case("far", ((row(3, d), column(3, d)),), n=1, c=8, h=9, w=9)) for d in (9, 1 << 40))
    assert [(launch.grid, launch.numbers) for launch in near] == [(launch.grid, launch.numbers) for launch in far]


def test_kernels_that_reach_too_far_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("huge", ((row(3), column(3)),), n=1 << 16, c=1, h=1 << 8, w=1 << 8)
    with pytest.raises(RuntimeError, match=r"split the batch"):
        record(monkeypatch, 90, case)
