"""The emulated operator as a function of torch tensors with derivatives, for tests that are written for backends."""

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from operator_run import BIASES, INPUTS, WEIGHTS, Problem, run
from problems import GPUS, as_array
from torch import Tensor

MATHS = {torch.float16: "half", torch.bfloat16: "bfloat16", torch.float32: "float", torch.float64: "double"}


@dataclass(frozen=True)
class EmulatedOperator:
    """Takes the operator's arguments. Each derivative runs forward and backward again, of all arguments at once."""

    module: ModuleType
    gpu: str = "h100"
    backend = "emulated"
    device = "cpu"

    def __call__(self, *arguments: Tensor | None) -> Tensor:
        y: Tensor = _Emulated.apply(self, *arguments)
        return y

    def evaluate(self, arguments: tuple[Tensor | None, ...], dy: Tensor) -> dict[str, Tensor]:
        present = {name: t for name, t in zip(INPUTS, arguments, strict=True) if t is not None}
        x = present["x"]
        channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        arrays = {name: as_array(t) for name, t in {**present, "dy": dy}.items()}
        problem = Problem(MATHS[x.dtype], arrays, "channels_last" if channels_last else "nchw", GPUS[self.gpu])
        return {name: torch.from_numpy(np.ascontiguousarray(a)).to(x.dtype) for name, a in run(self.module, problem).items()}


class _Emulated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, operator: EmulatedOperator, *arguments: Tensor | None) -> Tensor:
        x, outputs = arguments[0], arguments[1 + WEIGHTS.index("w_l2")].shape[0]
        ctx.operator, ctx.arguments = operator, arguments
        return operator.evaluate(arguments, x.new_zeros(x.shape[0], outputs, *x.shape[2:]))["y"]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, dy: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.operator.evaluate(ctx.arguments, dy)
        assert set(BIASES) >= set(gradients) - {"x", "y", *WEIGHTS}
        return (None, *(gradients.get(name) for name in INPUTS))
