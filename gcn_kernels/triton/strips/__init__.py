"""Depthwise strips (chains of depthwise convolutions with long kernels) in Triton."""
