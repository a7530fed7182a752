"""Which implementation runs: a choice from static facts, so that ``torch.compile`` can trace it.

=========  ==========================================================================================
``cpu``    the C++ kernels in ``csrc/cpu``
``cuda``   the CUDA C++ kernels in ``csrc/cuda``
``triton`` the Triton kernels in ``gcn_kernels/triton``
``torch``  the operator's definition in :mod:`gcn_kernels.reference`, plain convolutions, on any device
``auto``   the first of the above that can run and may be chosen unasked; an explicit backend that cannot run is an error
=========  ==========================================================================================
"""

import json
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

from gcn_kernels.core.checks import integers
from gcn_kernels.core.library import LIBRARIES

BACKENDS = ("auto", "cpu", "cuda", "triton", "torch")
ALGORITHMS = ("auto", "direct", "fft")
#: Whether the processor's matrix units compute float32 products in bfloat16 or tf32 if they are allowed to.
HAS_AMX: bool = torch.cpu._is_amx_tile_supported()
#: The oldest GPUs that the CUDA kernels are written for.
OLDEST_CAPABILITY = (8, 0)


def why_not(backend: str, device: torch.device | str, dtype: torch.dtype | None = None) -> str | None:
    """Why ``backend`` cannot run on tensors on ``device``, or None if it can; of any dtype that it takes if none is given."""
    device = torch.device(device)
    elsewhere = f"the tensors are on device {device.type}"
    if backend == "torch":
        return None
    if backend == "cpu":
        # The meta device is served by the same operator: shapes and strides only.
        return LIBRARIES.cpu_reason or (None if device.type in ("cpu", "meta") else elsewhere)
    if backend == "cuda":
        return LIBRARIES.cuda_reason or (_why_not_cuda(device.index) if device.type == "cuda" else elsewhere)
    if backend == "triton":
        if device.type != "cuda" and not _interprets(device):
            return elsewhere
        if dtype == torch.float64:
            return "float64 has no matrix instructions in Triton"
        reason: str | None = _why_not_triton(device.type, device.index)
        return reason
    raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")


