"""Parts of ``benchmarks/gpu_report.py``: what is done on a GPU, step by step, and how it is told.

==================  =============================================================================
``steps``           one step: a program of its own with a time limit and a log; what became of it
``agenda``          the steps of each part, the most valuable first, and what each needs
``parts``           a part within its time: what is dropped, what is not run again, the archive
``measured``        lines for the table of problems in which the kernels of sm_90a are faster
``correctness``     program: every problem of the tests against float64, going on after a crash
``timing``          program: the benchmark of the paper's maps, saved after every map
``kernels``         program: the time of every kernel against its floor and its prediction
``exercise``        program: a few calls for compute-sanitizer and ncu to watch
``summary``         the Markdown summary
==================  =============================================================================

Steps are programs because a kernel that reads out of bounds takes its process down with it.
"""
