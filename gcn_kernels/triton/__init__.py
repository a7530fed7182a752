"""GPU kernels in Triton: no compiler is needed where they run. Importing this package imports Triton."""

from gcn_kernels.gcn.spec import TRITON_GCN
from gcn_kernels.refine.spec import TRITON_REFINE
from gcn_kernels.strips.spec import TRITON_STRIPS
from gcn_kernels.triton import ops
from gcn_kernels.triton.refine import ops as _refine_ops  # noqa: F401
from gcn_kernels.triton.strips import ops as _strips_ops  # noqa: F401
from gcn_kernels.triton.tuning import autotune
from gcn_kernels.triton.upsample import ops as _upsample_ops  # noqa: F401
from gcn_kernels.upsample.spec import TRITON_DOUBLING, TRITON_UPSAMPLE

__all__ = ["autotune", "ops"]

for _operator in (TRITON_GCN, TRITON_STRIPS, TRITON_DOUBLING, TRITON_UPSAMPLE, TRITON_REFINE):
    _operator.register()
