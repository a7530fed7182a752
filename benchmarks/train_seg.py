"""Train the network of the paper.

    python benchmarks/train_seg.py --out runs/k15                                   # built-in data set, no files needed
    python benchmarks/train_seg.py --out runs/base --head 1x1 --no-refine           # its 1 x 1 baseline
    python benchmarks/train_seg.py --data voc --root DATA --weights resnet152.pth --out runs/voc
    torchrun --nproc-per-node 2 benchmarks/train_seg.py --batch-norm synced --out runs/two

Started again with the same folder, a run goes on from its last checkpoint. TensorBoard reads the folder.
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from segmentation import recipe as recipes
from segmentation.datasets import MissingData
from segmentation.process import start_process
from segmentation.training import Run


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder of the run")
    parser.add_argument("--threads", type=int, help="threads of each process")
    recipes.add_arguments(parser)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    process = start_process()
    try:
        run = Run(recipes.from_arguments(options), options.out, process)
    except (MissingData, ValueError) as error:
        parser.error(str(error))
    result = run.train()
    if process.rank == 0:
        print({name: round(value, 4) for name, value in result.items() if isinstance(value, float)})
    if process.size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
