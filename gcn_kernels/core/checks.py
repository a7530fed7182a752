"""Checks of arguments that are not tensors."""

import operator

#: No single size is larger than this: what fits in memory is far below, and products of sizes stay whole numbers of 64 bits.
LARGEST = 2**48


def integers(name: str, given: object, count: int, *, least: int = 1, spread: bool = False) -> list[int]:
    """``given`` as ``count`` whole numbers, numpy's included.

    Args:
        name: of the argument, for the message.
        given: a sequence of numbers.
        count: how many they have to be.
        least: the smallest that is allowed.
        spread: whether one number alone stands for all of them.

    Raises:
        ValueError: other than ``count`` whole numbers from ``least`` to :data:`LARGEST`.
    """
    numbers = _listed(given, count if spread else 0)
    if len(numbers) != count or not all(least <= number <= LARGEST for number in numbers):
        form = f"{count} whole numbers" if count > 1 else "a whole number"
        alone = ", or one that stands for all," if spread and count > 1 else ""
        raise ValueError(f"{name}: expected {form}{alone} from {least} to 2**48, got {given!r}")
    return numbers


def _listed(given: object, copies: int) -> list[int]:
    """``given`` as a list, or one number that many times; empty if it is neither."""
    try:
        return [operator.index(given)] * copies  # type: ignore[arg-type]
    except TypeError:
        pass
    try:
        return [operator.index(number) for number in given]  # type: ignore[attr-defined]
    except TypeError:
        return []
