"""The frequency-domain engine by itself: conv and wgrad against float64, on every instruction set of this machine."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from drawn import available_isas
from engine import Conv, Wgrad, jobs, lib

ISAS = [pytest.param(i, id=name) for i, name in enumerate(available_isas())]
# Error / largest reference value. The engine computes in float; 16-bit outputs are rounded once.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def ahead(items):
    return jobs()


@pytest.fixture(params=ISAS, autouse=True)
def isa(request):
    assert lib().set_isa(request.param)
    lib().set_threads(2)
    return request.param


def reference(x, w, axis, bias=None):
    half = w.size(2) // 2
    w, padding = (w[:, :, :, None], (half, 0)) if axis == 0 else (w[:, :, None, :], (0, half))
    return F.conv2d(x.double(), w.double(), None if bias is None else bias.double(), padding=padding)


def reference_grads(x, w, dout, axis):
    x, w = x.double().requires_grad_(), w.double().requires_grad_()
    return torch.autograd.grad(reference(x, w, axis), (x, w), dout.double())


LAYOUTS = {
    "nchw": lambda t: t.contiguous(),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "slices": lambda t: t.repeat_interleave(2, 3).repeat_interleave(3, 1)[:, ::3, :, ::2],
    "batch_innermost": lambda t: t.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
}


def poisoned(shape, layout="nchw", dtype=torch.float32):
    return LAYOUTS[layout](torch.full(shape, float("nan"), dtype=dtype))


def check(result, expected, dtype=torch.float32):
    scale = expected.abs().max().clamp_min(1e-30)
    assert ((result.double() - expected).abs().max() / scale).item() <= TOLERANCE[dtype]


def check_all(n, c, o, h, w, k, axis, layout="nchw", dtype=torch.float32):
    torch.manual_seed(0)
    x, dout = torch.randn(n, c, h, w).to(dtype), torch.randn(n, o, h, w).to(dtype)
    weight, bias = torch.randn(o, c, k) / (c * k) ** 0.5, torch.randn(o)
    x, dout = LAYOUTS[layout](x), LAYOUTS[layout](dout)
    out = Conv(axis, x.shape, weight)(x, poisoned(dout.shape, layout, dtype), bias)
    check(out, reference(x, weight, axis, bias), dtype)
    dx_reference, dw_reference = reference_grads(x, weight, dout, axis)
    dx = Conv(axis, dout.shape, weight.transpose(0, 1), flip=True)(dout, poisoned(x.shape, layout, dtype))
    check(dx, dx_reference, dtype)
    check(Wgrad(axis, x.shape, o, k)(x, dout, poisoned(weight.shape)), dw_reference)


SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (1, 3, 2, 1, 1, 5),
    (1, 16, 16, 16, 16, 15),
    (2, 37, 5, 20, 13, 7),
    (5, 7, 21, 3, 5, 3),
    (8, 24, 21, 20, 18, 15),
    (1, 70, 100, 12, 33, 9),
    (1, 256, 21, 40, 64, 15),
    (3, 8, 130, 9, 11, 25),
    (1, 2048, 21, 8, 16, 15),
]


@pytest.mark.parametrize("axis", [0, 1], ids="hw")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_shapes_and_layouts(shape, layout, axis):
    check_all(*shape, axis, layout)


@pytest.mark.parametrize("axis", [0, 1], ids="hw")
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_16_bit_images(dtype, layout, axis):
    check_all(2, 37, 21, 20, 21, 7, axis, layout, dtype)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 17, 31, 33, 100, 129, 250, 513, 1000, 4096])
@pytest.mark.parametrize("k", [1, 3, 7, 15, 31, 63, 127, 255])
def test_lines_and_taps(length, k):
    check_all(1, 3, 2, 1, length, k, 1)
    check_all(1, 3, 2, length, 2, k, 0, "channels_last")


def test_every_transform_is_reached():
    seen = {lib().plan(False, 1, 1, 64, 21, 64, w, k).length for w in range(1, 300) for k in (1, 15, 31, 63, 127, 255)}
    assert seen == {8, 16, 24, 32, 40, 48, 56, 72, 80, 96, 112, 144, 160, 224, 288}


def test_impulses():
    """One tap set to one shifts the image, one pixel set to one shows the taps."""
    x = torch.randn(1, 2, 5, 30)
    for t in range(9):
        weight = torch.zeros(1, 2, 9)
        weight[0, 1, t] = 1
        out = Conv(1, x.shape, weight)(x, poisoned((1, 1, 5, 30)))
        check(out, F.pad(x, (4, 4))[:, 1:2, :, t : t + 30].double())


@pytest.mark.parametrize("shape", [(1, 64, 21, 32, 32, 15), (1, 2048, 5, 4, 16, 7), (2, 21, 300, 18, 12, 9)])
def test_same_bits_for_any_number_of_threads(shape):
    n, c, o, h, w, k = shape
    x, dout, weight = torch.randn(n, c, h, w), torch.randn(n, o, h, w), torch.randn(o, c, k)
    results = []
    for threads in (1, 2, 5):
        lib().set_threads(threads)
        out = Conv(0, x.shape, weight)(x, poisoned(dout.shape))
        results.append((out, Wgrad(0, x.shape, o, k)(x, dout, poisoned(weight.shape))))
    for (a, b), (c, d) in itertools.pairwise(results):
        assert torch.equal(a, c) and torch.equal(b, d)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_addend_and_calls_side_by_side(layout):
    x = LAYOUTS[layout](torch.randn(2, 21, 17, 30))
    weights = [torch.randn(40, 21, 15) for _ in range(2)]
    a, b = poisoned((2, 40, 17, 30), layout), poisoned((2, 40, 17, 30), layout)
    convs = [Conv(axis, x.shape, weight) for axis, weight in enumerate(weights)]
    assert not lib().conv([convs[0].call(x, a), convs[1].call(x, b)])
    expected = [reference(x, weight, axis) for axis, weight in enumerate(weights)]
    check(a, expected[0])
    check(b, expected[1])
    bias = torch.randn(40)
    half = poisoned((2, 40, 17, 30), "nchw", torch.bfloat16)
    check(convs[0](x, half, bias, addend=b), expected[0] + expected[1] + bias[:, None, None], torch.bfloat16)
    check(convs[0](x, b, bias, addend=b), expected[0] + expected[1] + bias[:, None, None])


@pytest.mark.parametrize("axis", [0, 1], ids="hw")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("place", [(1, 3, 11, 20), (0, 0, 0, 0), (1, 19, 39, 36)], ids=["inside", "first", "last"])
def test_the_engine_says_what_it_cannot_tell(place, value, axis):
    """A transform spreads what is not finite over its block: the direct method has to tell where it belongs."""
    x, dout = torch.randn(2, 20, 40, 37), torch.randn(2, 5, 40, 37)
    weight = torch.rand(5, 20, 7) + 0.5
    x[place] = value
    assert Conv(axis, x.shape, weight).gives_up(x, poisoned(dout.shape))
    assert Wgrad(axis, x.shape, 5, 7).gives_up(x, dout, poisoned(weight.shape))


def test_error_is_relative_to_the_line():
    """A huge value spoils the relative accuracy of its own lines only."""
    x, weight = torch.randn(1, 16, 32, 32), torch.randn(4, 16, 15)
    x[0, 0, :, 5] = 1e8
    out = Conv(0, x.shape, weight)(x, poisoned((1, 4, 32, 32)))
    expected = reference(x, weight, 0)
    others = [i for i in range(32) if i != 5]
    check(out[..., others], expected[..., others])
    check(out[..., 5], expected[..., 5])


@pytest.mark.parametrize("shape", [(1, 256, 21, 128, 128, 15), (1, 2048, 21, 16, 16, 15), (4, 512, 21, 64, 64, 63)])
def test_plan_has_units_for_many_cores(shape):
    n, c, o, h, w, k = shape
    for wgrad in (False, True):
        plan = lib().plan(wgrad, 0, n, c, o, h, w, k)
        assert plan.possible and plan.units >= 8


def test_plan_says_when_no_transform_is_long_enough():
    assert not lib().plan(False, 1, 1, 3, 2, 1, 4096, 401).possible
    assert lib().plan(False, 1, 1, 3, 2, 1, 90, 401).possible
