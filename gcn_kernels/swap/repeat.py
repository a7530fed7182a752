"""A run of straight-line code, repeated: its own forward runs again, and what waited in the watched run is passed over.

Where :mod:`gcn_kernels.swap.straight_line` has proven that a forward makes the same calls of PyTorch in every run, the results
in the middle of a chain or a sum need no tensor that could become anything. A *token* stands for each, one and the same in all
runs, and the call that ends the chain or the sum gives the result of the operator. Every call is held against the one that was
noted: the function, the tokens it reads, sizes and options of a convolution. Where one differs, the run is given up, and a
watched one begins anew; straight-line code has done nothing yet that anybody could see.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gcn_kernels.swap import rules
from gcn_kernels.swap.expression import Expression, Fused, Given, Padding, Step, Sum, Weighted, ZeroAdded, autocast_dtype, fold
from gcn_kernels.swap.scope import Call, Scope, may_write
from gcn_kernels.swap.steps import EXTEND, in_order, takes

_batch_norm = F.batch_norm


class Block(NamedTuple):
    """A call of a fused operator: its family, the numbers of the calls of its convolutions, and what ``Fused.form`` says."""

    family: str
    steps: tuple[int, ...]
    form: Any


class Repeated(NamedTuple):
    """A call as it was noted.

    Attributes:
        func: the function.
        options: arguments given by their names.
        reads: of a part of a block, for each map it reads: a token; the number of a call that read the same map first; None for
            any other map.
        form: of a convolution in a block, or of a normalisation that is folded, all but the map; None for a ReLU and a sum.
        folds: of a normalisation, the number of the call of the convolution that it is folded into.
        token: stands for the result; None where that is there.
        block: gives the result.
    """

    func: Any
    options: dict[str, Any]
    reads: tuple[Tensor | int | None, ...] = ()
    form: Any = None
    token: Tensor | None = None
    block: Block | None = None
    folds: int | None = None


class Program(NamedTuple):
    """The calls of a run, the tokens, and what is known of the maps that the blocks read."""

    calls: tuple[Repeated, ...]
    tokens: frozenset[int]
    autocast: torch.dtype | None


class _Differs(BaseException):
    """The run is not the one that was noted."""


class _Repeat(TorchFunctionMode):
    """The time of one repeated run."""

    def __init__(self, program: Program, x: Tensor, backend: str) -> None:
        super().__init__()
        self.program, self.x, self.backend = program, x, backend
        self.at = 0
        self.given: dict[int, Any] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Give what stands for the result of ``func``, or the result."""
        at, calls, tokens = self.at, self.program.calls, self.program.tokens
        if func is Tensor.dim:  # which a normalisation asks for
            return 4 if id(args[0]) in tokens else func(*args)
        args, kwargs = in_order(func, args, kwargs or {})
        if at >= len(calls) or calls[at].func is not func or kwargs != calls[at].options:
            raise _Differs
        self.at = at + 1
        _, options, reads, form, token, block, folds = calls[at]
        if token is None and block is None:
            if any(id(argument) in tokens for argument in args) or (func is _batch_norm and args[5:6] != (False,)):
                raise _Differs
            if args[0] is self.x and options.get("inplace"):
                raise _Differs  # a change that the caller sees, and a watched run would make once more
            return func(*args, **options)
        for read, argument in zip(reads, args, strict=False):
            if isinstance(read, Tensor):
                differs = argument is not read
            elif read is None:
                differs = type(argument) is not Tensor or id(argument) in tokens
            else:
                differs = argument is not self.given[read][0]
                # The convolutions are of autocast's dtype, and so their sum with a map of another one is not the operator's.
                differs = differs or (form is None and self.program.autocast not in (None, argument.dtype))
            if differs:
                raise _Differs
        if form is not None:
            if form_of(args[1:]) != form or (reads[0] is None and not self._takes(args)):
                raise _Differs
            if folds is None:
                self.given[at] = args
            else:
                if args[1].requires_grad or args[2].requires_grad:
                    raise _Differs
                x, weight, bias = self.given[folds][:3]
                self.given[at] = (x, *fold(weight, bias, *args[1:]))
        return token if block is None else self._fused(block)

    def _takes(self, args: Any) -> bool:
        x, weight = args[:2]
        autocast = self.program.autocast
        fits = x.shape[1] == weight.shape[1] * args[6] and x.device == weight.device if takes(x) else False
        return fits and (x.dtype is weight.dtype if autocast is None else x.dtype is not torch.float64)

    def _fused(self, block: Block) -> Tensor:
        given = [self.given[step] for step in block.steps]
        x = given[0][0]
        if block.family in ("gcn", "refine"):
            fused: Any = rules.fused_gcn if block.family == "gcn" else rules.fused_refine
            y: Tensor = fused(x, *(args[1] for args in given), *(args[2] for args in given), backend=self.backend)
            return y
        has_stem, lengths, skip, dilations = block.form
        steps = iter([(args[1], args[2], dilation) for args, dilation in zip(given, dilations, strict=True)])
        stem = next(steps) if has_stem else None
        branches = [[next(steps) for _ in range(length)] for length in lengths]
        return rules.fused_strips(x, branches, stem=stem, skip=skip, backend=self.backend)


