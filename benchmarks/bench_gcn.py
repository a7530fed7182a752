"""Time the fused GCN block against PyTorch's four convolutions on this machine, CPU or GPU.

Usage::

    python benchmarks/bench_gcn.py --k 15                                  # the paper's four maps, batch 1
    python benchmarks/bench_gcn.py --k 15 --preset cityscapes --batch 1 4
    python benchmarks/bench_gcn.py --k 7 15 31 63 127 --maps 512x64x64 --mode fwd --plot k.png
    python benchmarks/bench_gcn.py --k 15 --backend cpu torch --algo auto --json out.json --csv out.csv
    python benchmarks/bench_gcn.py --quick                                 # does everything work?

Nothing is timed before its results agree with float64. Exit status: 0, 1 if a result was wrong or the fused operator
failed (its row says FAILED), 2 for a mistake in the options.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict

import torch
from gcnbench import environment, options, plot, report, runner
from gcnbench.clock import Clock, CpuClock, CudaClock


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status."""
    asked = options.parse(arguments, __doc__ or "")
    plan = asked.plan
    environment.set_flags(plan.device, asked.threads)
    clock: Clock = CudaClock(plan.device, asked.graphs) if plan.device.type == "cuda" else CpuClock()
    dtypes = list(dict.fromkeys(problem.dtype for problem in plan.problems))
    machine = environment.describe(plan.device)
    rates = environment.measure_rates(plan.device, dtypes, clock, plan.budget.calibration)
    for name, value in {**machine, **environment.describe_rates(rates)}.items():
        print(f"{name:<20} {value}")
    print()

    rows = runner.run(plan, rates, clock)
    rates_after = environment.measure_rates(plan.device, dtypes, clock, plan.budget.calibration)
    means = report.geometric_means(rows)
    print()
    for name, rate in rates_after.matmul.items():
        print(f"matmul rate {name}: {rates.matmul[name] / 1e9:.0f} GFLOP/s before the table, {rate / 1e9:.0f} after it")
    print(report.means_table(means))

    if asked.json is not None:
        header: dict[str, object] = {
            "arguments": list(sys.argv[1:] if arguments is None else arguments),
            "machine": machine,
            "rates": asdict(rates),
            "rates_after": asdict(rates_after),
        }
        report.write_json(asked.json, header, rows, means)
    if asked.csv is not None:
        report.write_csv(asked.csv, rows)
    if asked.plot is not None:
        plot.draw(asked.plot, rows, f"{machine.get('GPU', machine['CPU'])}, torch {torch.__version__}")
    failed = [row for row in rows if row.status == "failed"]
    for row in failed:
        print(f"FAILED: {row.map}, batch {row.batch}, k {row.k}, {row.dtype}, {row.mode}, {row.backend}: {row.reason}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
