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
    try:
        listed = [given] * count if spread and hasattr(given, "__index__") else list(given)  # type: ignore[call-overload]
        numbers = [operator.index(number) for number in listed]
    except TypeError:
        numbers = []
    if len(numbers) != count or not all(least <= number <= LARGEST for number in numbers):
        form = f"{count} whole numbers" if count > 1 else "a whole number"
        alone = ", or one that stands for all," if spread and count > 1 else ""
        raise ValueError(f"{name}: expected {form}{alone} from {least} to 2**48, got {given!r}")
    return numbers
