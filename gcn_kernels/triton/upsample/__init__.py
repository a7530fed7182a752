"""The doubling of a map (4 x 4 transposed convolution, stride 2, padding 1) in Triton."""
