"""Program: a few calls of the CUDA kernels, forward and backward, for compute-sanitizer and ncu to watch.

Checks nothing itself and calls no other convolution, so that what the tools report is about these kernels.
"""

import argparse
import sys
from dataclasses import replace

import torch
from gcnbench.problems import LAYOUTS, PRESETS, Map, Problem, make_inputs

import gcn_kernels

#: Odd sizes, maps smaller than the kernel, several tiles; M and O on either side of a multiple of 8.
SMALL = (
    (Map("odd", 37, 23, 29, 13, 17), 2, 7),
    (Map("aligned", 64, 32, 32, 21, 21), 1, 15),
    (Map("smaller than the kernel", 16, 5, 7, 5, 9), 2, 15),
    (Map("several patches", 72, 24, 40, 21, 21), 1, 15),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--paper", action="store_true", help="the paper's first and last map at batch 16 in bfloat16 instead of small ones"
    )
    if parser.parse_args().paper:
        maps = [(replace(m, name=""), 16, 15) for m in (PRESETS["paper"][0], PRESETS["paper"][-1])]
        dtypes = [torch.bfloat16]
    else:
        maps, dtypes = list(SMALL), [torch.bfloat16, torch.float32]
    for m, batch, k in maps:
        for dtype in dtypes:
            for layout in LAYOUTS:
                inputs = make_inputs(Problem(m, batch, k, dtype), torch.device("cuda"), 0).laid_out(layout)
                leaves = inputs.leaves()
                y = gcn_kernels.fused_gcn(*leaves, backend="cuda")
                torch.autograd.grad(y, leaves, inputs.dy)
                torch.cuda.synchronize()
                print(f"{m.label} batch {batch} k {k} {dtype} {layout}: ran", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