def repeat(program: Program, forward: Callable[..., Any], module: nn.Module, x: Tensor, backend: str) -> Tensor | None:
    """The result of ``forward`` of ``x``, or None where it does not make the calls of the program."""
    if autocast_dtype(x) is not program.autocast:
        return None
    mode = _Repeat(program, x, backend)
    try:
        with mode:
            y = forward(module, x)
    except _Differs:
        return None
    if mode.at != len(program.calls) or type(y) is not Tensor or id(y) in program.tokens:
        return None
    return y


def program_of(scope: Scope, released: Any) -> Program | None:
    """The program of a run that has been watched, or None where it cannot be repeated.

    Args:
        scope: of the run.
        released: what it gave, after nothing waits any more.
    """
    notes, ends = scope.notes, {end: block for block, end in scope.fused}
    if not notes or not ends or type(released) is not Tensor:
        return None
    number: dict[Expression, int] = {}
    tokens: dict[Expression, Tensor] = {}
    calls: list[Repeated] = []
    for call in notes:
        node = call.node
        if node is None and ((call.func in EXTEND and call.func not in _PLAIN) or _writes(call)):
            return None
        if node is None:
            calls.append(Repeated(call.func, call.options))
            continue
        if isinstance(node, (Padding, ZeroAdded)) or (node.result is None) == (node in ends):
            return None  # computed by itself, after all
        reads = _reads(node, number, tokens)
        if reads is None:
            return None
        token = None if node in ends else torch.empty(0)
        if token is not None:
            tokens[node] = token
        number[node] = len(calls)
        block = _block(ends[node], number) if node in ends else None
        form, folds = None, None
        if isinstance(node, Weighted):
            form = form_of(node.rest)
            folds = number[node.source] if node.normalises and isinstance(node.source, Step) else None
        calls.append(Repeated(call.func, call.options, reads, form, token, block, folds))
    autocast = next(iter(number)).modes[2]
    return Program(tuple(calls), frozenset(map(id, tokens.values())), autocast)


#: Functions that extend expressions and may be repeated as they are.
_PLAIN = frozenset({_batch_norm, torch.conv2d, torch.add, Tensor.add, Tensor.__add__, F.relu, torch.relu, Tensor.relu})


def _writes(call: Call) -> bool:
    """Whether a call may change a tensor that was there before the run; results of the run itself may be changed in place."""
    return may_write(call.func, {name: option for name, option in call.options.items() if name != "inplace"})


def _block(fused: Fused, number: dict[Expression, int]) -> Block:
    return Block(fused.family, tuple(number[step] for step in fused.steps), fused.form)


def _reads(
    node: Expression, number: dict[Expression, int], tokens: dict[Expression, Tensor]
) -> tuple[Tensor | int | None, ...] | None:
    """What a call reads, or None where that cannot be told."""
    sides: Any = (node.left, node.right) if isinstance(node, Sum) else (node.source,)
    found: list[Tensor | int | None] = []
    for side in sides:
        source = side.source if type(side) is Given else side
        if isinstance(source, (Step, Sum)):
            if source not in tokens:
                return None
            found.append(tokens[source])
        else:
            same = [n for other, n in number.items() if isinstance(other, Step) and other.source is source]
            found.append(same[0] if same else None)
    return tuple(found)


def form_of(rest: tuple[Any, ...]) -> tuple[Any, ...]:
    """Everything of the arguments of a convolution or a normalisation after the map that a block depends on, but for values."""
    return tuple((type(a), a.shape, a.dtype, a.device) if isinstance(a, Tensor) else a for a in rest)
