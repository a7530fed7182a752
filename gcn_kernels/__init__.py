"""Global Convolutional Network blocks (Peng et al., CVPR 2017) as one fused operator with autograd."""

import importlib
import sys
from types import ModuleType

from gcn_kernels import reference
from gcn_kernels.core import backends as backends
from gcn_kernels.core import operator
from gcn_kernels.core.library import LIBRARIES
from gcn_kernels.gcn import functional, module, problem
from gcn_kernels.gcn.functional import fused_gcn
from gcn_kernels.gcn.module import FusedGCN
from gcn_kernels.swap import convert_gcn, revert_gcn

__version__ = "0.1.0"
__all__ = ["FusedGCN", "convert_gcn", "fused_gcn", "reference", "revert_gcn"]

if LIBRARIES.cpu_reason is None:
    operator.register()

#: Modules under the names that they had in earlier versions, which pickles and programs of users hold.
_MOVED = {"backends": backends, "functional": functional, "modules": module, "problem": problem}
for _name, _module in _MOVED.items():
    sys.modules[f"{__name__}.{_name}"] = globals()[_name] = _module


def __getattr__(name: str) -> ModuleType:
    """``gcn_kernels.triton`` is imported when it is first used: an installation for CPUs has no Triton."""
    if name == "triton":
        return importlib.import_module("gcn_kernels.triton")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
