"""Checks that operators make of their arguments, and a memory for what has passed them.

The kinds of error follow ``conv2d``: ``TypeError`` for something that is not a usable tensor, ``ValueError`` for sizes,
``RuntimeError`` for dtypes or devices that do not go together. Every message says what was expected, what came and what to do.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

#: Whether torch.jit.trace is at work: its state, or None; a question of 40 ns.
tracing_state = torch._C._get_tracing_state

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_tensor(name: str, t: object) -> None:
    """Raise unless ``t`` is a dense tensor of a dtype that the kernels know."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(t).__name__}")
    if t.is_nested:
        raise TypeError(f"{name}: expected a dense (strided) tensor, got a nested one: call it once for each tensor inside")
    if t.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense (strided) tensor, got layout {t.layout}: call .to_dense() first")
    if t.dtype not in DTYPES:
        expected = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        raise TypeError(f"{name}: expected one of the dtypes {expected}, got {str(t.dtype).removeprefix('torch.')}")


def check_map(x: Tensor) -> None:
    """Raise unless ``x`` is [N, C, H, W] or [C, H, W] with at least one channel and pixel."""
    if x.dim() not in (3, 4):
        raise ValueError(f"x: expected [N, C, H, W] or [C, H, W], got {x.dim()} dimensions: {shape_of(x)}")
    channels, height, width = x.shape[-3:]
    if channels == 0 or height == 0 or width == 0:
        raise ValueError(f"x: expected C, H and W of at least 1 (only the batch may be empty), got {shape_of(x)}")


def check_same(x: Tensor, names: Iterable[str], tensors: Sequence[Tensor | None]) -> None:
    """Raise unless all tensors share ``x``'s dtype and device (checked after autocast has had its say)."""
    dtype, device = x.dtype, x.device
    records = x.requires_grad
    for name, t in zip(names, tensors, strict=True):
        if t is None:
            continue
        records = records or t.requires_grad
        if t.dtype != dtype:
            raise RuntimeError(
                f"x and {name} should have the same dtype, got {dtype} and {t.dtype}: convert one of them, or use torch.autocast"
            )
        if t.device != device:
            raise RuntimeError(f"x and {name} should be on the same device, got {device} and {t.device}: move one of them")
    if device.type == "meta" and records and torch.is_grad_enabled():
        raise RuntimeError(
            "expected tensors with data to record a gradient, got device 'meta' with requires_grad=True: "
            "use torch.no_grad() for shape inference, or materialise the tensors first"
        )


def is_channels_last(t: Tensor) -> bool:
    """Whether the strides of ``t`` [N, C, H, W] say channels_last; ambiguous ones (sizes of 1) say no, as in PyTorch."""
    sizes, strides = t.shape, t.stride()
    if strides[1] == 0:
        return False
    smallest = 0
    for dim in (1, 3, 2, 0):
        if sizes[dim] == 0 or strides[dim] < smallest:
            return False
        if dim == 0 and smallest == strides[1]:
            return False
        smallest = strides[dim] * (sizes[dim] if sizes[dim] > 1 else 1)
    return True


def shape_of(t: Tensor) -> str:
    return f"shape {list(t.shape)}"


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
    return whole_numbers(given)


def whole_numbers(given: Any) -> list[int]:
    """The numbers of a sequence, NumPy's included, as ints; none where one of them is no whole number."""
    try:
        return [operator.index(number) for number in given]
    except TypeError:
        return []


Decision = TypeVar("Decision")


def untraced(decide: Callable[..., Decision], *arguments: object) -> Decision:
    """``decide(*arguments)``, of which ``torch.jit.trace`` records nothing.

    Sizes are tensors to that tracer, and it warns of every Python number or truth value that is made of one. What is decided here
    goes into the graph as a constant, or is a check of the arguments.
    """
    if not (state := tracing_state()):
        return decide(*arguments)
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        return decide(*arguments)
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


class Memory(Generic[Decision]):
    """What was decided for tensors of the same sizes, strides, dtypes and devices: nothing else that is asked here changes it.

    A small problem is done in the time that its checks take, so that they are made once.
    """

    #: Decisions that are kept; a program that meets more forms than these starts over.
    MOST = 1024

    def __init__(self, decide: Callable[..., Decision]) -> None:
        self.decide = decide
        self.known: dict[Any, Decision] = {}

    def __call__(self, tensors: Sequence[Tensor | None], *options: object) -> Decision:
        """``decide(tensors, *options)``, remembered; what it raises is not."""
        if torch.compiler.is_compiling():  # sizes may be symbols
            return self.decide(tensors, *options)
        try:
            key = (options, *[None if t is None else (t.shape, t.stride(), t.dtype, t.device) for t in tensors])
            found = self.known.get(key)
        except (AttributeError, RuntimeError, TypeError):  # something else than a dense tensor with sizes known
            return self.decide(tensors, *options)
        if found is None:
            if tracing_state():  # sizes in the key are tensors
                return untraced(self.decide, tensors, *options)
            found = self.decide(tensors, *options)
            if tensors[0] is not None and tensors[0].device.type != "meta":  # whose checks ask what is recorded, too
                if len(self.known) >= self.MOST:
                    self.known.clear()
                self.known[key] = found
        return found
