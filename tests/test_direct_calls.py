"""No direct call of the registered operators can end the process, read memory that is not its own, or blame a source file."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import SMALL, make
from drawn_calls import draw_call
from torch import Tensor

from gcn_kernels import FusedGCN, info

OPERATORS = torch.ops.gcn_kernels
SIZES = [1, 8, 5, 5, 3, 3, 4, 3, 3, 3, 3]


def forward(**changes: object) -> tuple[Tensor, ...]:
    options = {"channels_last": False, "cache_weights": False, "allow_tf32": False, "algo": "auto"}
    return OPERATORS.gcn(**{**make(SMALL).named, **options, **changes})  # type: ignore[no-any-return]


def backward(**changes: object) -> tuple[Tensor, ...]:
    block = make(SMALL)
    _, u_l, u_r = forward()
    named = {name: t for name, t in block.named.items() if name not in ("b_l2", "b_r2")}
    options = {"wanted": 511, "allow_tf32": False, "algo": "auto"}
    return OPERATORS.gcn_backward(**{"dy": block.dy, **named, "u_l": u_l, "u_r": u_r, **options, **changes})  # type: ignore[no-any-return]


# SMALL: x [2, 12, 13, 10], w_l1 [4, 12, 5, 1], w_l2 [3, 4, 1, 7], w_r1 [6, 12, 1, 9], w_r2 [3, 6, 3, 1]
@pytest.mark.parametrize("empty", [(1,), (2,), (3,), (0, 2)], ids=["C", "H", "W", "N and H"])
@pytest.mark.parametrize("pass_", [forward, backward], ids=["forward", "backward"])
def test_sizes_of_0(pass_: object, empty: tuple[int, ...]) -> None:
    shape = [0 if d in empty else s for d, s in enumerate((2, 12, 13, 10))]
    n, c, h, w = shape
    changes = {"x": torch.zeros(shape), "w_l1": torch.zeros(4, c, 5, 1), "w_r1": torch.zeros(6, c, 1, 9)}
    if pass_ is backward:
        changes |= {"dy": torch.zeros(n, 3, h, w), "u_l": torch.zeros(n, 4, h, w), "u_r": torch.zeros(n, 6, h, w)}
    with pytest.raises(RuntimeError, match="expected sizes of at least 1"):
        pass_(**changes)  # type: ignore[operator]


@pytest.mark.parametrize(("name", "m_l", "m_r", "o"), [("M_l", 0, 6, 3), ("M_r", 4, 0, 3), ("O", 4, 6, 0)])
def test_weights_without_channels(name: str, m_l: int, m_r: int, o: int) -> None:
    weights = {"w_l1": (m_l, 12, 5, 1), "w_l2": (o, m_l, 1, 7), "w_r1": (m_r, 12, 1, 9), "w_r2": (o, m_r, 3, 1)}
    changes = {name: torch.zeros(shape) for name, shape in weights.items()}
    biases = {"b_l1": None, "b_r1": None}
    with pytest.raises(RuntimeError, match=f"expected sizes of at least 1.*{name} 0"):
        forward(**changes, **biases, b_l2=None, b_r2=None)
    maps = {"dy": torch.zeros(2, o, 13, 10), "u_l": torch.zeros(2, m_l, 13, 10), "u_r": torch.zeros(2, m_r, 13, 10)}
    with pytest.raises(RuntimeError, match=f"expected sizes of at least 1.*{name} 0"):
        backward(**changes, **biases, **maps)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.int64])
def test_dtypes_that_the_kernels_do_not_know(dtype: torch.dtype) -> None:
    block = make(SMALL).map(lambda t: t.to(dtype))
    with pytest.raises(RuntimeError, match="x: expected float32, float64, bfloat16 or float16"):
        forward(**block.named)
    named = {name: t for name, t in block.named.items() if name not in ("b_l2", "b_r2")}
    with pytest.raises(RuntimeError, match="x: expected float32, float64, bfloat16 or float16"):
        backward(**named, dy=block.dy)


@pytest.mark.parametrize("algo", ["direct", "fft"])
def test_middle_maps_of_another_shape(algo: str) -> None:
    for wrong in ((2, 4, 10, 13), (1, 4, 26, 10), (2, 4, 130, 1), (4, 2, 13, 10)):
        with pytest.raises(RuntimeError, match="u_l: expected the middle map that gcn returned"):
            backward(u_l=torch.zeros(wrong), algo=algo)
    with pytest.raises(RuntimeError, match="u_r: expected the middle map"):
        backward(u_r=torch.zeros(2, 6, 13, 10, dtype=torch.float64), algo=algo)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dy": torch.zeros(2, 3, 10, 13)}, r"dy: expected \[2, 3, 13, 10\]"),
        ({"dy": torch.zeros(2, 3, 13, 10).double()}, "dy: expected the dtype and device of x"),
        ({"b_l1": torch.zeros(5)}, r"b_l1: expected \[4\]"),
        ({"b_r1": torch.zeros(6).half()}, "b_r1: expected the dtype and device of x"),
        ({"wanted": 512}, "wanted: expected a mask"),
        ({"wanted": -1}, "wanted: expected a mask"),
        ({"algo": "winograd"}, "algo: expected auto, direct or fft, got winograd"),
    ],
    ids=str,
)
def test_what_backward_is_given(changes: dict[str, object], says: str) -> None:
    with pytest.raises(RuntimeError, match=says) as caught:
        backward(**changes)
    assert "csrc" not in str(caught.value) and ".cpp" not in str(caught.value)


def test_an_unknown_algorithm_is_an_error_for_an_empty_batch_too() -> None:
    empty = {"x": torch.zeros(0, 12, 13, 10)}
    maps = {"dy": torch.zeros(0, 3, 13, 10), "u_l": torch.zeros(0, 4, 13, 10), "u_r": torch.zeros(0, 6, 13, 10)}
    with pytest.raises(RuntimeError, match="algo: expected auto, direct or fft, got winograd"):
        forward(**empty, algo="winograd")
    with pytest.raises(RuntimeError, match="algo: expected auto, direct or fft, got winograd"):
        backward(**empty, **maps, algo="winograd")


@pytest.mark.parametrize("position", range(11))
@pytest.mark.parametrize("size", [0, -3, 2, 2**40, 2**62])
@pytest.mark.parametrize("operator", ["cpu_plan", "gpu_plan"])
def test_plans_of_sizes_that_cannot_be(operator: str, size: int, position: int) -> None:
    """Where a size is one that can be (2 channels, no images), there is a plan; else an error that names it."""
    sizes = [size if i == position else s for i, s in enumerate(SIZES)]
    options = (False, True) if operator == "cpu_plan" else ("bfloat16", False, True, [])
    can_be = (size == 2 and position < 7) or (operator, size, position) == ("cpu_plan", 0, 0)
    if can_be or (operator == "cpu_plan" and size == 2**40):
        try:
            assert getattr(OPERATORS, operator)(sizes, *options).startswith("{")
        except RuntimeError as error:
            assert not can_be and "sizes" in str(error)
        return
    with pytest.raises(RuntimeError, match="sizes"):
        getattr(OPERATORS, operator)(sizes, *options)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-3, 5), (5.5, 3), 64, (5,), (5, 6, 7), "ab", None, (2**63, 1)], ids=str)
def test_plan_of_a_size_that_is_no_map(size: object) -> None:
    with pytest.raises(ValueError, match=r"size \(H, W\): expected 2 whole numbers from 1"):
        FusedGCN(8, 4, 3).plan(size)  # type: ignore[arg-type]


def test_plan_of_more_than_64_bits_can_count() -> None:
    with pytest.raises(RuntimeError, match=r"at most 2\^48 elements.*H 1099511627776"):
        FusedGCN(8, 4, 3).plan((2**40, 2**40))
    with pytest.raises(RuntimeError, match=r"at most 2\^48 elements"):
        info.plan(8, 4, (2**30, 2**30))


def test_plans_take_numpy_integers() -> None:
    numpy = pytest.importorskip("numpy")
    module = FusedGCN(8, 4, 3)
    assert module.plan((numpy.int64(5), numpy.int32(3)), numpy.int16(2)) == module.plan((5, 3), 2)
    assert module.plan(numpy.array([5, 3])) == module.plan((5, 3))
    assert info.plan(numpy.int64(8), 4, numpy.array([5, 3]), numpy.int8(3)) == info.plan(8, 4, (5, 3), 3)


@pytest.mark.parametrize("gpu", [(0, 0, 0), (132, 0, 5), (-1, 5, 5), (1.5, 2, 3), (1, 2), 7], ids=str)
def test_plan_for_a_gpu_that_cannot_be(gpu: object) -> None:
    with pytest.raises(ValueError, match=r"gpu.*expected 3 whole numbers from 1"):
        info.plan(8, 4, (5, 5), gpu=gpu)  # type: ignore[arg-type]


def test_plan_for_a_gpu_by_name() -> None:
    assert info.plan(8, 4, (5, 5), gpu="H100") == info.plan(8, 4, (5, 5))
    with pytest.raises(ValueError, match="gpu: expected H100, H200 or three numbers, got 'A100'"):
        info.plan(8, 4, (5, 5), gpu="A100")


def run_drawn(first: int, count: int) -> None:
    command = [sys.executable, str(Path(__file__).with_name("drawn_calls.py")), str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent, timeout=3600)
    lines = done.stdout.splitlines()
    if done.returncode != 0:
        last = int([line for line in lines if line.isdecimal()][-1])
        raise AssertionError(f"exit status {done.returncode} in call {last}: {draw_call(last)[0]}\n{done.stderr[-2000:]}")
    returned, refused = (int(word) for word in lines[-1].split() if word.isdecimal())
    assert returned > count // 10 and refused > count // 3 and returned + refused == count


def test_300_drawn_calls() -> None:
    run_drawn(0, 300)


@pytest.mark.proof
def test_2000_drawn_calls() -> None:
    for first in range(300, 2300, 500):
        run_drawn(first, 500)
