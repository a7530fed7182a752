"""The global convolution: its checks, its function and its module."""
