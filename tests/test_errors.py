"""Bad input: the kind of error, a message that says what was expected and what came, and inputs left as they were."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cases import INPUTS, SMALL, make
from implementations import Implementation, every_implementation, every_kernel
from torch import Tensor

from gcn_kernels import FusedGCN, backends, fused_gcn, fused_refine, fused_strips, fused_upsample

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Wrong:
    """One change that makes valid arguments invalid, and what the error has to say."""

    name: str
    change: Callable[[Arguments], Arguments]
    error: type[Exception]
    says: tuple[str, ...]


def replaced(argument: str, change: Callable[[Tensor], Any]) -> Callable[[Arguments], Arguments]:
    return lambda arguments: {**arguments, argument: change(arguments[argument])}


# SMALL: x [2, 12, 13, 10], w_l1 [4, 12, 5, 1], w_l2 [3, 4, 1, 7], w_r1 [6, 12, 1, 9], w_r2 [3, 6, 3, 1]
WRONG = [
    Wrong("even k of w_l1", replaced("w_l1", lambda t: t[:, :, 1:]), ValueError, ("w_l1", "odd", "[4, 12, 4, 1]")),
    Wrong("even k of w_l2", replaced("w_l2", lambda t: t[..., 1:]), ValueError, ("w_l2", "odd", "[3, 4, 1, 6]")),
    Wrong("even k of w_r1", replaced("w_r1", lambda t: t[..., 1:]), ValueError, ("w_r1", "odd", "[6, 12, 1, 8]")),
    Wrong("even k of w_r2", replaced("w_r2", lambda t: t[:, :, 1:]), ValueError, ("w_r2", "odd", "[3, 6, 2, 1]")),
    Wrong("k of 0", replaced("w_l1", lambda t: t[:, :, :0]), ValueError, ("w_l1", "odd", "[4, 12, 0, 1]")),
    Wrong("x of 2 dimensions", replaced("x", lambda t: t[0, 0]), ValueError, ("x", "[N, C, H, W]", "2", "[13, 10]")),
    Wrong("x of 5 dimensions", replaced("x", lambda t: t[None]), ValueError, ("x", "[N, C, H, W]", "5", "[1, 2, 12, 13, 10]")),
    Wrong("x without channels", replaced("x", lambda t: t[:, :0]), ValueError, ("x", "at least 1", "[2, 0, 13, 10]")),
    Wrong("x without rows", replaced("x", lambda t: t[:, :, :0]), ValueError, ("x", "at least 1", "[2, 12, 0, 10]")),
    Wrong("weight of 3 dimensions", replaced("w_l1", lambda t: t[..., 0]), ValueError, ("w_l1", "[out, in, k, 1]", "[4, 12, 5]")),
    Wrong(
        "k x k weight", replaced("w_r2", lambda t: t.expand(3, 6, 3, 3)), ValueError, ("w_r2", "[out, in, k, 1]", "[3, 6, 3, 3]")
    ),
    Wrong("transposed weight", replaced("w_l2", lambda t: t.mT), ValueError, ("w_l2", "[out, in, 1, k]", "[3, 4, 7, 1]")),
    Wrong("weight without outputs", replaced("w_l1", lambda t: t[:0]), ValueError, ("w_l1", "at least one", "[0, 12, 5, 1]")),
    Wrong("channels of x", replaced("x", lambda t: t[:, 1:]), ValueError, ("w_l1", "11", "x has 11", "[4, 12, 5, 1]")),
    Wrong("channels of w_r1", replaced("w_r1", lambda t: t[:, 1:]), ValueError, ("w_r1", "12", "[6, 11, 1, 9]")),
    Wrong("w_l1 does not feed w_l2", replaced("w_l2", lambda t: t[:, 1:]), ValueError, ("w_l2", "w_l1 gives 4", "[3, 3, 1, 7]")),
    Wrong("w_r1 does not feed w_r2", replaced("w_r2", lambda t: t[:, 1:]), ValueError, ("w_r2", "w_r1 gives 6", "[3, 5, 3, 1]")),
    Wrong("branches that do not add up", replaced("w_r2", lambda t: t[1:]), ValueError, ("w_l2 and w_r2", "equal", "3 and 2")),
    *(
        Wrong(f"{name} too short", replaced(name, lambda t: t[1:]), ValueError, (name, f"[{size}]", f"[{size - 1}]"))
        for name, size in {"b_l1": 4, "b_l2": 3, "b_r1": 6, "b_r2": 3}.items()
    ),
    Wrong("bias of 2 dimensions", replaced("b_l2", lambda t: t[None]), ValueError, ("b_l2", "[3]", "[1, 3]")),
    *(
        Wrong(f"{name} float64", replaced(name, torch.Tensor.double), RuntimeError, (f"x and {name}", "float32", "float64"))
        for name in INPUTS[1:]
    ),
    Wrong("x float64", replaced("x", torch.Tensor.double), RuntimeError, ("x and w_l1", "float64", "float32")),
    Wrong("x half", replaced("x", torch.Tensor.half), RuntimeError, ("same dtype", "float16", "float32")),
    *(
        Wrong(f"{name} on meta", replaced(name, lambda t: t.to("meta")), RuntimeError, ("same device", "cpu", "meta"))
        for name in ("w_l1", "w_r2", "b_l1", "b_r2")
    ),
    *(
        Wrong(
            f"{name} {dtype}", replaced(name, lambda t, d=dtype: t.to(d)), TypeError, (name, "float32", str(dtype).split(".")[1])
        )
        for name in ("x", "w_l2", "b_r1")
        for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn)
    ),
    *(
        Wrong(f"{name} sparse", replaced(name, torch.Tensor.to_sparse), TypeError, (name, "dense", "sparse_coo", "to_dense"))
        for name in ("x", "w_r1", "b_l1")
    ),
    *(
        Wrong(
            f"{name} nested, {layout}",
            replaced(name, lambda t, form=layout: torch.nested.nested_tensor([*t.detach()], layout=form)),
            TypeError,
            (name, "dense", "nested"),
        )
        for name in ("x", "w_l1", "b_l1")
        for layout in (torch.strided, torch.jagged)
        if name == "x" or layout == torch.strided
    ),
    *(
        Wrong(f"{name} a list", replaced(name, torch.Tensor.tolist), TypeError, (name, "torch.Tensor", "list"))
        for name in ("x", "w_l1", "b_r2")
    ),
    Wrong("x a numpy array", replaced("x", torch.Tensor.numpy), TypeError, ("x", "torch.Tensor", "ndarray")),
    Wrong("a weight missing", replaced("w_l2", lambda t: None), TypeError, ("w_l2", "torch.Tensor", "NoneType")),
    Wrong("unknown backend", lambda a: {**a, "backend": "gpu"}, ValueError, ("backend", "auto, cpu", "'gpu'")),
    Wrong("backend None", lambda a: {**a, "backend": None}, ValueError, ("backend", "auto, cpu", "None")),
    Wrong("unknown algorithm", lambda a: {**a, "algo": "winograd"}, ValueError, ("algo", "auto, direct", "'winograd'")),
    Wrong(
        "cuda on CPU tensors", lambda a: {**a, "backend": "cuda"}, RuntimeError, ("backend='cuda' cannot run", "backend='auto'")
    ),
    Wrong(
        "algorithm of no kernel",
        lambda a: {**a, "backend": "torch", "algo": "direct"},
        RuntimeError,
        ("'direct'", "torch", "auto"),
    ),
]


def arguments() -> Arguments:
    return {name: t.clone() for name, t in make(SMALL).named.items()}


@every_implementation
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_wrong_arguments(wrong: Wrong, requires_grad: bool, run: Implementation) -> None:
    if run.device != "cpu":
        pytest.skip("checked before any device is touched")
    originals = {name: t.requires_grad_(requires_grad) for name, t in arguments().items()}
    before = {name: (t.detach().clone(), t._version, t.stride()) for name, t in originals.items()}
    with torch.no_grad():
        bad = wrong.change({"backend": run.backend, "algo": run.algo, **originals})
    with pytest.raises(wrong.error) as caught:
        fused_gcn(**bad)
    assert type(caught.value) is wrong.error
    for text in wrong.says:
        assert text in str(caught.value)
    for name, (value, version, strides) in before.items():
        t = originals[name]
        assert torch.equal(t, value) and t._version == version and t.stride() == strides and t.grad is None


@every_implementation
def test_gradient_on_meta(run: Implementation) -> None:
    if run.device != "cpu":
        pytest.skip("meta tensors belong to no device")
    meta = {name: t.to("meta").requires_grad_(name == "w_l1") for name, t in arguments().items()}
    with pytest.raises(RuntimeError, match=r"(?s)data.*meta.*requires_grad.*no_grad"):
        fused_gcn(**meta, backend=run.backend, algo=run.algo)
    with torch.no_grad():
        assert fused_gcn(**meta, backend=run.backend, algo=run.algo).shape == (2, 3, 13, 10)


@pytest.mark.parametrize(
    "run",
    [
        lambda w: fused_strips(w[0], [[(w[1][:, :1], None)]]),
        lambda w: fused_refine(*w),
        lambda w: fused_upsample(w[0], w[1][..., :2, :2]),
    ],
    ids=["strips", "refine", "upsample"],
)
def test_a_gradient_on_meta_after_a_call_without_one(run: Callable[[list[Tensor]], Tensor]) -> None:
    """Of forms that were met before, the checks are not made again."""
    meta = [torch.empty(4, 4, 3, 3, device="meta") for _ in range(3)]
    assert run(meta).is_meta
    meta[1].requires_grad_()
    with pytest.raises(RuntimeError, match=r"(?s)data.*meta.*requires_grad.*no_grad"):
        run(meta)


@every_kernel
def test_the_frequency_domain_refuses_float64(run: Implementation) -> None:
    if run.algo != "fft":
        pytest.skip(f"{run.name} is not of the frequency domain")
    block = make(SMALL, torch.float64)
    with pytest.raises(RuntimeError, match=r"(?s)algo='fft'.*float64.*auto"):
        fused_gcn(*block.arguments, backend=run.backend, algo=run.algo)


def test_positional_options_are_refused() -> None:
    with pytest.raises(TypeError, match="positional"):
        fused_gcn(*make(SMALL).arguments, "auto")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"in_channels": -3}, ValueError, ("in_channels", "at least 1", "-3")),
        ({"in_channels": 0}, ValueError, ("in_channels", "at least 1", "0")),
        ({"out_channels": -1}, ValueError, ("out_channels", "at least 1", "-1")),
        ({"mid_channels": -7}, ValueError, ("mid_channels", "at least 1", "-7")),
        ({"mid_channels": 0}, ValueError, ("mid_channels", "at least 1", "0")),
        ({"kernel_size": 4}, ValueError, ("kernel_size", "odd", "4")),
        ({"kernel_size": -3}, ValueError, ("kernel_size", "odd", "-3")),
        ({"kernel_size": 0}, ValueError, ("kernel_size", "odd", "0")),
        ({"kernel_size": (3, 4)}, ValueError, ("kernel_size", "odd", "(3, 4)")),
        ({"kernel_size": (3,)}, ValueError, ("kernel_size", "pair", "(3,)")),
        ({"kernel_size": (3, 5, 7)}, ValueError, ("kernel_size", "pair", "(3, 5, 7)")),
        ({"kernel_size": 3.0}, (TypeError, ValueError), ("kernel_size", "3.0")),
        ({"kernel_size": (3.0, 5)}, (TypeError, ValueError), ("kernel_size", "3.0")),
        ({"in_channels": "8"}, (TypeError, ValueError), ("in_channels", "'8'")),
        ({"backend": "gpu"}, ValueError, ("backend", *backends.BACKENDS, "'gpu'")),
        ({"algo": "winograd"}, ValueError, ("algo", *backends.ALGORITHMS, "'winograd'")),
        ({"dtype": torch.int64}, (TypeError, RuntimeError, ValueError), ()),
    ],
    ids=str,
)
def test_wrong_module_options(options: dict[str, Any], error: Any, says: tuple[str, ...]) -> None:
    with pytest.raises(error) as caught:
        FusedGCN(**{"in_channels": 8, "out_channels": 4, "kernel_size": 3, **options})
    for text in says:
        assert text in str(caught.value)


@every_implementation
def test_inputs_are_left_as_they_were(run: Implementation) -> None:
    """Forward and backward, twice over the same graph, write to nothing that was handed to them."""
    leaves = make(SMALL).to(run.device).map(torch.clone).leaves()
    watched = {**leaves.named, "dy": leaves.dy}
    before = {name: (t.detach().clone(), t._version) for name, t in watched.items()}
    y = run(*leaves.arguments)
    value = y.detach().clone()
    torch.autograd.grad(y, tuple(leaves.named.values()), leaves.dy, retain_graph=True)
    torch.autograd.grad(y, tuple(leaves.named.values()), leaves.dy)
    for name, (old, version) in before.items():
        assert torch.equal(watched[name], old) and watched[name]._version == version, name
    assert torch.equal(y, value)


@every_implementation
def test_result_shares_no_memory_with_inputs(run: Implementation) -> None:
    block = make(SMALL).to(run.device)
    y = run(*block.arguments)
    assert all(y.untyped_storage().data_ptr() != t.untyped_storage().data_ptr() for t in block.named.values())


@every_implementation
def test_backward_after_an_in_place_change_is_an_error(run: Implementation) -> None:
    leaves = make(SMALL).to(run.device).map(torch.clone).leaves()
    y = run(*leaves.arguments)
    with torch.no_grad():
        leaves.weights[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(leaves.dy)


@every_implementation
def test_a_bias_may_change_between_forward_and_backward(run: Implementation) -> None:
    """As with conv2d, whose gradients need no value of a bias."""
    block = make(SMALL).to(run.device).map(torch.clone)
    expected, leaves = block.leaves(), block.map(torch.clone).leaves()
    gradients = torch.autograd.grad(run(*expected.arguments), tuple(expected.named.values()), expected.dy)
    y = run(*leaves.arguments)
    with torch.no_grad():
        for name in ("b_l1", "b_l2", "b_r1", "b_r2"):
            leaves.named[name].add_(1)
    found = torch.autograd.grad(y, tuple(leaves.named.values()), leaves.dy)
    assert all(torch.equal(a, b) for a, b in zip(gradients, found, strict=True))


@every_kernel
def test_the_derivative_of_the_backward_pass_needs_the_biases_as_they_were(run: Implementation) -> None:
    leaves = make(SMALL).to(run.device).map(torch.clone).leaves()
    y = run(*leaves.arguments)
    with torch.no_grad():
        leaves.named["b_r1"].add_(1)
    with pytest.raises(RuntimeError, match=r"(?s)modified by an inplace operation.*b_l1 or b_r1.*create_graph"):
        torch.autograd.grad(y, leaves.x, leaves.dy, create_graph=True)
