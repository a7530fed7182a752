"""GPU kernels in Triton: no compiler is needed where they run. Importing this package imports Triton."""

from gcn_kernels.gcn.spec import TRITON_GCN
from gcn_kernels.triton import ops
from gcn_kernels.triton.tuning import autotune

__all__ = ["autotune", "ops"]

TRITON_GCN.register()
