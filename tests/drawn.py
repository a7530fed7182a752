"""Drawn problems by the thousand: the error rule on sizes, kernels, strides and dtypes that nobody picked.

    python tests/drawn.py --count 45000                  every instruction set of this machine, a third of the problems each
    python tests/drawn.py --count 1 --first 1234 --isa avx2      one problem again

Problem i is the same in every run. It is drawn from one of several families, because faults of summation need shapes that
even draws hardly reach: one channel, one pixel, one class, long and narrow maps, kernels beyond the map.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import long_double
import torch
from cases import BIASES, DTYPES, Block, Case, make
from rule import error, evaluate, expect
from torch import Tensor
from views import VIEWS

from gcn_kernels import fused_gcn

ISAS = ("portable", "avx2", "avx512")
ALGORITHMS = ("direct", "fft", "auto")
#: No transform is long enough for more taps on a long line; the frequency domain refuses them.
MOST_TAPS = 255
#: Multiply-adds of one forward pass, so that thousands of problems take a minute.
MOST_WORK = 4e6


@dataclass(frozen=True)
class Problem:
    """A case at a dtype, and how x, the weights, the biases and dy lie in memory."""

    index: int
    case: Case
    dtype: torch.dtype
    views: tuple[str, str, str, str]

    def block(self) -> Block:
        block = make(self.case, self.dtype, seed=self.index)
        x, weights, biases, dy = (VIEWS[name] for name in self.views)
        return Block(
            x(block.x),
            tuple(weights(w) for w in block.weights),
            tuple(None if b is None else biases(b) for b in block.biases),
            dy(block.dy),
        )

    def __str__(self) -> str:
        c = self.case
        sizes = f"N{c.n} C{c.c} {c.h}x{c.w} M {c.mid_l}/{c.mid_r} O {c.out} k {','.join(map(str, c.k))}"
        return f"problem {self.index}: {sizes} {str(self.dtype).removeprefix('torch.')} {' '.join(self.views)} b:{len(c.biases)}"


@dataclass(frozen=True)
class Excess:
    """A result that is further off than the rule allows."""

    problem: Problem
    isa: str
    algo: str
    result: str
    error: float
    allowed: float

    def __str__(self) -> str:
        times = self.error / self.allowed if self.allowed else float("inf")
        return f"{self.isa} {self.algo} {self.result}: {self.error:.2e}, allowed {self.allowed:.2e} ({times:.2f}) {self.problem}"


def draw(index: int) -> Problem:
    """The problem with this number; draws again until it is small enough."""
    rng = random.Random(index)
    while True:
        case = _draw_case(rng)
        if _work(case) <= MOST_WORK:
            dtype = rng.choice((torch.float32, *DTYPES))
            views = [rng.choice(("contiguous", "channels_last", rng.choice(list(VIEWS)))) for _ in range(4)]
            return Problem(index, case, dtype, tuple(views))  # type: ignore[arg-type]


def _draw_case(rng: random.Random) -> Case:
    def size(most: int) -> int:
        """Small ones as often as large ones."""
        return rng.randint(1, rng.choice((1, 4, most, most)))

    def kernel(most: int) -> int:
        return 2 * rng.randint(0, rng.choice((2, 7, most // 2))) + 1

    family = rng.choice(("any", "any", "thin", "pixels", "long", "wide"))
    n = rng.choice((1, 1, 2, 3, rng.randint(1, 8)))
    h, w, c, m, o, k = size(32), size(32), size(48), size(24), size(24), 63
    if family == "thin":  # hardly any channels: long sums over pixels
        h, w, c, m, o = size(96), size(96), size(4), size(2), size(8)
    elif family == "pixels":  # hardly any pixels: long sums over channels
        h, w, c, m, o = size(4), size(4), size(512), size(600), size(256)
    elif family == "long":
        h, w = (rng.randint(60, 700), size(3))[:: rng.choice((1, -1))]
        k = rng.choice((63, MOST_TAPS))
        m, o = size(4), size(50)
    elif family == "wide":
        h, w, c, m, o = size(20), size(20), size(300), size(128), size(24)
    same = rng.random() < 0.4
    taps = tuple([kernel(k)] * 4 if same else [kernel(k) for _ in range(4)])
    m_r = m if rng.random() < 0.6 else rng.randint(1, 2 * m)
    biases = tuple(name for name in BIASES if rng.randint(0, 3))
    return Case("drawn", n, c, h, w, m, m_r, o, taps, biases)  # type: ignore[arg-type]


def _work(case: Case) -> int:
    k1, k2, k3, k4 = case.k
    left, right = case.mid_l * (case.c * k1 + case.out * k2), case.mid_r * (case.c * k3 + case.out * k4)
    return case.n * case.h * case.w * (left + right)


def excesses(problem: Problem, isa: str = "") -> Iterator[Excess]:
    """What is beyond the rule, for every algorithm that does the problem, forward and all gradients."""
    block = problem.block()
    expected = expect(block)
    for algo in ALGORITHMS:
        if algo == "fft" and problem.dtype == torch.float64:
            continue

        def run(x: Tensor, *others: Tensor | None, algo: str = algo) -> Tensor:
            return fused_gcn(x, *others, backend="cpu", algo=algo)  # type: ignore[arg-type]

        with torch.no_grad():
            found = {"y without gradients": run(*block.arguments)}  # type: ignore[arg-type]
        found.update(evaluate(run, replace(block)))
        for name, t in found.items():
            result = name.split()[0]
            off = error(t, expected.values[result])
            if not off <= expected.allowed[result] and not _truth_is_further_off(block, result, t, expected.values[result]):
                yield Excess(problem, isa, algo, name, off, expected.allowed[result])


def _truth_is_further_off(block: Block, result: str, found: Tensor, truth: Tensor) -> bool:
    """Of float64, in which the truth has rounding errors of its own: whether it has more of them than the result."""
    if found.dtype != torch.float64:
        return False
    exact = long_double.evaluate(block)[result]
    ours, own = (abs(t.detach().numpy().astype(exact.dtype) - exact).max(initial=0) for t in (found, truth))
    return bool(ours <= own)


def available_isas() -> list[str]:
    """The instruction sets that the frequency domain can use on this machine."""
    has = torch.backends.cpu.get_cpu_capability()
    return list(ISAS[: {"AVX512": 3, "AVX2": 2}.get(has, 1)])


def command(isa: str, first: int, count: int, step: int = 1) -> tuple[list[str], dict[str, str]]:
    """How to run problems first, first + step, ... with an instruction set, in a process of its own."""
    arguments = [sys.executable, os.path.abspath(__file__), "--isa", isa, "--first", str(first), "--count", str(count)]
    return [*arguments, "--step", str(step)], {**os.environ, "GCN_KERNELS_CPU_ISA": isa}


def _run_here(isa: str, first: int, count: int, step: int) -> int:
    torch.set_num_threads(1)  # the problems are small; the kernels' results do not depend on it
    kinds: Counter[str] = Counter()
    start, bad = time.monotonic(), 0
    for done, index in enumerate(range(first, first + count * step, step)):
        if done % 500 == 0 < done:
            print(f"{isa}: {done} of {count} drawn, {bad} beyond the rule", file=sys.stderr, flush=True)
        found = list(excesses(draw(index), isa))
        bad += bool(found)
        for excess in found:
            kinds[f"{excess.algo} {excess.result}"] += 1
            print(excess, flush=True)
    took = time.monotonic() - start
    print(f"{isa}: {bad} of {count} problems beyond the rule, {took:.0f} s; {dict(kinds.most_common())}", flush=True)
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="problems to draw")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--step", type=int, default=1, help="distance between their numbers")
    parser.add_argument("--isa", choices=ISAS, help="in this process, with this instruction set; default: every one in turn")
    options = parser.parse_args()
    if options.isa is None:
        isas = available_isas()
        bad = 0
        for i, isa in enumerate(isas):
            share = len(range(i, options.count, len(isas)))
            line, environment = command(isa, options.first + i * options.step, share, len(isas) * options.step)
            bad |= subprocess.run(line, env=environment, check=False).returncode
        sys.exit(bad)
    if os.environ.get("GCN_KERNELS_CPU_ISA") != options.isa:
        # It is read once, when the library is loaded.
        line, environment = command(options.isa, options.first, options.count, options.step)
        sys.exit(subprocess.run(line, env=environment, check=False).returncode)
    sys.exit(_run_here(options.isa, options.first, options.count, options.step) > 0)


if __name__ == "__main__":
    main()
