"""Depthwise strips: chains of depthwise convolutions with long kernels, summed, as one operator."""