def choose(
    backend: str,
    algo: str,
    x: Tensor,
    kernels: Sequence[str] = ("cpu", "cuda", "triton"),
    unasked: Sequence[str] | None = None,
) -> str:
    """Resolve ``backend`` for ``x`` to one that runs.

    Args:
        backend: asked for.
        algo: of the CPU kernels.
        x: the tensor that decides.
        kernels: the backends that have kernels for the operator.
        unasked: those of them that ``"auto"`` may choose, if not all: kernels that no GPU has shown faster run on request alone.

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
        allowed = kernels if unasked is None else unasked
        chosen = next(b for b in BACKENDS[1:] if b in (*allowed, "torch") and why_not(b, x.device, x.dtype) is None)
    elif backend not in (*kernels, "torch"):
        raise RuntimeError(f"backend={backend!r} cannot run: it has no kernels for this operator; use backend='auto'")
    elif (reason := why_not(backend, x.device, x.dtype)) is not None:
        raise RuntimeError(f"backend={backend!r} cannot run: {reason}; use backend='auto' to let the package choose")
    if chosen != "torch" and (transform := foreign_transform()) is not None:
        if backend != "auto":
            raise RuntimeError(f"backend={backend!r} does not support {transform}; use backend='torch' or 'auto'")
        chosen = "torch"
    if algo == "fft" and x.dtype == torch.float64:
        raise RuntimeError("algo='fft' computes in float32 and cannot serve float64 tensors: use algo='auto' or 'direct'")
    if chosen != "cpu" and algo != "auto":
        raise RuntimeError(f"algo={algo!r} is an algorithm of the CPU kernels, but backend {chosen!r} runs: use algo='auto'")
    return chosen


def choose_dense(backend: str, algo: str, x: Tensor) -> str:
    """:func:`choose` for an operator whose direct method on a CPU is made of PyTorch's matrix products.

    Raises:
        RuntimeError: as :func:`choose`; or that method may run, and its products have been lowered where convolutions are not.
    """
    chosen = choose(backend, algo, x)
    if chosen == "cpu" and algo != "fft" and x.dtype == torch.float32 and HAS_AMX and _SWITCHES.only_matmul_is_lowered:
        if backend == "cpu" or algo == "direct":
            asked = "algo='direct'" if algo == "direct" else "backend='cpu'"
            raise RuntimeError(
                f"{asked} multiplies by PyTorch's matrix products, which torch.set_float32_matmul_precision has lowered while "
                "convolutions stay in float32: set it to 'highest', or use algo='fft', or backend='auto' with algo='auto'"
            )
        return "torch"
    return chosen


#: Types whose operations are the dispatcher's own.
PLAIN = frozenset((Tensor, torch.nn.Parameter))
# By their own names: a name that is looked up in modules whose dictionaries no cache holds takes microseconds.
_compiler, _forward_ad = torch.compiler, torch.autograd.forward_ad
_in_dynamo, _functorch = torch.compiler.is_dynamo_compiling, torch._C._functorch.peek_interpreter_stack
_modes, _autocast, _tracing_state = torch._C._len_torch_dispatch_stack, torch.is_autocast_enabled, torch._C._get_tracing_state


def straight_to_cpu(x: Tensor, backend: str) -> bool:
    """Whether a call with ``x`` and other plain tensors reaches the CPU's kernels as it is.

    That is so if nothing is at work that has to be asked first: no graph is being made, no transform, no mode, no autocast. The
    kernels check their arguments themselves; what they refuse, the checks in Python have to name. These take as long as a small
    problem, and several times that where other work has pushed them out of the caches.
    """
    return (
        not _in_dynamo()
        and not _compiler._is_compiling_flag
        and type(x) in PLAIN
        and x.is_cpu
        and backend in ("auto", "cpu")
        and LIBRARIES.cpu_reason is None
        and _functorch() is None
        and _forward_ad._current_level < 0
        and not _modes()
        and _tracing_state() is None
        and not _autocast("cpu")
    )


def plain(tensors: Sequence[object]) -> bool:
    """Whether all are plain tensors of the CPU, or None."""
    return all([t is None or (type(t) in PLAIN and t.is_cpu) for t in tensors])  # type: ignore[attr-defined]


_PROVIDERS: dict[str, Callable[[], object]] = {}


def provide(backend: str, load: Callable[[], object]) -> None:
    """Say how the operators of a backend are imported, which happens on the first question whether it runs."""
    _PROVIDERS[backend] = load


Function = TypeVar("Function", bound=Callable[..., str | None])


def _constant_in_graphs(function: Function) -> Function:
    """``torch.compiler.assume_constant_result``, which would import the whole compiler to set this mark."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


class _Switches(ModuleType):
    """PyTorch's switches as the attributes of a module.

    ``torch.compile`` takes an attribute of a module for a value and guards that value: a graph is compiled anew when the
    switch behind it is turned. It cannot trace the switch itself, and would hold a cached function's first answer for good.
    """

    @property
    def allow_tf32(self) -> bool:
        # What cuDNN's convolutions ask. The older torch.backends.cudnn.allow_tf32 sets it, and so do the switches above it
        # (torch.backends.cudnn.fp32_precision, torch.backends.fp32_precision) unless it is set itself.
        conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
        return bool(conv.fp32_precision == "tf32")

    @property
    def only_matmul_is_lowered(self) -> bool:
        # The direct method's products are PyTorch's matrix products, which follow this switch
        # (torch.set_float32_matmul_precision turns it). Convolutions have one of their own and stay float32.
        mkldnn: Any = torch.backends.mkldnn
        lowered = ("bf16", "tf32")
        return mkldnn.matmul.fp32_precision in lowered and mkldnn.conv.fp32_precision not in lowered


_SWITCHES = _Switches("gcn_kernels.backends.switches")


def allow_tf32() -> bool:
    """PyTorch's own switch: whether convolutions of float32 on a GPU may round their factors to tf32."""
    return _SWITCHES.allow_tf32


