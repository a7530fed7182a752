"""Forwards that can do only one thing, which need not be watched while they run.

Most blocks are written as straight-line code: it calls children of the module, adds or multiplies their results and returns one,
without a global name, a branch, or an attribute of anything but the module. An ``nn.Sequential`` is as straight. What such a
forward computes depends on nothing but its input and its children. So after one watched run a later call need not be watched
again (one that was a GCN block and nothing else goes to the operator at once; any other is repeated,
:mod:`gcn_kernels.swap.repeat`) if

* the code of the forward is the same, straight-line code, as that of wrappers between the module and the convolutions is;
* what it reads by name still leads to modules of the same classes, without hooks or a forward of their own;
* the convolutions still are such as make a block of the tensors that they hold now; and
* nothing that PyTorch itself does in between has been replaced.

All of this is looked at in every call. Where something differs, the call is watched, as any other
(:mod:`gcn_kernels.swap.scope`), and what was known is forgotten until a watched run shows it again.
"""

import dis
import inspect
import types
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcn_kernels.swap import rules
from gcn_kernels.swap.expression import Fused, autocast_dtype
from gcn_kernels.swap.repeat import Program, program_of, repeat
from gcn_kernels.swap.scope import Scope, observed
from gcn_kernels.swap.steps import go_together, line_axis, takes

#: Instructions that read and write local names, read attributes, call, add, index and return. None of them branches, none
#: reaches a name outside the function, none stores where anybody else could look. The names are those of Python 3.10 to 3.14.
_HARMLESS = frozenset(
    (
        *("RESUME", "NOP", "CACHE", "PRECALL", "PUSH_NULL", "COPY", "SWAP", "ROT_TWO", "POP_TOP", "RETURN_VALUE"),
        *("LOAD_CONST", "LOAD_SMALL_INT", "LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW", "LOAD_FAST_LOAD_FAST"),
        *("LOAD_FAST_BORROW_LOAD_FAST_BORROW", "STORE_FAST", "STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST", "DELETE_FAST"),
        *("LOAD_ATTR", "LOAD_METHOD", "CALL", "CALL_FUNCTION", "CALL_METHOD"),
        *("BINARY_OP", "BINARY_ADD", "BINARY_MULTIPLY", "BINARY_SUBTRACT", "INPLACE_ADD", "BINARY_SUBSCR"),
    )
)
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")
#: Methods of a tensor that a straight-line forward may call.
_METHODS = frozenset({"clone", "sigmoid", "relu", "tanh"})

#: PyTorch's own classes that may be in a straight-line block, and beside them the functions that they call.
_OWNERS = types.SimpleNamespace(
    functional=F,
    **{kind.__name__: kind for kind in (nn.Conv2d, nn.BatchNorm2d, nn.Sequential, nn.ModuleList)},
    **{kind.__name__: kind for kind in (nn.Identity, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh)},
)
#: What runs of every one of them, and what of some.
_OF_EVERY_MODULE = ("__call__", "_call_impl", "_wrapped_call_impl", "__getattr__", "__getattribute__", "forward")
_OF_SOME = {
    "Conv2d": ("Conv2d._conv_forward", "functional.conv2d"),
    "BatchNorm2d": ("BatchNorm2d._check_input_dim", "functional.batch_norm"),
    "Sequential": ("Sequential.__iter__",),
    "ModuleList": ("ModuleList.__getitem__", "ModuleList._get_abs_string_index"),
}
_KNOWN: dict[type[nn.Module], tuple[str, ...]] = {
    kind: (*(f"{name}.{path}" for path in _OF_EVERY_MODULE), *_OF_SOME.get(name, ()))
    for name, kind in vars(_OWNERS).items()
    if kind is not F
}
#: All of this as it was when this module was imported, and the code of what is a function.
_AT_IMPORT = {path: attrgetter(path)(_OWNERS) for paths in _KNOWN.values() for path in paths}
_AT_IMPORT |= {f"{path}.__code__": f.__code__ for path, f in _AT_IMPORT.items() if hasattr(f, "__code__")}


