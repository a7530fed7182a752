"""Floating-point operations of the operators, for ``torch.utils.flop_counter``: those of their definitions.

The counter reads a formula for each operator. Here one formula serves all: the definition runs once more on tensors without data,
and PyTorch's own formulas count its convolutions. So the numbers are those of the plain convolutions, whether a model runs fused
or not. (For the gradient of a depthwise weight PyTorch counts that of a dense one: C times too many.)

The counter takes seconds to import, so the formulas are registered when somebody else has imported it.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack


def register_if_counted(operator: Any) -> bool:
    """Register the formulas of both operators, once the counter is there to read them.

    Args:
        operator: their specification, a :class:`gcn_kernels.core.operator.Operator`.

    Returns:
        Whether they are registered.
    """
    if "torch.utils.flop_counter" not in sys.modules:
        return False
    from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

    def forward(*arguments: Any, **_: Any) -> int:
        given = dict(zip((*operator.tensors, *operator.options), map(_without_data, arguments), strict=True))
        return _count(operator, [given[name] for name in operator.graded], given, None)

    def backward(*arguments: Any, **_: Any) -> int:
        given = operator.given_backward(map(_without_data, arguments))
        tensors = operator.variables({name: given.get(name) for name in ("dy", *operator.graded)})
        return _count(operator, tensors, given, given["wanted"])

    formulas = {getattr(torch.ops.gcn_kernels, operator.name): forward}
    formulas[getattr(torch.ops.gcn_kernels, operator.backward_name)] = backward
    for packet, formula in formulas.items():
        if packet not in flop_registry:
            register_flop_formula(packet, get_raw=True)(formula)
    # A counter that is counting already has a copy of the formulas.
    for mode in _get_current_dispatch_mode_stack():
        if isinstance(counter := getattr(mode, "counter", None), FlopCounterMode):
            counter.flop_registry.update({packet: flop_registry[packet] for packet in formulas})
    return True


def _without_data(t: Any) -> Any:
    """A tensor, or each of a list, on the meta device; anything else as it is."""
    if isinstance(t, (list, tuple)):
        return [_without_data(item) for item in t]
    return torch.empty(t.shape, dtype=t.dtype, device="meta") if isinstance(t, Tensor) else t


def _count(operator: Any, tensors: Sequence[Any], given: dict[str, Any], wanted: int | None) -> int:
    """What the definition counts: its forward pass, or the gradients of the tensors whose bits ``wanted`` has."""
    flat = [t for part in tensors for t in (part if isinstance(part, list) else [part])]
    asked = [t for i, t in enumerate(flat) if (wanted or 0) >> i & 1]
    convolutions = _Convolutions(None if wanted is None else asked)
    with convolutions:
        operator.definition(*tensors, **{name: given[name] for name in operator.definition_options})
    return convolutions.flops


class _Convolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the convolutions that run, or those that autograd would run for the gradients of ``asked``."""

    def __init__(self, asked: list[Tensor] | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: int = 0
        self.backward = asked is not None
        #: Tensors that a gradient passes through, by identity.
        self.recorded = list(asked or ())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func``, or what it is composed of, and count it if it is a convolution."""
        from torch.utils.flop_counter import flop_registry

        kwargs = kwargs or {}
        convolution = torch.ops.aten.convolution
        if func is not convolution.default:
            with self:
                if (result := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return result
        result = func(*args, **kwargs)
        needed = [any(t is recorded for recorded in self.recorded) for t in args]
        if any(needed):
            self.recorded.append(result)
        if func is convolution.default and not self.backward:
            self.flops += flop_registry[convolution](*args, out_val=result)
        elif func is convolution.default and any(needed):
            x, weight, bias, *options = args
            sizes = None if bias is None else bias.shape
            gradients = result, x, weight, sizes, *options, needed[:3]
            self.flops += flop_registry[torch.ops.aten.convolution_backward](*gradients, out_val=(x, weight, bias))
        return result
