"""Parts of the benchmarks: what is timed, against what, how, and how it is shown.

==================  =============================================================================
``problems``        maps, presets, inputs; FLOPs and bytes of the direct algorithm
``variants``        the fused operator as rows of the table; how a mode is called
``baselines``       what it is compared with, in PyTorch
``runtimes``        what it is compared with outside of PyTorch (onnxruntime, OpenVINO)
``check``           float64 results and the error rule; nothing is timed before it holds
``clock``           CPU and CUDA clocks, the round robin
``memory``          peak memory of one call
``environment``     the machine, versions, flags, and the rates that make the floors
``runner``          the order of things: check, weigh, time, one problem and mode after the other
``report``          rows, the table, geometric means, JSON and CSV
``plot``            pictures
``options``         the command line, and every error that can be found before anything runs
``subject``         what all of this has to know of an operator; everything above is said of the GCN block, which is one
``strips``          depthwise strips as another: problems, inputs, definition, graph; ``strips_options`` is their command line
``models``          whole networks of other packages as a third: as they are, and with their strips converted
==================  =============================================================================
"""

import os

# PyTorch's profiler, which weighs calls on a CPU, would announce itself on stderr; it reads this when PyTorch is loaded.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