class Library(NamedTuple):
    """What runs of PyTorch's classes: how to read all of it at once, and what that gave at import."""

    read: Callable[[Any], tuple[Any, ...]]
    expected: tuple[Any, ...]


@lru_cache(maxsize=256)
def _library(kinds: tuple[type[nn.Module], ...]) -> Library:
    # Most is the same function in every class, whose code is read once.
    functions = {path: _AT_IMPORT[path] for kind in kinds for path in _KNOWN.get(kind, ())}
    once = {function: path for path, function in functions.items()}
    paths = (*functions, *(path for path in (f"{path}.__code__" for path in once.values()) if path in _AT_IMPORT))
    return Library(attrgetter(*paths), tuple(_AT_IMPORT[path] for path in paths))


#: How a module of any class runs: that of PyTorch's own classes is the usual one.
_HOW = attrgetter("__getattr__", "__getattribute__", "__call__", "_call_impl")
_USUAL_HOW = _HOW(nn.Conv2d)
_FORWARD = attrgetter("forward", "forward.__code__")
#: Of what a module has: its hooks; and of a convolution, what decides whether it may be of a block, but for its tensors.
_HOOKS = itemgetter("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OPTIONS = itemgetter("stride", "padding", "dilation", "groups", "padding_mode")


#: Modules that a straight-line forward may run.
MOST_PLACES = 32


class Place(NamedTuple):
    """A module below the block: the place of its parent in the list, its name there, its class, the names of its children."""

    parent: int
    name: str
    kind: type[nn.Module]
    children: tuple[str, ...]


class Proof(NamedTuple):
    """What the module was when its run was watched.

    Attributes:
        code: of the forward of its class.
        library: what is to be as PyTorch has it.
        wrappers: classes between it and the convolutions that have a straight-line forward, with the code of that.
        places: every module that runs, parents first; -1 is the module itself.
        program: of one that is more than a GCN block, what its run was.
        roles: of any other, the indices in ``places`` of its convolutions l1, l2, r1, r2.
        lines: what these were: ``_OPTIONS`` and the weight's shape.
        children: of an ``nn.Sequential``, the names of what it runs.
    """

    code: types.CodeType
    library: Library
    wrappers: tuple[tuple[type[nn.Module], types.CodeType], ...]
    places: tuple[Place, ...]
    program: Program | None = None
    roles: tuple[int, ...] = ()
    lines: tuple[Any, ...] = ()
    children: tuple[str, ...] = ()


#: What is known of every converted module, for each mode (``module.training``) that it was watched in; None where it is no proof.
_known: "weakref.WeakKeyDictionary[nn.Module, dict[bool, Proof | None]]" = weakref.WeakKeyDictionary()


def run(
    module: nn.Module, original: type[nn.Module], inputs: tuple[Any, ...], named: dict[str, Any], backend: str
) -> Tensor | None:
    """The result of a call of ``module`` that need not be watched, or None."""
    proof = _known.get(module, {}).get(module.training)
    if proof is None or named or len(inputs) != 1:
        return None
    (x,) = inputs
    if type(x) is not Tensor or torch._C._len_torch_function_stack() or observed() or not takes(x):
        return None
    modules = _modules(module, original, proof)
    if modules is not None and proof.program is not None:
        forward: Any = original.forward
        y = repeat(proof.program, forward, module, x, backend)
        if y is not None:
            return y
    elif modules is not None and (block := _block(x, [modules[role] for role in proof.roles], proof.lines)) is not None:
        return rules.fused_gcn(x, *block, backend=backend)
    _known[module].pop(module.training, None)
    return None


def is_known(module: nn.Module) -> bool:
    """Whether a watched run of ``module`` has shown what it is, or, in the mode that it is in, that this cannot be told."""
    return module.training in _known.get(module, {})


def give_up(module: nn.Module) -> None:
    """Remember that a watched run of ``module`` cannot be repeated, so that the next ones are not noted."""
    _known.setdefault(module, {}).setdefault(module.training, None)


def learn(module: nn.Module, original: type[nn.Module], scope: Scope, result: Any) -> Callable[[Any], None]:
    """Remember what a watched run of ``module`` was, once its result has been released, with which the answer is to be called."""
    block = scope.whole(result)

    def finish(released: Any) -> None:
        proof = None if block is None else _prove(module, original, block)
        if block is None and (program := program_of(scope, released)) is not None:
            proof = _proof(module, original, program)
        _known.setdefault(module, {})[module.training] = proof

    return finish


def _modules(module: nn.Module, original: type[nn.Module], proof: Proof) -> list[Any] | None:
    """What is at the places of the proof, or None where something could have become another."""
    try:
        if proof.library.read(_OWNERS) != proof.library.expected:
            return None
        if not _runs(original, proof.code) or not all(_runs(kind, code) for kind, code in proof.wrappers):
            return None
    except AttributeError:  # what was a function has no code now
        return None
    if proof.children and tuple(module._modules) != proof.children:
        return None
    found: list[Any] = []
    for parent, name, kind, children in proof.places:
        above = module if parent < 0 else found[parent]
        contained = proof.children if parent < 0 else type(above) in _CONTAINERS
        m = above._modules.get(name) if contained else getattr(above, name, None)
        if type(m) is not kind or m._compiled_call_impl is not None or not m.__dict__.keys().isdisjoint(_OWN):
            return None
        if any(_HOOKS(m.__dict__)):
            return None
        if kind is not nn.Conv2d and tuple(m._modules) != children:
            return None
        found.append(m)
    return found


_CONTAINERS = (nn.Sequential, nn.ModuleList)
#: Attributes of a module by which it runs something else than its class says.
_OWN = frozenset({"forward", "_call_impl", "_wrapped_call_impl", "_conv_forward", "weight", "bias"})


def _runs(kind: Any, code: types.CodeType) -> bool:
    """Whether modules of ``kind`` run ``code``, in the way and with the children that all modules have."""
    forward, its_code = _FORWARD(kind)
    return _HOW(kind) == _USUAL_HOW and type(forward) is types.FunctionType and its_code is code


def _line(conv: nn.Conv2d) -> tuple[Any, ...] | None:
    """What a convolution of a block is, but for the values, dtype and device of its tensors."""
    own = conv.__dict__
    parameters = own["_parameters"]
    weight = parameters.get("weight")
    return None if weight is None or "bias" not in parameters else (_OPTIONS(own), weight.shape)


def _block(x: Tensor, convs: list[nn.Conv2d], lines: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Weights and biases if the convolutions still are what makes a block, of tensors that the operator takes."""
    weights, biases = [], []
    autocast = autocast_dtype(x)
    for conv, line in zip(convs, lines, strict=True):
        if _line(conv) != line:
            return None
        parameters = conv.__dict__["_parameters"]
        weight, bias = parameters["weight"], parameters["bias"]
        if not go_together(x, weight, bias, autocast):
            return None
        weights.append(weight)
        biases.append(bias)
    return (*weights, *biases) if weights[0].shape[1] == x.shape[1] else None


def _is_block(convs: list[nn.Conv2d]) -> bool:
    """Whether the weights of the convolutions l1, l2, r1, r2 chain into a block, and nothing else stands for them."""
    for conv, axis in zip(convs, (0, 1, 1, 0), strict=True):
        if "weight" not in conv._parameters or "bias" not in conv._parameters or conv.padding_mode != "zeros":
            return False
        if line_axis(conv.weight, conv.stride, conv.padding, conv.dilation, conv.groups) != axis:
            return False
    l1, l2, r1, r2 = (conv.weight.shape for conv in convs)
    return l1[1] == r1[1] and l2[1] == l1[0] and r2[1] == r1[0] and l2[0] == r2[0]


def _proof(module: nn.Module, original: type[nn.Module], program: Program | None) -> Proof | None:
    """Of all but the roles, or None where the code is not straight."""
    forward: Any = original.forward
    children = tuple(module._modules) if original is nn.Sequential else ()
    names = children or _straight(forward)
    if names is None:
        return None
    places: list[Place] = []
    wrappers: dict[type[nn.Module], types.CodeType] = {}
    if not _add(module, -1, names, places, wrappers):
        return None
    library = _library(tuple(dict.fromkeys((original, *(_known_as(place.kind) for place in places)))))
    # What was replaced before this package was imported is not PyTorch's.
    functions = (function for function in library.expected if type(function) is types.FunctionType)
    if not all(str(function.__module__).startswith("torch") for function in functions):
        return None
    proof = Proof(forward.__code__, library, tuple(wrappers.items()), tuple(places), program, children=children)
    return proof if _modules(module, original, proof) is not None else None


def _prove(module: nn.Module, original: type[nn.Module], block: Fused) -> Proof | None:
    proof = _proof(module, original, None)
    if proof is None or not _METHODS.isdisjoint(original.forward.__code__.co_names):
        return None
    places = proof.places
    convs = {i: _at(module, places, i) for i, place in enumerate(places) if place.kind is nn.Conv2d}
    roles = []
    for weight, bias in zip(block.parameters[:4], block.parameters[4:], strict=True):
        roles += [i for i, conv in convs.items() if conv.weight is weight and conv.bias is bias]
    if len(convs) != 4 or len(roles) != 4 or len(set(roles)) != 4:
        return None
    found = [convs[role] for role in roles]
    if not _is_block(found):
        return None
    proof = proof._replace(roles=tuple(roles), lines=tuple(map(_line, found)))
    return None if _block(block.x, found, proof.lines) is None else proof


def _known_as(kind: Any) -> Any:
    """``kind``; of an ``nn.Conv2d`` that is swapped itself, which runs plainly inside of another module, ``nn.Conv2d``."""
    return nn.Conv2d if vars(kind).get("_gcn_original") is nn.Conv2d else kind


def _add(
    module: Any, at: int, names: tuple[str, ...], places: list[Place], wrappers: dict[type[nn.Module], types.CodeType]
) -> bool:
    """Append what runs when the children ``names`` of ``module`` run; False where that is not known."""
    for name in names:
        child = module._modules.get(name)
        kind = type(child)
        if len(places) == MOST_PLACES:
            return False
        below: tuple[str, ...] | None = ()
        if kind in _CONTAINERS:
            below = tuple(child._modules)
        elif _known_as(kind) not in _KNOWN:
            if child is None or (below := _straight(kind.forward)) is None:
                return False
            wrappers[kind] = kind.forward.__code__
        places.append(Place(at, name, kind, () if child is None else tuple(child._modules)))
        assert below is not None
        if not _add(child, len(places) - 1, below, places, wrappers):
            return False
    return True


def _at(module: nn.Module, places: Sequence[Place], index: int) -> Any:
    if index < 0:
        return module
    return _at(module, places, places[index].parent)._modules[places[index].name]


def _straight(forward: Any) -> tuple[str, ...] | None:
    """The names that a forward reads of its first argument, if it is straight-line code of two arguments; else None."""
    code = getattr(forward, "__code__", None)
    return None if type(forward) is not types.FunctionType or code is None else _straight_code(code)


@lru_cache(maxsize=1024)
def _straight_code(code: types.CodeType) -> tuple[str, ...] | None:
    if code.co_argcount != 2 or code.co_kwonlyargcount or code.co_freevars or code.co_cellvars:
        return None
    if code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
        return None
    itself = code.co_varnames[0]
    names: dict[str, None] = {}
    last = None
    for instruction in dis.get_instructions(code):
        what, value = instruction.opname, instruction.argval
        if what not in _HARMLESS or (what.startswith("STORE") and itself in (value if type(value) is tuple else (value,))):
            return None
        if what in _ATTRIBUTES:
            # Of self, or a method of a tensor: an attribute of anything else could be a different one in every call.
            if last is not None and last.opname.startswith("LOAD_FAST") and _top(last.argval) == itself:
                names[value] = None
            elif value not in _METHODS:
                return None
        if what not in ("CACHE", "NOP", "PUSH_NULL"):
            last = instruction
    return tuple(names)


def _top(value: Any) -> Any:
    return value[-1] if type(value) is tuple else value