def covers(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether code built for ``architecture`` (as in TORCH_CUDA_ARCH_LIST) runs on a GPU of a compute capability.

    Machine code runs on its own capability and later minor ones of the same major, PTX on everything later too, and either
    only on its own capability if it uses features of that one (``9.0a``).

    Example:
        >>> covers("8.0", (8, 6)), covers("8.0", (9, 0)), covers("8.0+PTX", (9, 0)), covers("9.0a", (9, 0))
        (True, False, True, True)
    """
    name, _, ptx = architecture.partition("+")
    major, minor = (int(digits) for digits in name.rstrip("af").split("."))
    if name.endswith("a"):
        return capability == (major, minor)
    return capability >= (major, minor) and (capability[0] == major or (ptx == "PTX" and not name.endswith("f")))


@_constant_in_graphs
def _why_not_cuda(index: int | None) -> str | None:
    """Why the CUDA kernels cannot run on a GPU. A property of the machine, so a traced graph may keep the answer."""
    return _look_at_gpu(index)


@lru_cache
def _look_at_gpu(index: int | None) -> str | None:
    if not torch.cuda.is_available():
        return "no GPU that this PyTorch can use"
    return why_not_capability(torch.cuda.get_device_capability(index), LIBRARIES.architectures)


def why_not_capability(capability: tuple[int, int], architectures: Sequence[str]) -> str | None:
    """Why kernels built for ``architectures`` cannot run on a GPU of a compute capability, or None if they can."""
    have = ".".join(map(str, capability))
    if capability < OLDEST_CAPABILITY:
        return f"expected a GPU of compute capability {'.'.join(map(str, OLDEST_CAPABILITY))} or newer, got {have}"
    if not any(covers(architecture, capability) for architecture in architectures):
        built = ", ".join(architectures)
        return (
            f"the CUDA kernels are built for compute capability {built}, and this GPU has {have}: "
            f'reinstall with TORCH_CUDA_ARCH_LIST="{have}"'
        )
    return None


def cpu_plan(
    weights: Sequence[Tensor], size: Sequence[int], batch: int, channels_last: bool = False, backend: str = "auto"
) -> dict[str, Any]:
    """See :meth:`gcn_kernels.FusedGCN.plan`; ``weights`` are ``w_l1, w_l2, w_r1, w_r2``."""
    if LIBRARIES.cpu_reason is not None:
        raise RuntimeError(f"the CPU kernels have no plan here: {LIBRARIES.cpu_reason}")
    operators, dtype = torch.ops.gcn_kernels, weights[0].dtype
    height, width = integers("size (H, W)", size, 2)
    (images,) = integers("batch", batch, 1, least=0, spread=True)
    sizes = block_sizes((images, weights[0].shape[1], height, width), weights)
    if backend == "auto":
        text = operators.cpu_plan_with_torch(sizes, str(dtype).removeprefix("torch."), channels_last)
    else:
        text = operators.cpu_plan(sizes, dtype == torch.float64, True)
    plan: dict[str, Any] = json.loads(text)
    plan["forward"]["spectra_bytes"] = sum(conv["spectra_bytes"] for conv in plan["forward"]["fft"].values())
    return plan


def block_sizes(x: Sequence[int], weights: Sequence[Tensor]) -> list[int]:
    """``n, c, h, w, m_l, m_r, o, k1, k2, k3, k4`` of a block: ``x`` is [N, C, H, W]."""
    w_l1, w_l2, w_r1, w_r2 = (w.shape for w in weights)
    return [*x, w_l1[0], w_r1[0], w_l2[0], w_l1[2], w_l2[3], w_r1[3], w_r2[2]]


def _interprets(device: torch.device) -> bool:
    """Whether Triton's interpreter, which runs kernels on CPU tensors, is switched on."""
    return device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"


@_constant_in_graphs
@lru_cache
def _why_not_triton(device_type: str, index: int | None) -> str | None:
    """Why the Triton kernels cannot run on a device. Triton is imported, and the operators registered, on the first question."""
    if device_type == "cuda":
        if not torch.cuda.is_available():
            return "no GPU that this PyTorch can use"
        if torch.version.hip is None and (capability := torch.cuda.get_device_capability(index)) < (8, 0):
            return f"expected a GPU of compute capability 8.0 or newer, got {capability[0]}.{capability[1]}"
    try:
        _PROVIDERS["triton"]()
    except ImportError as error:
        return f"Triton cannot be imported ({error}): pip install triton"
    return None


def foreign_transform() -> str | None:
    """A transform that the compiled operators have no rule for and that plain convolutions compose with."""
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        return "ONNX export"
    if torch.compiler.is_compiling():
        return None
    if torch._C._is_tracing() and torch.onnx.is_in_onnx_export():
        return "ONNX export"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "torch.func transforms (vmap, grad, jvp)"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation"
    return None
