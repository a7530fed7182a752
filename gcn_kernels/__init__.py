"""Large separable convolutions as fused operators: the GCN block of Peng et al. (CVPR 2017) and depthwise strips."""

import importlib
import sys
from types import ModuleType

from gcn_kernels import reference
from gcn_kernels.core import backends as backends
from gcn_kernels.core import library
from gcn_kernels.gcn import functional, module, problem
from gcn_kernels.gcn.functional import fused_gcn
from gcn_kernels.gcn.module import FusedGCN
from gcn_kernels.gcn.spec import GCN
from gcn_kernels.refine.functional import fused_refine
from gcn_kernels.refine.module import FusedRefine
from gcn_kernels.refine.spec import CUDA_REFINE, REFINE
from gcn_kernels.strips.functional import fused_strips
from gcn_kernels.strips.module import FusedStrips
from gcn_kernels.strips.spec import CUDA_STRIPS, STRIPS
from gcn_kernels.swap import convert_gcn, convert_model, revert_gcn
from gcn_kernels.upsample.functional import fused_upsample
from gcn_kernels.upsample.module import FusedUpsample
from gcn_kernels.upsample.spec import DOUBLING, UPSAMPLE

__version__ = "0.1.0"
__all__ = [
    "FusedGCN",
    "FusedRefine",
    "FusedStrips",
    "FusedUpsample",
    "convert_gcn",
    "convert_model",
    "fused_gcn",
    "fused_refine",
    "fused_strips",
    "fused_upsample",
    "reference",
    "revert_gcn",
]

#: The compiled operators, each with its backward operator.
OPERATORS = (GCN, STRIPS, CUDA_STRIPS, DOUBLING, UPSAMPLE, REFINE, CUDA_REFINE)
library.load(
    {name: schema for operator in OPERATORS for name, schema in operator.schemas.items()},
    [name for operator in OPERATORS if "cuda" in operator.backends for name in operator.schemas],
    __version__,
)
if library.LIBRARIES.cpu_reason is None:
    for _operator in OPERATORS:
        _operator.register()

#: Modules under the names that they had in earlier versions, which pickles and programs of users hold.
_MOVED = {"backends": backends, "functional": functional, "modules": module, "problem": problem}
for _name, _module in _MOVED.items():
    sys.modules[f"{__name__}.{_name}"] = globals()[_name] = _module

backends.provide("triton", lambda: importlib.import_module("gcn_kernels.triton"))


def __getattr__(name: str) -> ModuleType:
    """``gcn_kernels.triton`` is imported when it is first used: an installation for CPUs has no Triton."""
    if name == "triton":
        return importlib.import_module("gcn_kernels.triton")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
