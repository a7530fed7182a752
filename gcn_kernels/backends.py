"""Which implementation runs: a choice from static facts, so that ``torch.compile`` can trace it.

=========  ==========================================================================================
``cpu``    the C++ kernels in ``csrc/cpu``
``cuda``   the CUDA C++ kernels in ``csrc/cuda``
``torch``  :func:`gcn_kernels.reference.gcn`, four plain convolutions, on any device
``auto``   the first of the above that can run; an explicit backend that cannot run is an error
=========  ==========================================================================================
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gcn_kernels._library import LIBRARIES

BACKENDS = ("auto", "cpu", "cuda", "torch")
ALGORITHMS = ("auto", "direct", "fft")


def why_not(backend: str, device_type: str) -> str | None:
    """Why ``backend`` cannot run on tensors of ``device_type``, or None if it can."""
    if backend == "torch":
        return None
    if backend == "cpu":
        # The meta device is served by the same operator: shapes and strides only.
        return LIBRARIES.cpu_reason or (None if device_type in ("cpu", "meta") else f"the tensors are on device {device_type}")
    if backend == "cuda":
        return LIBRARIES.cuda_reason or (None if device_type == "cuda" else f"the tensors are on device {device_type}")
    raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")


def choose(backend: str, algo: str, x: Tensor) -> str:
    """Resolve ``backend`` for ``x`` to one that runs.

    Raises:
        ValueError: an unknown backend or algorithm.
        RuntimeError: an explicit backend or algorithm that cannot run here, with the reason.
    """
    if algo not in ALGORITHMS:
        raise ValueError(f"algo: expected one of {', '.join(ALGORITHMS)}, got {algo!r}")
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    chosen = backend
    if backend == "auto":
        chosen = next(b for b in ("cpu", "cuda", "torch") if why_not(b, x.device.type) is None)
    elif (reason := why_not(backend, x.device.type)) is not None:
        raise RuntimeError(f"backend={backend!r} cannot run: {reason}; use backend='auto' to let the package choose")
    if chosen != "torch" and (transform := _foreign_transform()) is not None:
        if backend != "auto":
            raise RuntimeError(f"backend={backend!r} does not support {transform}; use backend='torch' or 'auto'")
        chosen = "torch"
    if algo == "fft" and x.dtype == torch.float64:
        raise RuntimeError("algo='fft' computes in float32 and cannot serve float64 tensors: use algo='auto' or 'direct'")
    if chosen == "torch" and algo != "auto":
        raise RuntimeError(f"algo={algo!r} is an algorithm of the kernels, but backend {chosen!r} runs: use algo='auto'")
    return chosen


def cpu_plan(weights: Sequence[Tensor], size: Sequence[int], batch: int) -> dict[str, Any]:
    """See :meth:`gcn_kernels.FusedGCN.plan`; ``weights`` are ``w_l1, w_l2, w_r1, w_r2``."""
    if LIBRARIES.cpu_reason is not None:
        raise RuntimeError(f"the CPU kernels have no plan here: {LIBRARIES.cpu_reason}")
    w_l1, w_l2, w_r1, _ = weights
    kernels = [max(w.shape[2:]) for w in weights]
    sizes = [batch, w_l1.shape[1], *size, w_l1.shape[0], w_r1.shape[0], w_l2.shape[0], *kernels]
    plan: dict[str, Any] = json.loads(torch.ops.gcn_kernels.cpu_plan(sizes, w_l1.dtype == torch.float64, True))
    plan["forward"]["spectra_bytes"] = sum(conv["spectra_bytes"] for conv in plan["forward"]["fft"].values())
    return plan


def _foreign_transform() -> str | None:
    """A transform that the compiled operators have no rule for and that plain convolutions compose with."""
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        return "ONNX export"
    if torch.compiler.is_compiling():
        return None
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "torch.func transforms (vmap, grad, jvp)"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation"
    return None
