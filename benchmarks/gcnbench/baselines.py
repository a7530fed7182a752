"""What the fused operator is compared with, each in the layout that suits it.

* ``eager-nchw``, ``eager-channels-last``: the four convolutions, input and weights already in that layout.
* ``compile-nchw``, ``compile-channels-last``: the same under ``torch.compile`` with static shapes.
* ``padded``: M and O padded with zeros to a multiple of 8, as one does for tensor cores; the extra maps are cut off.
* ``shifts``: the idea of the fused operator in plain PyTorch (see :func:`shifts`), so that only the kernel's own merit is
  claimed for the kernel; ``shifts-compile`` is the same under ``torch.compile`` (only when asked for: its backward
  graph takes minutes to compile on a CPU).
* ``onnxruntime``, ``openvino``: see :mod:`gcnbench.runtimes`.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gcn_kernels import reference
from gcnbench import runtimes
from gcnbench.problems import Inputs
from gcnbench.variants import Call, Operator, UnavailableError, Variant, first_line, torch_call


def shifts(
    x: Tensor,
    w_l1: Tensor,
    w_l2: Tensor,
    w_r1: Tensor,
    w_r2: Tensor,
    b_l1: Tensor,
    b_l2: Tensor,
    b_r1: Tensor,
    b_r2: Tensor,
) -> Tensor:
    """Both first convolutions as one matrix product over all their taps; then each tap's map is moved and added."""
    n, c, h, w = x.shape
    m_l, _, k1, _ = w_l1.shape
    m_r, _, _, k3 = w_r1.shape
    taps_l = w_l1.permute(2, 0, 1, 3).reshape(k1 * m_l, c)
    taps_r = w_r1.permute(3, 0, 1, 2).reshape(k3 * m_r, c)
    t = torch.matmul(torch.cat([taps_l, taps_r]), x.reshape(n, c, h * w))
    t_l, t_r = t[:, : k1 * m_l], t[:, k1 * m_l :]
    u_l = _add_moved(t_l.view(n, k1, m_l, h, w), dim=2) + b_l1.view(1, m_l, 1, 1)
    u_r = _add_moved(t_r.view(n, k3, m_r, h, w), dim=3) + b_r1.view(1, m_r, 1, 1)
    left = F.conv2d(u_l, w_l2, b_l2, padding=(0, w_l2.shape[3] // 2))
    right = F.conv2d(u_r, w_r2, b_r2, padding=(w_r2.shape[2] // 2, 0))
    return left + right


def _add_moved(t: Tensor, dim: int) -> Tensor:
    """Sum over taps of ``t`` [N, k, M, H, W], tap i read ``i - k // 2`` further along ``dim`` of [N, M, H, W]."""
    taps = t.unbind(1)
    middle = len(taps) // 2
    u = taps[middle].clone()
    for i, tap in enumerate(taps):
        move = i - middle
        overlap = u.shape[dim] - abs(move)
        if move != 0 and overlap > 0:
            u.narrow(dim, max(-move, 0), overlap).add_(tap.narrow(dim, max(move, 0), overlap))
    return u


def padded_call(inputs: Inputs, mode: str, multiple: int = 8) -> Call:
    """The four convolutions with M and O padded with zeros to a multiple; results are cut back (views) to their sizes.

    The padded parameters exist before the call, as in a network that is built with padded classes.
    """
    form = torch.channels_last

    def pad(t: Tensor, *dims: int) -> Tensor:
        shape = [-(-size // multiple) * multiple if dim in dims else size for dim, size in enumerate(t.shape)]
        grown = t.new_zeros(shape)
        grown[tuple(map(slice, t.shape))] = t
        return grown.contiguous(memory_format=form) if t.dim() == 4 else grown

    x, w_l1, w_l2, w_r1, w_r2, *biases = inputs.tensors
    weights = (pad(w_l1, 0), pad(w_l2, 0, 1), pad(w_r1, 0), pad(w_r2, 0, 1))
    out = inputs.dy.shape[1]
    grown = Inputs((x, *weights, *(pad(b, 0) for b in biases)), inputs.dy)
    call = torch_call(lambda *tensors: reference.gcn(*tensors)[:, :out], grown, mode)
    results = {"fwd": (inputs.dy,), "bwd": inputs.tensors, "fwdbwd": (inputs.dy, *inputs.tensors)}[mode]
    cuts = [tuple(map(slice, t.shape)) for t in results]
    return lambda: tuple(t[cut] for t, cut in zip(call(), cuts, strict=True))


def _compiled_call(operator: Operator, inputs: Inputs, mode: str) -> Call:
    """``operator`` under torch.compile; a failure to compile becomes the reason in the baseline's row."""
    # Workers that compile in parallel would stay around and disturb what is timed.
    inductor: Any = importlib.import_module("torch._inductor.config")
    inductor.compile_threads = 1
    try:
        call = torch_call(torch.compile(operator, dynamic=False, fullgraph=True), inputs, mode)
        call()
    except Exception as error:
        raise UnavailableError(f"torch.compile failed: {first_line(error)}") from error
    return call


def plain(definition: Callable[[Any], Operator]) -> dict[str, Variant]:
    """Eager and compiled PyTorch in both layouts, by the names that ``--baselines`` knows.

    Args:
        definition: what inputs are an argument of: the convolutions of an operator.
    """

    def variants(name: str, prepare: Callable[[Operator, Any, str], Call]) -> dict[str, Variant]:
        return {
            f"{name}-{key}": Variant(f"{name} {layout}", False, layout, lambda i, mode: prepare(definition(i), i, mode))
            for key, layout in (("nchw", "NCHW"), ("channels-last", "channels_last"))
        }

    return {**variants("eager", torch_call), **variants("compile", _compiled_call)}


def runtime(name: str, prepare: Callable[[Any, str], Call]) -> Variant:
    """An inference runtime outside of PyTorch."""
    return Variant(name, False, "NCHW", prepare, modes=("fwd",), own_threads=True)


#: Every baseline by the name that ``--baselines`` knows.
BASELINES = {
    **plain(lambda inputs: reference.gcn),
    "padded": Variant("padded to 8", False, "channels_last", padded_call),
    "shifts": Variant("matmul+shifts", False, "NCHW", partial(torch_call, shifts)),
    "shifts-compile": Variant("matmul+shifts compile", False, "NCHW", partial(_compiled_call, shifts)),
    "onnxruntime": runtime("onnxruntime", runtimes.onnxruntime_call),
    "openvino": runtime("openvino", runtimes.openvino_call),
}
#: The baselines that "ratio to PyTorch" in the geometric means refers to: what a user has without any trick.
PLAIN = ("eager NCHW", "eager channels_last", "compile NCHW", "compile channels_last")


def default_baselines(device: torch.device, modes: Sequence[str]) -> list[str]:
    """What is compared with unless ``--baselines`` says otherwise: everything that is of use on ``device``."""
    names = [name for name in BASELINES if name not in ("shifts-compile", "onnxruntime", "openvino")]
    if device.type == "cpu" and "fwd" in modes:
        names += [name for name in ("onnxruntime", "openvino") if runtimes.missing(name) is None]
    return names
