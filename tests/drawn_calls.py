"""Draws direct calls of the registered operators, most of them wrong, and makes them: ``python drawn_calls.py FIRST COUNT``.

Run in a process of its own, because what is asked is whether a call can end it. The number of each call is printed before the
call is made, so the last one printed is the one that did. A call that returns is compared with the definition.
"""

import random
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gcn_kernels import reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OTHER_DTYPES = (torch.int8, torch.bool, torch.complex64, torch.int64, torch.float8_e4m3fn)
HUGE = (2**16, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}
Call = Callable[[], Any]


def _values(shape: list[int], dtype: torch.dtype, draw: random.Random) -> Tensor:
    t = torch.randint(-4, 5, shape).to(dtype)
    kind = draw.choice(("dense", "dense", "channels_last", "slice", "expanded"))
    if t.dim() == 4 and kind == "channels_last":
        return t.contiguous(memory_format=torch.channels_last)
    if t.dim() == 4 and kind == "slice":
        return t.repeat_interleave(2, 3)[..., ::2]
    if t.dim() == 4 and kind == "expanded" and t.numel():
        return t[..., :1].expand(shape)
    return t


def _wrong(t: Any, draw: random.Random) -> Any:
    """Something that is not what ``t`` should have been."""
    other = t if isinstance(t, Tensor) else torch.ones(3)
    kind = draw.randrange(8)
    if kind == 0:
        return other.to(draw.choice(DTYPES + OTHER_DTYPES))
    if kind == 1:
        return other.reshape(-1).reshape([*reversed(other.shape)])
    if kind == 2:
        return other.unsqueeze(0)
    if kind == 3:
        return other[:0]
    if kind == 4:
        return other.to("meta")
    if kind == 5 and other.dim() == 4:
        return other.narrow(draw.randrange(4), 0, 0)
    if kind == 6:
        return other.new_empty(()).expand([draw.choice((1, 2, 2**10, 2**15)) for _ in range(other.dim())])
    return other.flatten()


def _block(draw: random.Random) -> tuple[list[Any], list[int], torch.dtype]:
    """x, four weights and four biases of a block that is right, its sizes, and their dtype."""
    small = lambda: draw.choice((1, 1, 2, 3, 5, 9))  # noqa: E731
    odd = lambda: draw.choice((1, 3, 5, 15, 31))  # noqa: E731
    n, c, h, w, m_l, m_r, o = draw.choice((0, 1, 1, 2)), *(small() for _ in range(6))
    k1, k2, k3, k4 = (odd() for _ in range(4))
    if draw.random() < 0.2:
        sizes = [n, c, h, w, m_l, m_r, o]
        sizes[draw.randrange(7)] = 0
        n, c, h, w, m_l, m_r, o = sizes
    dtype = draw.choice(DTYPES)
    shapes = [[n, c, h, w], [m_l, c, k1, 1], [o, m_l, 1, k2], [m_r, c, 1, k3], [o, m_r, k4, 1], [m_l], [o], [m_r], [o]]
    tensors: list[Any] = [_values(shape, dtype, draw) for shape in shapes]
    for i in range(5, 9):
        if draw.random() < 0.3:
            tensors[i] = None
    return tensors, [n, c, h, w, m_l, m_r, o, k1, k2, k3, k4], dtype


def draw_call(number: int) -> tuple[str, Call, Call | None]:
    """The call of that number: what it is, the call, and what it should return if it is known to be right."""
    draw = random.Random(number)
    torch.manual_seed(number)
    which = draw.choice(("gcn", "gcn", "gcn_backward", "gcn_backward", "cpu_plan", "gpu_plan", "cpu_spectra_cache"))
    operator = getattr(torch.ops.gcn_kernels, which)
    tensors, sizes, dtype = _block(draw)
    right = draw.random() < 0.25 and 0 not in sizes[1:]
    if which in ("cpu_plan", "gpu_plan"):
        if not right:
            for _ in range(draw.choice((1, 1, 2, 4))):
                sizes[draw.randrange(11)] = draw.choice((0, -1, -(2**40), 2, *HUGE))
        if draw.random() < 0.1:
            sizes = sizes[:-1]
        if which == "cpu_plan":
            arguments: list[Any] = [sizes, draw.random() < 0.3, draw.random() < 0.5]
        else:
            gpu = draw.choice(([], [132, 232448, 233472], [0, 0, 0], [1, 1, 1], [-1, 5, 5], [132, 1024, 1024, 2], [1, 2]))
            arguments = [sizes, draw.choice(("tf32", "float32", "bfloat16", "float64", "int8")), *(draw.random() < 0.5,) * 2, gpu]
        return f"{which}{tuple(arguments)}", lambda: operator(*arguments), None
    if which == "cpu_spectra_cache":
        return which, lambda: operator(draw.random() < 0.5), None
    algo = draw.choice(("auto", "direct", "fft")) if right else draw.choice(("auto", "direct", "fft", "", "winograd"))
    if which == "gcn":
        arguments = [*tensors, *(draw.random() < 0.5 for _ in range(3)), algo]
    else:
        n, _, h, w, m_l, m_r, o = sizes[:7]
        middle = torch.float64 if dtype == torch.float64 else torch.float32
        x, w_l1, w_l2, w_r1, w_r2, b_l1, _, b_r1, _ = tensors
        dy = _values([n, o, h, w], dtype, draw)
        u_l, u_r = (torch.randn(n, m, h, w).to(middle) for m in (m_l, m_r))
        wanted = (
            draw.choice((0, 511, draw.randrange(512))) if right else draw.choice((511, 0, -1, 512, 2**62, draw.randrange(512)))
        )
        arguments = [dy, x, u_l, u_r, w_l1, w_l2, w_r1, w_r2, b_l1, b_r1, wanted, False, algo]
    if not right:
        for _ in range(draw.choice((0, 1, 1, 2))):
            position = draw.choice([i for i, a in enumerate(arguments) if a is None or isinstance(a, Tensor)])
            arguments[position] = _wrong(arguments[position], draw)
    shown = [f"{list(a.shape)} {a.dtype}" if isinstance(a, Tensor) else a for a in arguments]
    expected = (
        (lambda: reference.gcn(*(None if t is None else t.double() for t in tensors))) if right and which == "gcn" else None
    )
    return f"{which}({shown})", lambda: operator(*arguments), expected


def main(first: int, count: int) -> None:
    torch.set_num_threads(1)
    returned = refused = 0
    for number in range(first, first + count):
        print(number, flush=True)
        name, call, expected = draw_call(number)
        try:
            result = call()
        except (RuntimeError, TypeError, ValueError, KeyError, MemoryError, IndexError) as error:
            refused += 1
            # Those of float64 in the frequency domain, which is not for it.
            assert expected is None or "algo='fft'" in str(error), f"{name}: refused though it is right: {error}"
            assert "csrc" not in str(error), f"{name}: the message shows where the library was built: {error}"
            continue
        returned += 1
        if expected is not None and result[0].numel():
            exact = expected()
            bound = TOLERANCE[result[0].dtype] * max(1.0, float(exact.abs().max()))
            assert float((result[0].double() - exact).abs().max()) <= bound, f"{name}: off"
    print(f"{returned} returned, {refused} refused")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
