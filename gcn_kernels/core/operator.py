"""Registration of an operator: from one :class:`Operator` follow schema check, shapes, derivatives and the eager path.

An operator is a pair in the namespace ``gcn_kernels``: a forward operator, and a backward operator that gives the gradients of
its tensors. What they take is read from their schemas, and arguments go by their names, so that a specification repeats nothing:

* The forward operator takes its tensors first (``Tensor``, ``Tensor?``, ``Tensor[]``) and then its options. Its
  first result is y. Other results are kept for the backward pass, and no derivative goes through them.
* The backward operator takes ``dy``, then what it needs of the forward operator's tensors and results, then ``int wanted``, then
  what it needs of the options. It gives the gradients of all tensors of the forward operator in their order, a list where the
  argument is a list. Bit i of ``wanted`` asks for the i-th tensor's, those of lists counted one by one; the others are empty.

To autograd the kept results are an opaque cache. So the backward operator counts as a function of dy and of the forward
operator's tensors, and its own derivative is taken through the definition in :mod:`gcn_kernels.reference`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from gcn_kernels.core import flops
from gcn_kernels.core.backends import foreign_transform


@dataclass(eq=False)
class Operator:
    """A forward operator and its backward operator.

    Attributes:
        schema: of the forward operator, as PyTorch prints it.
        backward_schema: of the backward operator.
        results: names for the results of the forward operator, the first of which is y.
        definition: y from the tensors of the forward operator, in their order, and then the options in ``definition_options``;
            of its rows and columns the operator may give the first ones.
        fake: the forward operator for tensors without data: takes what it takes and gives empty results of the right shapes;
            None where Python declares the operators, and their shapes with them, rather than the library ``_C``.
        vectors: for every tensor that may be missing, be it optional or not among what the backward operator takes: the tensor,
            or dy, and the dimension of it that tell its length. Lists go element by element.
        read: those of ``vectors`` whose values the backward operator reads. The others may be changed before the backward pass.
        unread: for an operator that takes a list of vectors: its name, and a function of the forward operator's options. It tells
            for each element of the list whether the backward operator does without its value.
        added: the last of the forward operator's tensors, if they are optional maps that are added to y. Their gradient is dy;
            neither the backward operator nor the definition knows of them.
        definition_options: names of the options that the definition needs, passed by their names.
        backends: which of ``"cpu"``, ``"cuda"``, ``"triton"`` have kernels for it, besides the definition.

    Example:
        >>> from gcn_kernels.gcn.spec import GCN
        >>> GCN.name, GCN.tensors[:3], GCN.options
        ('gcn', ('x', 'w_l1', 'w_l2'), ('channels_last', 'cache_weights', 'allow_tf32', 'algo'))
    """

    schema: str
    backward_schema: str
    results: tuple[str, ...]
    definition: Callable[..., Tensor]
    fake: Callable[..., tuple[Tensor, ...] | Tensor] | None = None
    vectors: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    read: tuple[str, ...] = ()
    unread: tuple[str, Callable[..., Sequence[bool]]] | None = None
    added: tuple[str, ...] = ()
    definition_options: tuple[str, ...] = ()
    backends: tuple[str, ...] = ("cpu", "cuda", "triton")

    #: Name of the forward operator, without its namespace, and of the backward operator.
    name: str = field(init=False)
    backward_name: str = field(init=False)
    #: Names of the forward operator's tensors and options.
    tensors: tuple[str, ...] = field(init=False)
    options: tuple[str, ...] = field(init=False)
    #: Names of the tensors whose gradients the backward operator gives.
    graded: tuple[str, ...] = field(init=False)
    #: Names of the tensors that the backward operator takes besides dy, and of its options besides ``wanted``.
    saved: tuple[str, ...] = field(init=False)
    backward_options: tuple[str, ...] = field(init=False)
    #: The registered operators, once they are.
    forward: Any = field(init=False, default=None)
    backward: Any = field(init=False, default=None)
    #: Whether ``torch.utils.flop_counter`` knows them.
    counted: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.name, self.backward_name = (s.split("(")[0].split("::")[1] for s in (self.schema, self.backward_schema))
        if "Tensor?[]" in self.schema:  # PyTorch lets no gradient through a list in which one is missing
            raise ValueError(f"{self.name}: expected lists of type Tensor[], without gaps, got Tensor?[]")
        self.tensors, self.options = _arguments(self.schema)
        self.graded = self.tensors[: len(self.tensors) - len(self.added)]
        (_, *saved), (_, *backward_options) = _arguments(self.backward_schema)
        self.saved, self.backward_options = tuple(saved), tuple(backward_options)
        everything = (*self.tensors, *self.options, *self.results)
        self._saved_places = tuple(everything.index(name) for name in self.saved)
        self._option_places = tuple(everything.index(name) for name in self.backward_options)
        unread = [name in self.vectors and name not in self.read for name in self.saved]
        self._unread_places = tuple(i for i, is_unread in enumerate(unread) if is_unread)
        self._takes_lists = "Tensor[]" in self.schema

    @property
    def schemas(self) -> dict[str, str]:
        """Both schemas by the names of the operators."""
        return {self.name: self.schema, self.backward_name: self.backward_schema}

    def register(self) -> None:
        """Attach shapes (fake kernels) and both derivatives to the two operators, which have been declared."""
        if self.fake is not None:
            torch.library.register_fake(f"gcn_kernels::{self.name}", self.fake)
            torch.library.register_fake(f"gcn_kernels::{self.backward_name}", self.backward_fake)
        torch.library.register_autograd(f"gcn_kernels::{self.name}", self._backward, setup_context=self._save)
        torch.library.register_autograd(
            f"gcn_kernels::{self.backward_name}", self._double_backward, setup_context=self._save_for_double_backward
        )
        self.forward, self.backward = (getattr(torch.ops.gcn_kernels, name).default for name in self.schemas)

    def __call__(self, tensors: Sequence[Any], options: tuple[object, ...]) -> Tensor:
        """Call the forward operator and return y, recording a gradient where one is needed.

        Args:
            tensors: what it takes first, in order.
            options: what it takes after them, in order.
        """
        # A graph that outlives this call holds the operator itself.
        return self._first(self.forward(*tensors, *options)) if is_traced() else self.run(tensors, options)

    def run(self, tensors: Sequence[Any], options: tuple[object, ...]) -> Tensor:
        """:meth:`__call__` where it is known that no graph of this call is being made."""
        self._count()
        if torch.is_grad_enabled() and records(flat := _flatten(tensors) if self._takes_lists else tensors):
            y: Tensor = _Recorded.apply(self, (*tensors, *options), *flat)  # type: ignore[no-untyped-call]
            return y
        call = _dispatched if torch.is_inference_mode_enabled() else _unrecorded
        return self._first(call(self.forward, *tensors, *options))

    def _count(self) -> None:
        """Tell ``torch.utils.flop_counter``, once it is imported, how to count both operators."""
        self.counted = self.counted or flops.register_if_counted(self)

    def _first(self, results: Any) -> Tensor:
        y: Tensor = results if len(self.results) == 1 else results[0]
        return y

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if len(self.results) == 1:
            everything = (*inputs, output)
        else:
            everything = (*inputs, *output)
            ctx.mark_non_differentiable(*everything[len(inputs) + 1 :])
        ctx.set_materialize_grads(False)
        values = [everything[place] for place in self._saved_places]
        # Biases whose values the backward kernels do not read: one that an optimizer changes before the backward pass is no
        # error, as with conv2d. Only the derivative of the backward pass needs the values as they were.
        ctx.unread = unread = {}
        for i in self._unread_places:
            unread[i], values[i] = values[i], None
        if self.unread is not None:
            name, is_unread = self.unread
            i = self.saved.index(name)
            flags = is_unread(*inputs[len(self.tensors) :])
            unread[i] = [t if flag else None for t, flag in zip(values[i], flags, strict=True)]
            values[i] = [None if flag else t for t, flag in zip(values[i], flags, strict=True)]
        _keep(ctx, values)
        ctx.versions = _versions(unread.values())
        ctx.options = [inputs[place] for place in self._option_places]

    def _gradients(self, ctx: Any, dy: Tensor | None, needed: Sequence[bool], call: Callable[..., Any]) -> list[Tensor | None]:
        """The gradients of all tensors, those of lists one by one, where needed; ``call`` calls the backward operator."""
        self._count()
        if self.added:
            graded = len(needed) - len(self.added)
            needed, sums = needed[:graded], [dy if need else None for need in needed[graded:]]
            return [*self._graded(ctx, dy, needed, call), *sums]
        return self._graded(ctx, dy, needed, call)

    def _graded(self, ctx: Any, dy: Tensor | None, needed: Sequence[bool], call: Callable[..., Any]) -> list[Tensor | None]:
        """Those of them that the backward operator gives."""
        wanted = sum(1 << i for i, need in enumerate(needed) if need)
        if dy is None or not wanted:
            return [None] * len(needed)
        if torch.is_grad_enabled() and _versions(ctx.unread.values()) != ctx.versions:
            changed = [self.saved[i] for i, value in ctx.unread.items() if value is not None]
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"{' or '.join(changed)} was changed between the forward pass and a backward pass with create_graph=True, whose "
                "own derivative needs their values; change them after the last backward pass, or use clones"
            )
        saved = _kept(ctx)
        for i, value in ctx.unread.items():
            saved[i] = _merged(saved[i], value) if isinstance(value, list) else value
        # torch.autograd maps over gradients in a way of its own, which is no torch.func transform.
        if foreign_transform() is not None or torch._C._functorch.is_legacy_batchedtensor(dy):
            return self._through_the_definition(dy, saved, needed, ctx.options)
        found = _flatten(call(self.backward, dy, *saved, wanted, *ctx.options))
        return [g if need else None for g, need in zip(found, needed, strict=True)]

    def _through_the_definition(
        self, dy: Tensor, saved: Sequence[Any], needed: Sequence[bool], options: Sequence[Any]
    ) -> list[Tensor | None]:
        """The gradients where a transform is at work that the backward operator has no rule for."""
        keep_graph = torch.is_grad_enabled()
        # Of dy only sizes are asked for.
        sizes = saved[0].new_empty(()).expand(dy.shape)
        given = {"dy": sizes, **dict.fromkeys(self.graded), **dict(zip(self.saved, saved, strict=True))}
        named = dict(zip(self.backward_options, options, strict=True))
        with torch.enable_grad():
            variables = self.variables(given)
            y = self._defined(variables, named, dy)
            found = iter(torch.autograd.grad(y, list(compress(_flatten(variables), needed)), dy, create_graph=keep_graph))
        return [next(found) if need else None for need in needed]

    def _defined(self, variables: Sequence[Any], options: Mapping[str, Any], dy: Tensor) -> Tensor:
        """y by the definition, of which the operator may have given the first rows and columns."""
        y = self.definition(*variables, **{name: options[name] for name in self.definition_options})
        return y if y.shape == dy.shape else y[tuple(slice(size) for size in dy.shape)]

    def _backward(self, ctx: Any, dy: Tensor | None, *_: None) -> tuple[Any, ...]:
        needs = ctx.needs_input_grad[: len(self.tensors)]
        gradients = iter(self._gradients(ctx, dy, _flatten(needs), _dispatched))
        return (*_like(needs, gradients), *(None for _ in self.options))

    def given_backward(self, arguments: Iterable[Any]) -> dict[str, Any]:
        """The arguments of the backward operator by their names."""
        return dict(zip(("dy", *self.saved, "wanted", *self.backward_options), arguments, strict=True))

    def backward_fake(self, *arguments: Any) -> tuple[Any, ...]:
        """The backward operator for tensors without data."""
        given = self.given_backward(arguments)
        wanted, i = given["wanted"], 0
        dy: Tensor = given["dy"]

        def gradient(name: str, t: Tensor | None, source: Tensor | None) -> Tensor:
            nonlocal i
            i += 1
            if not wanted >> (i - 1) & 1:
                return dy.new_empty(0)
            if source is not None:
                return dy.new_empty(source.shape[self.vectors[name][1]])
            return torch.empty_like(t)  # type: ignore[arg-type]

        def gradients(name: str) -> Tensor | list[Tensor]:
            t, source = given.get(name), given[self.vectors[name][0]] if name in self.vectors else None
            if not isinstance(t if source is None else source, (list, tuple)):
                return gradient(name, t, source)
            count = len(t if source is None else source)  # type: ignore[arg-type]
            return [gradient(name, (t or [None] * count)[j], source[j] if source else None) for j in range(count)]

        return tuple(gradients(name) for name in self.graded)

    def _save_for_double_backward(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        given = self.given_backward(inputs)
        ctx.set_materialize_grads(False)
        _keep(ctx, [given["dy"], *(given.get(name) for name in self.graded)])
        ctx.given = {name: given[name] for name in ("wanted", *self.backward_options)}

    def _double_backward(self, ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        """Differentiate the gradients through the definition; the result can itself be differentiated."""
        outer = _flatten(grad_outputs)
        wanted = [bool(ctx.given["wanted"] >> i & 1) and g is not None for i, g in enumerate(outer)]
        keep_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            kept_dy, *kept = _kept(ctx)
            if not any(wanted):
                return self._none_for_backward(dict(zip(self.graded, kept, strict=True)), None, {})
            dy = _alias(kept_dy)
            given = {"dy": kept_dy, **dict(zip(self.graded, kept, strict=True))}
            variables = self.variables(given)
            flat = _flatten(variables)
            y = self._defined(variables, ctx.given, dy)
            first = torch.autograd.grad(y, list(compress(flat, wanted)), dy, create_graph=True)
            found = torch.autograd.grad(
                first, (dy, *flat), list(compress(outer, wanted)), create_graph=keep_graph, allow_unused=True
            )
        gradients = dict(zip(self.graded, _like(variables, iter(found[1:])), strict=True))
        return self._none_for_backward(given, found[0], gradients)

    def variables(self, given: dict[str, Any]) -> list[Any]:
        """Variables that stand for the definition's tensors, where the backward operator has not been given all of them."""
        return [self._variable(name, given) for name in self.graded]

    def _variable(self, name: str, given: dict[str, Any]) -> Any:
        """A variable of its own for a tensor or for each of a list, zero where there is none."""

        def zeros(source: Tensor) -> Tensor:
            return source.new_zeros(source.shape[self.vectors[name][1]])

        t = given[name]
        if name not in self.vectors:
            return [_alias(item) for item in t] if isinstance(t, (list, tuple)) else _alias(t)
        source = given[self.vectors[name][0]]
        if not isinstance(source, (list, tuple)):
            return _alias(zeros(source) if t is None else t)
        return [_alias(zeros(s) if item is None else item) for item, s in zip(t or [None] * len(source), source, strict=True)]

    def _none_for_backward(self, given: dict[str, Any], d_dy: Tensor | None, gradients: dict[str, Any]) -> tuple[Any, ...]:
        """What autograd expects of the backward operator's derivative: one for each argument, None where there is none."""

        def one(name: str) -> Any:
            value = given.get(name)
            if isinstance(value, (list, tuple)):
                found = gradients.get(name, [None] * len(value))
                return [None if t is None else d for t, d in zip(value, found, strict=True)]
            return None if value is None else gradients.get(name)

        return (d_dy, *map(one, self.saved), None, *(None for _ in self.backward_options))


