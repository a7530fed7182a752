"""Time the fused GCN block against PyTorch's four convolutions on this machine, CPU or GPU.

Usage::

    python benchmarks/bench_gcn.py --k 15                                  # the paper's four maps, batch 1
    python benchmarks/bench_gcn.py --k 15 --preset cityscapes --batch 1 4
    python benchmarks/bench_gcn.py --k 7 15 31 63 127 --maps 512x64x64 --mode fwd --plot k.png
    python benchmarks/bench_gcn.py --k 15 --backend cpu torch --algo auto --json out.json --csv out.csv
    python benchmarks/bench_gcn.py --base HEAD~1                           # against another commit, interleaved
    python benchmarks/bench_gcn.py --quick                                 # does everything work?

Output (one map in one mode; this machine was busy with other work, which is what the header's line ``load`` is for)::

    # res-3 512x64x64, batch 1, k 15, M 21, O 21, float32
    # 2.64 + 0.108 GFLOP forward
    -- fwd
    backend                       ms [p20, p80] GFLOPS %floor x best peak MB   error
    direct floor                           77.9     35    100   0.80       -       -
    eager NCHW             107.2 [80.2, 128.0]      26     73   0.58    11.6 4.4e-07
    eager channels_last    101.2 [92.6, 106.0]      27     77   0.62     2.1 8.5e-07
    compile NCHW           105.9 [90.7, 129.7]      26     74   0.59    19.2 8.5e-07
    compile channels_last  120.0 [99.0, 136.1]      23     65   0.52     2.1 8.5e-07
    padded to 8            100.6 [87.8, 115.3]      27     77   0.62     2.2 8.5e-07
    matmul+shifts         156.6 [122.2, 168.4]      18     50   0.40    15.1 4.1e-07
    onnxruntime              62.4 [57.4, 68.8]      44    125   1.00       - 2.8e-07
    openvino                 74.0 [70.5, 78.2]      37    105   0.84       - 8.5e-07
    fused cpu NCHW           43.6 [30.7, 55.6]      63    179   1.43     3.8 2.2e-07
    fused cpu channels_last  18.4 [11.9, 26.4]     149    423   3.39     3.8 2.2e-07

Method: every variant's results are first checked against float64 (see ``gcnbench/check.py``); then all variants are timed
in one process, one call each per round in a new order every round, until the time budget is used up; medians and 20th and
80th percentiles are shown. Peak memory is measured in calls of its own (``gcnbench/memory.py``).

``--base REF`` builds that commit (once, outside of the checkout) and times its operator in turns with everything else, in a
process of its own that is idle otherwise: the rows "base", and "x base", the time of the base's same call over that of the row
above it, round by round. In such a run every call is timed after an untimed one, as threads sleep while the other process
computes.

Nothing is timed before its results agree with float64. A run that is broken off (Ctrl-C, or a reader that wants no more
lines) still writes its files, with the rows that were finished. Exit status: 0, 1 if a result was wrong or the fused operator
failed (its row says FAILED) or the other commit could not be built or its process died, 2 for a mistake in the options, 130 and
141 for a run that was broken off.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial

import torch
from gcnbench import base, environment, options, plot, report, runner
from gcnbench.clock import Clock, CpuClock, CudaClock


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status."""
    asked = options.parse(arguments, __doc__ or "")
    if asked.base is None:
        return measure(asked, asked.plan, arguments)
    try:
        folder = base.build(asked.base, partial(print, flush=True))
        environment.set_flags(asked.plan.device, asked.threads)
        with base.Process(folder) as process:
            others = [base.variant(asked.base.commit, *call, process) for call in asked.base_calls]
            first = [variant for variant in asked.plan.variants if not variant.ours]
            ours = [variant for variant in asked.plan.variants if variant.ours]
            return measure(asked, replace(asked.plan, variants=[*first, *others, *ours]), arguments)
    except base.BaseError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbroken off before anything was measured", file=sys.stderr)
        return 130


def measure(asked: options.Options, plan: runner.Plan, arguments: Sequence[str] | None) -> int:
    """Measure what is planned, show it, write the files that were asked for, and return the exit status."""
    memory, by_k = plan.subject.memory, plan.subject.by_k
    environment.set_flags(plan.device, asked.threads)
    clock: Clock = CudaClock(plan.device, asked.graphs) if plan.device.type == "cuda" else CpuClock()
    dtypes = list(dict.fromkeys(problem.arithmetic for problem in plan.problems))
    machine = environment.describe(plan.device)
    if asked.base is not None:
        machine["base"] = f"commit {asked.base.commit[:12]}, {asked.base.ref}"
    rates = environment.measure_rates(plan.device, dtypes, clock, plan.budget.calibration, memory)
    for name, value in {**machine, **environment.describe_rates(rates)}.items():
        print(f"{name:<20} {value}")
    print()

    rows: list[report.Row] = []
    rates_after = None
    broken_off = 0
    try:
        runner.run(plan, rates, clock, rows, partial(print, flush=True))
        rates_after = environment.measure_rates(plan.device, dtypes, clock, plan.budget.calibration, memory)
        print()
        for name, rate in rates_after.matmul.items():
            print(f"matmul rate {name}: {rates.matmul[name] / 1e9:.3g} GFLOP/s before the table, {rate / 1e9:.3g} after it")
        if memory and rates.copy and rates_after.copy:
            print(f"copy rate: {rates.copy / 1e9:.3g} GB/s before the table, {rates_after.copy / 1e9:.3g} after it")
        print(report.means_table(report.geometric_means(rows, by_k)), flush=True)
    except KeyboardInterrupt:
        broken_off = 130
        print(f"\nbroken off: {len(rows)} rows are finished", file=sys.stderr)
    except base.BaseError as error:
        broken_off = 1
        print(f"\n{error}: {len(rows)} rows are finished", file=sys.stderr)
    except BrokenPipeError:
        broken_off = 141
        # Python flushes what is left at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    means = report.geometric_means(rows, by_k)

    if asked.json is not None:
        header: dict[str, object] = {
            "arguments": list(sys.argv[1:] if arguments is None else arguments),
            "machine": machine,
            "rates": asdict(rates),
            "rates_after": None if rates_after is None else asdict(rates_after),
            "finished": broken_off == 0,
        }
        report.write_json(asked.json, header, rows, means)
    if asked.csv is not None and rows:
        report.write_csv(asked.csv, rows)
    if asked.plot is not None and rows:
        plot.draw(asked.plot, rows, f"{machine.get('GPU', machine['CPU'])}, torch {torch.__version__}")
    if broken_off:
        return broken_off
    failed = [row for row in rows if row.status == "failed"]
    for row in failed:
        print(f"FAILED: {row.map}, batch {row.batch}, k {row.k}, {row.dtype}, {row.mode}, {row.backend}: {row.reason}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
