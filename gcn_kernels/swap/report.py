"""What a swap found and did, as data and as a table."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from gcn_kernels.gcn.problem import KERNEL_DIM
from gcn_kernels.swap.expression import Fused

#: The reason of a module that was swapped before, or was made fused.
ALREADY = "it already runs fused"
COLUMNS = ("place", "class", "family", "sizes", "parameters", "gain", "result")


@dataclass(frozen=True)
class Sizes:
    """Channels C -> (M_l, M_r) -> O of a block and its four kernel lengths, in the order w_l1, w_l2, w_r1, w_r2."""

    channels: int
    middle: tuple[int, int]
    out: int
    kernels: tuple[int, int, int, int]

    @classmethod
    def of(cls, convs: list[nn.Conv2d]) -> "Sizes":
        """Sizes of the block with these convolutions, in the order l1, l2, r1, r2."""
        l1, _, r1, r2 = convs
        lengths = tuple(c.kernel_size[dim - 2] for c, dim in zip(convs, KERNEL_DIM.values(), strict=True))
        kernels = (lengths[0], lengths[1], lengths[2], lengths[3])
        return cls(l1.in_channels, (l1.out_channels, r1.out_channels), r2.out_channels, kernels)

    def __str__(self) -> str:
        k1, k2, k3, k4 = self.kernels
        middle = f"{self.middle[0]}" if self.middle[0] == self.middle[1] else f"({self.middle[0]}, {self.middle[1]})"
        if k1 == k2 == k3 == k4:
            k = f"{k1}"
        elif (k1, k2) == (k4, k3):
            k = f"{k1}x{k2}"
        else:
            k = f"({k1}, {k2}), ({k3}, {k4})"
        return f"{self.channels} -> {middle} -> {self.out}, k={k}"


class StripsForm(NamedTuple):
    """One call of strips: channels, kernels (kh, kw) with dilations (dh, dw) in the order of the steps, how they go together.

    ``whole`` is the number of channels of the map that x is a slice of; that of x itself where it is none.
    """

    channels: int
    kernels: tuple[tuple[int, int], ...]
    dilations: tuple[tuple[int, int], ...]
    stem: bool
    lengths: tuple[int, ...]
    skip: bool
    biased: tuple[bool, ...]
    whole: int

    @classmethod
    def of(cls, block: Fused) -> "StripsForm":
        """The form of a call."""
        stem, lengths, skip, dilations = block.form
        channels, (_, _, h, w) = block.x.shape[1], block.x.shape
        whole = block.x.stride(0) // (h * w) if block.x.stride()[1:] == (h * w, w, 1) else channels
        weights: Any = block.parameters[: len(dilations)]
        kernels = tuple((w.shape[2], w.shape[3]) for w in weights)
        biased = tuple(conv.biased for conv in block.steps)
        return cls(channels, kernels, dilations, stem, lengths, skip, biased, max(whole, channels))

    def __str__(self) -> str:
        steps = [
            f"{kh}x{kw}" + (f"/{dh}" if dh == dw != 1 else f"/{dh}x{dw}" if (dh, dw) != (1, 1) else "")
            for (kh, kw), (dh, dw) in zip(self.kernels, self.dilations, strict=True)
        ]
        first = f"{steps.pop(0)}, then " if self.stem else ""
        remaining = iter(steps)
        chains = [" ".join(next(remaining) for _ in range(length)) for length in self.lengths]
        return f"{self.channels}: {first}{' + '.join([*(['x'] if self.skip else []), *chains])}"


class RefineForm(NamedTuple):
    """One boundary refinement: channels of its map, channels between, which convolutions have a bias."""

    channels: int
    middle: int
    biased: tuple[bool, bool]

    @classmethod
    def of(cls, block: Fused) -> "RefineForm":
        """The form of a call."""
        first, second = block.steps
        return cls(first.weight.shape[1], first.weight.shape[0], (first.biased, second.biased))

    def __str__(self) -> str:
        channels = f"{self.channels}" if self.channels == self.middle else f"{self.channels} -> {self.middle} -> {self.channels}"
        return f"{channels}: x + 3x3 ReLU 3x3"


class UpsampleForm(NamedTuple):
    """One deconvolution: channels of its map and of the result, whether there is a bias, its kernel, its groups."""

    channels: int
    out: int
    biased: bool
    kernel: int = 4
    groups: int = 1

    def __str__(self) -> str:
        alone = " depthwise" if self.groups > 1 else ""
        return f"{self.channels} -> {self.out}: {self.kernel}x{self.kernel}{alone}, doubled"


class Gain(NamedTuple):
    """Time of a block as plain convolutions over its time fused, on a 32 x 32 map (64 x 64 for a refinement).

    Attributes:
        forward: predicted, or the median over calls of both in turns. Of strips, the least of those medians over several maps in
            both layouts.
        backward: only where it is predicted.
        spread: 20th and 80th percentile over those turns, of strips the least and the largest median; None where it is
            predicted, or there was time for one turn only.
    """

    forward: float
    backward: float | None = None
    spread: tuple[float, float] | None = None

    def __str__(self) -> str:
        if self.backward is not None:
            return f"{self.forward:.1f}x, backward {self.backward:.1f}x"
        between = "" if self.spread is None else " [{:.1f}, {:.1f}]".format(*self.spread)
        return f"{self.forward:.1f}x{between}"


@dataclass(frozen=True)
class Entry:
    """One block, or one look-alike.

    Attributes:
        place: qualified name of the module in the model, "" for the model itself.
        also: further places that the same instance is registered at.
        class_name: class of the module before the swap.
        sizes: of a GCN block "C -> M -> O, k=...", or what says as much of another family; "" where nothing is known.
        swapped: whether what the module computes is now fused.
        reason: why not, or how many blocks its forward computes.
        parameters: number of parameters of the convolutions.
        gain: what the swap is expected to gain; None where nothing was swapped or nothing could be timed.
        family: of the operator.
    """

    place: str
    also: tuple[str, ...]
    class_name: str
    sizes: str
    swapped: bool
    reason: str
    parameters: int
    gain: Gain | None
    family: str = "gcn"


_NAMES = {
    "gcn": "GCN blocks",
    "strips": "modules with strips",
    "refine": "boundary refinements",
    "upsample": "deconvolutions",
}
_NONE = {
    "gcn": "No module has four convolutions of the shapes k x 1, 1 x k, 1 x k, k x 1.",
    "strips": "No module has depthwise convolutions.",
    "refine": "No module has two convolutions of the shape 3 x 3, there and back.",
    "upsample": "No module is a transposed convolution.",
}


@dataclass(frozen=True)
class SwapReport:
    """Result of :func:`gcn_kernels.convert_gcn`; ``print(report)`` shows it as a table.

    Attributes:
        model: the converted model: the one that was given, or its copy with ``inplace=False``.
        entries: every block and look-alike that was found.
        families: what was looked for.
    """

    model: nn.Module
    entries: list[Entry] = field(default_factory=list)
    families: tuple[str, ...] = ("gcn",)

    @property
    def swapped(self) -> list[Entry]:
        """What now runs fused."""
        return [e for e in self.entries if e.swapped]

    @property
    def refused(self) -> list[Entry]:
        """What looked like a block and was left as it was, each with its reason."""
        return [e for e in self.entries if not e.swapped]

    def __str__(self) -> str:
        names = [_NAMES[family] for family in self.families]
        what = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        already = sum(e.reason == ALREADY for e in self.refused)
        summary = f"{what}: {len(self.swapped)} swapped, {len(self.refused) - already} refused"
        summary += f", {already} already fused" if already else ""
        if not self.entries:
            return " ".join([f"{summary}.", *(_NONE[family] for family in self.families)])
        cells = [_row(e, len(self.families) > 1) for e in self.entries]
        shown = [i for i in range(len(COLUMNS)) if any(row[i] for row in cells)]
        rows = [[row[i] for i in shown] for row in (COLUMNS, *cells)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(shown) - 1)]
        lines = ["  ".join([*(c.ljust(w) for c, w in zip(row[:-1], widths, strict=True)), row[-1]]) for row in rows]
        return "\n".join([summary, lines[0], "-" * len(lines[0]), *lines[1:]])


def _row(entry: Entry, of_several: bool) -> tuple[str, ...]:
    place = ", ".join(p or "(model)" for p in (entry.place, *entry.also))
    # One timed call of each says little.
    known = entry.gain is not None and (entry.gain.backward is not None or entry.gain.spread is not None)
    gain = str(entry.gain) if known else ""
    result = "swapped" if entry.swapped else "refused"
    result = "already fused" if entry.reason == ALREADY else f"{result}: {entry.reason}" if entry.reason else result
    return place, entry.class_name, entry.family if of_several else "", entry.sizes, f"{entry.parameters:,}", gain, result
