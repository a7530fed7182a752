"""Time depthwise strips fused against PyTorch's convolutions on this machine, CPU or GPU.

Usage::

    python benchmarks/bench_strips.py                                      # SegNeXt's maps (mscan-t), batch 1
    python benchmarks/bench_strips.py --preset slak --dtype float32 bfloat16
    python benchmarks/bench_strips.py --form msca pair21 pair51 --maps 64x128x128 512x16x16 --mode fwd --plot strips.png
    python benchmarks/bench_strips.py --preset models                      # MSCAN-T and other models, converted and not
    python benchmarks/bench_strips.py --quick                              # does everything work?

Presets are the blocks of a published network on its maps: mscan-t, mscan-b (the attention and the 3 x 3 of the MLP), stripnet-s,
lska, inceptionnext (kernels on slices of the channels), slak. ``models`` are whole networks from timm and mmsegmentation (MSCAN-T
and InceptionNeXt-T at 512 x 512, GhostNetV2, MobileNetV3-L and EfficientNet-B0 at 224 x 224), as they are and after
``convert_model(families=("gcn", "strips"))``; one that is not installed is skipped with the reason. Forms for ``--form``: msca,
stripblock, lska23, lska53, inception, and with any odd K pairK (1 x K, then K x 1), rowK, columnK, squareK, slakK.

The table, the method and the exit status are those of ``bench_gcn.py``: results are checked against float64 before anything is
timed, all variants take turns in one process. The floor is the slower of two: the operations at the rate of this run's matrix
product, and the bytes (every argument once, every result once, nothing in between) at that of its copy. The geometric means
are over all problems of the run.
"""

import sys
from collections.abc import Sequence

from bench_gcn import measure
from gcnbench import strips_options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status."""
    asked = strips_options.parse(arguments, __doc__ or "")
    return measure(asked, asked.plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
