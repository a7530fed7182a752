"""Global Convolutional Network blocks (Peng et al., CVPR 2017) as one fused operator with autograd."""

from gcn_kernels import _autograd, reference
from gcn_kernels._library import LIBRARIES
from gcn_kernels.functional import fused_gcn
from gcn_kernels.modules import FusedGCN

__version__ = "0.1.0"
__all__ = ["FusedGCN", "fused_gcn", "reference"]

if LIBRARIES.cpu_reason is None:
    _autograd.register()