class _Recorded(torch.autograd.Function):
    """An operator for eager autograd: the same formula as the registered one, reached in half the time.

    The dispatcher's way to a Python autograd formula costs about 80 us a call, as much as a small block's convolutions.
    """

    @staticmethod
    def forward(ctx: Any, operator: Operator, arguments: tuple[Any, ...], *flat: Tensor | None) -> Tensor:
        output = _unrecorded(operator.forward, *arguments)
        ctx.operator = operator
        operator._save(ctx, arguments, output)
        return operator._first(output)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Any, ...]:
        call = _dispatched if torch.is_grad_enabled() or is_traced() else _unrecorded
        return (None, None, *ctx.operator._gradients(ctx, dy, ctx.needs_input_grad[2:], call))


def _dispatched(run: Callable[..., Any], *arguments: Any) -> Any:
    return run(*arguments)


def _unrecorded(run: Callable[..., Any], *arguments: Any) -> Any:
    """``run(*arguments)`` where there is nothing to record: the dispatcher would ask whether there is, in Python (13 us)."""
    with torch._C._AutoDispatchBelowAutograd():
        return run(*arguments)


def records(tensors: Sequence[Tensor | None]) -> bool:
    """Whether autograd records what is done with ``tensors``."""
    return torch.is_grad_enabled() and any([t is not None and t.requires_grad for t in tensors])


