"""Swap GCN blocks in existing models: find by structure, try, exchange the class, report; and fuse what then runs."""

from gcn_kernels.swap.api import convert_gcn, convert_model, revert_gcn
from gcn_kernels.swap.report import Entry, Sizes, SwapReport

__all__ = ["Entry", "Sizes", "SwapReport", "convert_gcn", "convert_model", "revert_gcn"]
