"""Problems drawn from a seed as users' blocks come, not as a paper's table lists them, and what their times come to."""

import math
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from gcnbench.problems import Map, Problem

#: PyTorch's convolutions on the input in either layout, and the operator on the same inputs.
EAGER = {"NCHW": "eager NCHW", "channels_last": "eager channels_last"}
FUSED = {"NCHW": "fused NCHW", "channels_last": "fused channels_last"}
#: A problem on which the operator is slower than this share of PyTorch's speed counts as lost.
LOST_BELOW = 0.95


@dataclass(frozen=True)
class Range:
    """What is drawn, every size evenly on a logarithmic scale: ``C, M, O, k`` and maps from ``lowest`` to ``highest``.

    Attributes:
        gflop: the most work of a forward pass with all channels rounded up to 16, in which PyTorch's convolutions compute;
            what exceeds it is drawn again.
    """

    gflop: float = 2.0
    channels: tuple[int, int] = (8, 2048)
    middle: tuple[int, int] = (1, 512)
    out: tuple[int, int] = (1, 512)
    k: tuple[int, int] = (3, 63)
    side: tuple[int, int] = (8, 256)
    batch: tuple[int, int] = (1, 8)


def draw(seed: int, number: int, dtype: torch.dtype, limits: Range = Range()) -> Problem:
    """Problem ``number`` of a seed; the same on every machine, whatever was drawn before it.

    Example:
        >>> draw(0, 7, torch.float32) == draw(0, 7, torch.float32) != draw(0, 8, torch.float32)
        True
    """
    source = random.Random(f"{seed} {number}")

    def size(bounds: tuple[int, int]) -> int:
        low, high = bounds
        return min(high, int(math.exp(source.uniform(math.log(low), math.log(high + 1)))))

    while True:
        height = size(limits.side)
        width = height if source.random() < 0.5 else size(limits.side)
        k = size(limits.k) // 2 * 2 + 1
        block = Map("", size(limits.channels), height, width, size(limits.middle), size(limits.out))
        problem = Problem(block, size(limits.batch), k, dtype)
        channels, mid, out = (-(-n // 16) * 16 for n in (block.channels, block.mid, block.out))
        rounded = replace(problem, map=replace(block, channels=channels, mid=mid, out=out))
        if rounded.flops("fwd") <= limits.gflop * 1e9:
            return problem


def crashes_in_pytorch(problem: Problem, mode: str) -> bool:
    """Whether PyTorch's own backward pass may end the process.

    oneDNN's weight gradient of a k x 1 convolution corrupts the heap where the kernel reaches beyond the map on both sides
    (torch 2.13.0 and 2.14.1, CPUs with AVX-512).
    """
    return mode != "fwd" and problem.k > problem.map.height


@dataclass(frozen=True)
class Result:
    """The medians of one problem in one mode, in milliseconds by the name of the variant."""

    problem: Problem
    mode: str
    ms: Mapping[str, float]
    algo: str

    @property
    def ratio(self) -> float:
        """Speed of the operator over PyTorch's, each on the input in the layout that suits it; above 1 is faster."""
        return min(self.ms[name] for name in EAGER.values()) / min(self.ms[name] for name in FUSED.values())

    def row(self) -> dict[str, object]:
        """As it is written to JSON."""
        p = self.problem
        sizes = {**asdict(p.map), "batch": p.batch, "k": p.k, "dtype": p.dtype_name}
        return {**sizes, "mode": self.mode, "algo": self.algo, "ratio": self.ratio, "ms": dict(self.ms)}

    def line(self) -> str:
        """As the table shows it."""
        p, m = self.problem, self.problem.map
        sizes = f"{p.batch:>2} {m.channels:>5} {m.height:>4}x{m.width:<4} {m.mid:>4} {m.out:>4} {p.k:>3}"
        times = " ".join(f"{self.ms[name]:>9.3f}" for name in (*EAGER.values(), *FUSED.values()))
        return f"{sizes} {p.dtype_name:<8} {self.mode:<6} {times}  {self.algo:<6} {self.ratio:>5.2f}"


HEADING = (
    f"{'N':>2} {'C':>5} {'H':>4}x{'W':<4} {'M':>4} {'O':>4} {'k':>3} {'dtype':<8} {'mode':<6} "
    f"{'eager':>9} {'eager cl':>9} {'fused':>9} {'fused cl':>9}  {'algo':<6} {'ratio':>5}"
)


def summary(results: Sequence[Result], worst: int = 10) -> Iterator[str]:
    """The geometric mean of each dtype and mode with the problems lost, and the worst ones of all."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.problem.dtype_name, result.mode), []).append(result)
    for (dtype, mode), members in groups.items():
        ratios = [r.ratio for r in members]
        lost = sum(ratio < LOST_BELOW for ratio in ratios)
        yield (
            f"{dtype} {mode}: {len(ratios)} problems, geometric mean {statistics.geometric_mean(ratios):.3f}, "
            f"least {min(ratios):.3f}, {lost} below {LOST_BELOW}"
        )
    yield f"the worst {worst}:"
    yield HEADING
    yield from (result.line() for result in sorted(results, key=lambda r: r.ratio)[:worst])