def autocast(dtype: torch.dtype, t: Tensor) -> Tensor:
    """Cast as autocast does for conv2d: every floating tensor but float64."""
    return t if t.dtype == torch.float64 else t.to(dtype)


def is_traced() -> bool:
    """Whether a graph of this call is being made, which will outlive it."""
    return torch.compiler.is_compiling() or bool(torch._C._get_tracing_state())


def _arguments(schema: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the arguments that are tensors or lists of them, and of the others."""
    arguments = torch._C.parse_schema(schema).arguments
    tensors = [a.name for a in arguments if "Tensor" in str(a.type)]
    return tuple(tensors), tuple(a.name for a in arguments if a.name not in tensors)


def _flatten(values: Iterable[Any]) -> list[Any]:
    """The elements, those of lists one by one."""
    flat: list[Any] = []
    for value in values:
        if isinstance(value, (list, tuple)):
            flat += value
        else:
            flat.append(value)
    return flat


def _like(structure: Sequence[Any], flat: Iterator[Any]) -> list[Any]:
    """The elements of ``flat``, in lists where ``structure`` has lists."""
    return [[next(flat) for _ in part] if isinstance(part, (list, tuple)) else next(flat) for part in structure]


def _merged(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
    """Element by element what is not None."""
    return [x if y is None else y for x, y in zip(a, b, strict=True)]


def _keep(ctx: Any, values: Sequence[Any]) -> None:
    """Save tensors and lists of tensors."""
    ctx.save_for_backward(*_flatten(values))
    ctx.lengths = [len(value) if isinstance(value, (list, tuple)) else -1 for value in values]


def _kept(ctx: Any) -> list[Any]:
    """What :func:`_keep` has saved."""
    flat = iter(ctx.saved_tensors)
    return [next(flat) if length < 0 else [next(flat) for _ in range(length)] for length in ctx.lengths]


def _versions(values: Iterable[Any]) -> list[int | None]:
    """How often each tensor was changed in place; None for those that keep no count (inference tensors)."""
    return [None if t is None or t.is_inference() else t._version for t in _flatten(values)]


def _alias(t: Tensor) -> Tensor:
    """A differentiable stand-in for ``t`` that is a graph node of its own.

    Differentiating with respect to it does not run on into how dy, say, came from x: that is the caller's part of the
    chain rule.
    """
    return t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
