"""Correctness before speed: float64 results of the definition, and how far a variant may be from them.

The error of a result is its largest absolute difference from float64 over the largest absolute value. The rule: a result
of the fused operator may be off by at most twice what PyTorch's own four convolutions are at the same dtype, plus a few
ulp. A baseline may round more often than that (matmul+shifts in bfloat16 stores every tap) and is only checked to be the
same function.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gcn_kernels import reference
from gcnbench import onednn
from gcnbench.problems import Inputs
from gcnbench.variants import Call, result_names, torch_call

#: How many times the error of PyTorch's own convolutions is allowed.
FACTOR_OURS = 2.0
FACTOR_BASELINE = 20.0
#: What is allowed on top, in units of the dtype's epsilon. Sums of float64 are checked against sums of float64 in another
#: order, so there the whole of the rounding error has to fit in.
ULPS = {torch.float64: 1000.0}
DEFAULT_ULPS = 4.0
#: Nothing that is further off than this is the same function, whatever PyTorch's own error is.
CAP = 0.1
#: PyTorch's float64 convolution on a CPU unfolds its input: the definition is evaluated in slices of channels that keep
#: this buffer small.
UNFOLD_BYTES = 1 << 28


def float64_results(inputs: Inputs, needs_gradients: bool) -> dict[str, Tensor]:
    """Results of :func:`gcn_kernels.reference.gcn` in float64, by the names of ``result_names("fwdbwd")``.

    The block is affine in x, so it may be evaluated in slices of channels and summed, biases with the first slice only;
    samples are independent.
    """
    x, w_l1, w_l2, w_r1, w_r2, *biases = (t.detach().double() for t in inputs.tensors)
    n, c, h, w = x.shape
    dy = inputs.dy.double()
    zeros = [torch.zeros_like(b) for b in biases]
    widest = max(w_l1.shape[2], w_r1.shape[3])
    step = max(1, UNFOLD_BYTES // (8 * widest * h * w))
    y = torch.zeros_like(dy)
    results = {"y": y}
    if needs_gradients:
        names = result_names("bwd")
        results |= {name: torch.zeros_like(t, dtype=torch.float64) for name, t in zip(names, inputs.tensors, strict=True)}
    for sample in range(n):
        for first in range(0, c, step):
            part = slice(first, first + step)
            slices = [x[sample : sample + 1, part], w_l1[:, part], w_l2, w_r1[:, part], w_r2, *(biases if first == 0 else zeros)]
            if not needs_gradients:
                y[sample] += reference.gcn(*slices)[0]
                continue
            leaves = [t.requires_grad_() for t in map(Tensor.detach, slices)]
            output = reference.gcn(*leaves)
            y[sample] += output.detach()[0]
            gradients = torch.autograd.grad(output, leaves, dy[sample : sample + 1])
            _add_gradients(results, gradients, sample, part)
    return results


def _add_gradients(results: dict[str, Tensor], gradients: tuple[Tensor, ...], sample: int, part: slice) -> None:
    for name, gradient in zip(result_names("bwd"), gradients, strict=True):
        if name == "d x":
            results[name][sample, part] = gradient[0]
        elif name in ("d w_l1", "d w_r1"):
            results[name][:, part] += gradient
        elif name in ("d w_l2", "d w_r2") or part.start == 0:
            results[name] += gradient


def errors(results: tuple[Tensor, ...], mode: str, expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Error of each result by name; infinite where shapes differ, NaN where values are."""
    found = {}
    names = [name for name in expected if (name == "y" and mode != "bwd") or (name != "y" and mode != "fwd")]
    for name, result in zip(names, results, strict=True):
        truth = expected[name]
        if result.shape != truth.shape:
            found[name] = float("inf")
            continue
        scale = truth.abs().max().item()
        found[name] = (result.double() - truth).abs().max().item() / (scale or 1.0)
    return found


def gcn_call(inputs: Inputs, mode: str) -> Call:
    """PyTorch's own four convolutions."""
    return torch_call(reference.gcn, inputs, mode)


def yardstick(
    inputs: Inputs,
    needs_gradients: bool,
    expected: Mapping[str, Tensor],
    plain: Callable[[Inputs, str], Call] = gcn_call,
    unsafe: Callable[[Inputs, bool], bool] = onednn.unsafe,
) -> dict[str, float]:
    """Errors of PyTorch's own convolutions, those of ``plain``, at the dtype of ``inputs``."""
    mode = "fwdbwd" if needs_gradients else "fwd"
    with onednn.avoided(unsafe(inputs, needs_gradients)):
        return errors(plain(inputs, mode)(), mode, expected)


def violation(found: Mapping[str, float], own: Mapping[str, float], dtype: torch.dtype, ours: bool) -> str | None:
    """The first broken rule in words, or None.

    Args:
        found: errors of a variant.
        own: errors of PyTorch's own convolutions.
        dtype: of the inputs.
        ours: whether the variant is the fused operator or a baseline.
    """
    factor = FACTOR_OURS if ours else FACTOR_BASELINE
    slack = ULPS.get(dtype, DEFAULT_ULPS) * torch.finfo(dtype).eps
    for name, error in found.items():
        limit = min(factor * own[name] + slack, CAP)
        if not error <= limit:
            return f"wrong result: error of {name} is {error:.1e}, allowed {limit:.1e} (PyTorch's own: {own[name]:.1e})"
    return None
