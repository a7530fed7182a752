"""Runs the example product in an emulator module that may have a fault in it. Called in processes without PyTorch."""

from types import ModuleType

import numpy as np
from emulator import load

#: Sizes that no tile divides, and more steps than stages.
M, N, K = 71, 72, 168
TOLERANCE = 2.0**-18  # of the largest element; the sums are in fp32


def products(library: str, orders: list[tuple[str, int]]) -> list[str]:
    """Run the product in several orders of threads; return for each what is wrong with it, or nothing."""
    module = load(library, "emu_example")
    return [product(module, *order) for order in orders]


def product(module: ModuleType, order: str, seed: int) -> str:
    module.set_schedule(order, seed)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(M, K)).astype(np.float16), rng.normal(size=(K, N)).astype(np.float16)
    try:
        c = module.gemm(a.view(np.uint16), b.view(np.uint16), dependent=True)
    except module.EmulatorBug as bug:
        return str(bug)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    error = abs(c - exact).max() / abs(exact).max()
    return "" if error <= TOLERANCE else f"wrong result: error {error}"
