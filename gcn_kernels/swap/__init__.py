"""Swap GCN blocks in existing models: find by structure, accept by numbers, exchange the class, report."""

from gcn_kernels.swap.api import convert_gcn, revert_gcn
from gcn_kernels.swap.report import Entry, Sizes, SwapReport

__all__ = ["Entry", "Sizes", "SwapReport", "convert_gcn", "revert_gcn"]
