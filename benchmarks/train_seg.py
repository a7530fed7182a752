"""Train the network of the paper.

    python benchmarks/train_seg.py --out runs/k15                                   # built-in data set, no files needed
    python benchmarks/train_seg.py --out runs/base --head 1x1 --no-refine           # its 1 x 1 baseline
    python benchmarks/train_seg.py --data voc --root DATA --weights resnet152.pth --out runs/voc
    torchrun --nproc-per-node 2 benchmarks/train_seg.py --batch-norm synced --out runs/two

Started again with the same folder, a run goes on from its last checkpoint, and a larger --steps extends it.
TensorBoard reads the folder.
"""

from pathlib import Path

import torch
import torch.distributed as dist
from segmentation import recipe as recipes
from segmentation.process import Parser, start_process
from segmentation.settings import at_least, number
from segmentation.training import Run


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, as the command line says."""
    parser = Parser(__doc__ or "")
    parser.add_argument("--out", required=True, type=Path, help="folder of the run")
    parser.add_argument(
        "--threads", type=number(int, at_least(1)), metavar="N", help="threads of each process (default: PyTorch's)"
    )
    recipes.add_arguments(parser)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        recipe = recipes.from_arguments(options)
    except ValueError as error:
        parser.error(str(error))
    process = start_process()
    try:
        run = Run(recipe, options.out, process)
    except (FileNotFoundError, ImportError, ValueError) as error:
        parser.error(str(error))
    if recipe.data != "shapes":
        process.say(f"{len(run.task.train)} training images{run.task.annotations and f' (annotations: {run.task.annotations})'}")
        if not recipe.weights:
            process.say(f"warning: without --weights the encoder {recipe.encoder} starts from random weights")
    result = run.train()
    process.say(str({name: round(value, 4) for name, value in result.items() if isinstance(value, float)}))
    if process.size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
