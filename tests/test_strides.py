"""Any strides go in; the strides that come out are those that four convolutions give."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from cases import DTYPES, SMALL, WEIGHTS, Block, Case, make
from implementations import Implementation, every_backend, every_compiled_backend, every_implementation, every_kernel
from rule import check, evaluate, expect
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch._subclasses import FakeTensorMode
from views import DENSE, VIEWS

from gcn_kernels import fused_gcn, reference
from gcn_kernels.core.checks import is_channels_last

#: Dimensions of size one make strides ambiguous; each case removes one or more dimensions of SMALL.
SIZES = {
    "all>1": {},
    "N=1": {"n": 1},
    "N=0": {"n": 0},
    "C=1": {"c": 1},
    "H=1": {"h": 1},
    "W=1": {"w": 1},
    "H=W=1": {"h": 1, "w": 1},
    "O=1": {"out": 1},
    "M=1": {"mid_l": 1, "mid_r": 1},
    "C=O=M=1": {"c": 1, "out": 1, "mid_l": 1, "mid_r": 1},
    "N=C=1": {"n": 1, "c": 1},
    "k=1": {"k": (1, 1, 1, 1)},
}
#: Which weights are channels_last, as after ``module.to(memory_format=torch.channels_last)`` or in part.
CONVERTED = [(), WEIGHTS, *((name,) for name in WEIGHTS)]

every_size = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


def test_layouts_are_told_as_pytorch_tells_them() -> None:
    memory = torch.empty(300)
    for sizes in product((0, 1, 2, 3), (1, 2), (1, 3), (1, 2)):
        for strides in product((0, 1, 2, 6, 12, 36), repeat=4):
            t = memory.as_strided(sizes, strides)
            expected = suggest_memory_format(t) is torch.channels_last
            assert is_channels_last(t) == expected, (sizes, strides)


def layout(t: Tensor) -> tuple[int | None, ...]:
    """The strides that address an element; in a dimension of size one, or without any element, they mean nothing."""
    return tuple(stride if size > 1 and t.numel() else None for size, stride in zip(t.shape, t.stride(), strict=True))


def converted(block: Block, x_view: str, names: tuple[str, ...]) -> Block:
    weights = tuple(DENSE["channels_last"](w) if name in names else w for name, w in zip(WEIGHTS, block.weights, strict=True))
    return replace(block, x=VIEWS[x_view](block.x), weights=weights)


def by_layouts(block: Block) -> dict[str, Block]:
    """The block in every combination of a view of ``x`` and channels_last weights."""
    return {f"x {view}, channels_last {names}": converted(block, view, names) for view, names in product(VIEWS, CONVERTED)}


@every_backend
@every_size
def test_output_strides_are_those_of_four_convolutions(sizes: dict, run: Implementation) -> None:
    found, expected = {}, {}
    for name, block in by_layouts(make(replace(SMALL, **sizes)).to(run.device)).items():
        found[name] = layout(run(*block.arguments))
        expected[name] = layout(reference.gcn(*block.arguments))
    assert found == expected


@every_backend
@pytest.mark.parametrize("view", VIEWS)
def test_output_strides_without_a_batch(view: str, run: Implementation) -> None:
    block = make(SMALL).to(run.device)
    x = VIEWS[view](block.x)[0]
    expected = reference.gcn(x, *block.arguments[1:])
    y = run(x, *block.arguments[1:])
    assert (y.shape, y.stride()) == (expected.shape, expected.stride())


@every_compiled_backend
@every_size
def test_fake_kernel_gives_the_real_strides(sizes: dict, run: Implementation) -> None:
    found, expected = {}, {}
    for name, block in by_layouts(make(replace(SMALL, **sizes)).to(run.device)).items():
        real = evaluate(run, block)
        with FakeTensorMode() as mode:
            fake = evaluate(run, block.map(mode.from_tensor))
        expected[name] = {key: (t.shape, t.stride() if t.numel() else None, t.dtype) for key, t in real.items()}
        found[name] = {key: (t.shape, t.stride() if t.numel() else None, t.dtype) for key, t in fake.items()}
    assert found == expected


def test_meta_tensors_give_the_real_shape_and_strides() -> None:
    for block in by_layouts(make(SMALL)).values():
        y = fused_gcn(*block.to("meta").arguments)
        real = fused_gcn(*block.arguments)
        assert y.device.type == "meta" and (y.shape, y.stride()) == (real.shape, real.stride())


@every_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("view", DENSE)
def test_gradients_have_the_strides_of_their_inputs(view: str, dtype: torch.dtype, run: Implementation) -> None:
    block = make(SMALL, dtype).map(DENSE[view]).to(run.device)
    results = evaluate(run, block)
    for name, t in block.named.items():
        assert results[name].stride() == t.stride(), name


@every_implementation
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("view", VIEWS)
def test_values_do_not_depend_on_strides(view: str, dtype: torch.dtype, run: Implementation) -> None:
    block = make(SMALL, dtype).map(VIEWS[view])
    check(evaluate(run, block.to(run.device)), expect(block))


@every_kernel
def test_offsets_beyond_32_bits(tmp_path: Path, run: Implementation) -> None:
    """Two maps that lie 2**31 elements apart, in a sparse file that takes hardly any space."""
    if run.device != "cpu":
        pytest.skip("a sparse file is host memory")
    block = make(Case("far", n=2, c=3, h=4, w=5, k=(3, 3, 3, 3)))
    apart = 2**31 + 2**20
    memory = torch.from_file(str(tmp_path / "map"), shared=True, size=apart + block.x.numel() + block.dy.numel())

    def far(t: Tensor) -> Tensor:
        return memory.as_strided(t.shape, (apart, *t.stride()[1:])).copy_(t)

    check(evaluate(run, replace(block, x=far(block.x))), expect(block))
    check(evaluate(run, replace(block, dy=far(block.dy))), expect(block))
