"""What the harness has to know of an operator that it benchmarks; ``fused_gcn`` is one, ``fused_strips`` another."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gcnbench import check, onednn, problems
from gcnbench.problems import Inputs
from gcnbench.variants import Call


@dataclass(frozen=True)
class Subject:
    """An operator under the clock. Problems and inputs are of the subject's own kinds.

    Attributes:
        inputs: random NCHW inputs of a problem, a device and a seed; raises UnavailableError where there can be none.
        plain: the call of plain convolutions in a mode.
        expected: results in float64, by name, with gradients or without.
        unsafe: whether PyTorch's own convolutions may corrupt the heap, with gradients or without.
        memory: whether a floor on a CPU counts bytes too. Those of an operator with few operations for each byte do.
        by_k: whether geometric means are of one k, or over all problems of a run.
        strict: whether the operator is held to the error rule; else, as a baseline, to computing the same.
    """

    inputs: Callable[[Any, torch.device, int], Inputs]
    plain: Callable[[Any, str], Call]
    expected: Callable[[Any, bool], dict[str, Tensor]]
    unsafe: Callable[[Any, bool], bool]
    memory: bool
    by_k: bool
    strict: bool = True


GCN = Subject(
    inputs=problems.make_inputs,
    plain=check.gcn_call,
    expected=check.float64_results,
    unsafe=onednn.unsafe,
    memory=False,
    by_k=True,
)
