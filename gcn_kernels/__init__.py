"""Global Convolutional Network blocks (Peng et al., CVPR 2017) as one fused operator with autograd."""

import importlib
from types import ModuleType

from gcn_kernels import _autograd, reference
from gcn_kernels._library import LIBRARIES
from gcn_kernels.functional import fused_gcn
from gcn_kernels.modules import FusedGCN
from gcn_kernels.swap import convert_gcn, revert_gcn

__version__ = "0.1.0"
__all__ = ["FusedGCN", "convert_gcn", "fused_gcn", "reference", "revert_gcn"]

if LIBRARIES.cpu_reason is None:
    _autograd.register()


def __getattr__(name: str) -> ModuleType:
    """``gcn_kernels.triton`` is imported when it is first used: an installation for CPUs has no Triton."""
    if name == "triton":
        return importlib.import_module("gcn_kernels.triton")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
