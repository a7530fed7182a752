"""Doubling of a map: a 4 x 4 transposed convolution with stride 2 and padding 1."""
