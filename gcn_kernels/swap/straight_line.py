"""Forwards that can do only one thing, which need not be watched while they run.

Most blocks are written as straight-line code: it calls children of the module, adds or multiplies their results and returns one,
without a global name, a branch, or an attribute of anything but the module. What such a forward computes depends on nothing but
its input and its children. So after one watched run a later call need not be watched again (one that was a GCN block and nothing
else goes to the operator at once; any other is repeated, :mod:`gcn_kernels.swap.repeat`) if

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

#: What runs of PyTorch's own classes that may be in a straight-line block: attributes of the class, and functions elsewhere.
_OF_EVERY_MODULE = "__call__ _call_impl _wrapped_call_impl __getattr__ __getattribute__ forward"
_KNOWN: dict[Any, Any] = {
    nn.Conv2d: ((nn.Conv2d, f"{_OF_EVERY_MODULE} _conv_forward"), (F, "conv2d")),
    nn.Sequential: ((nn.Sequential, f"{_OF_EVERY_MODULE} __iter__"),),
    nn.ModuleList: ((nn.ModuleList, f"{_OF_EVERY_MODULE} __getitem__ _get_abs_string_index"),),
    **{kind: ((kind, _OF_EVERY_MODULE),) for kind in (nn.Identity, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh)},
}
_LIBRARY = {
    kind: [
        (owner, name, getattr(owner, name), getattr(getattr(owner, name), "__code__", None))
        for owner, names in owners
        for name in names.split()
    ]
    for kind, owners in _KNOWN.items()
}


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
        roles: of one that is a GCN block and nothing else, the indices in ``places`` of its convolutions l1, l2, r1, r2.
        program: of any other, what its run was.
    """

    code: types.CodeType
    library: tuple[tuple[Any, str, Any, types.CodeType | None], ...]
    wrappers: tuple[tuple[type[nn.Module], types.CodeType], ...]
    places: tuple[Place, ...]
    roles: tuple[int, ...] = ()
    program: Program | None = None


#: What is known of every converted module that was watched: None if its code is not straight.
_known: "weakref.WeakKeyDictionary[nn.Module, Proof | None]" = weakref.WeakKeyDictionary()


def run(
    module: nn.Module, original: type[nn.Module], inputs: tuple[Any, ...], named: dict[str, Any], backend: str
) -> Tensor | None:
    """The result of a call of ``module`` that need not be watched, or None."""
    proof = _known.get(module)
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
    elif modules is not None and (block := _block(x, [modules[role] for role in proof.roles])) is not None:
        return rules.fused_gcn(x, *block, backend=backend)
    del _known[module]
    return None


def is_known(module: nn.Module) -> bool:
    """Whether a watched run of ``module`` has shown what it is, or that this cannot be told."""
    return module in _known


def learn(module: nn.Module, original: type[nn.Module], scope: Scope, result: Any) -> Callable[[Any], None]:
    """Remember what a watched run of ``module`` was, once its result has been released, with which the answer is to be called."""
    block = scope.whole(result)

    def finish(released: Any) -> None:
        proof = None if block is None else _prove(module, original, block)
        if block is None and (program := program_of(scope, released)) is not None:
            proof = _proof(module, original, program)
        _known[module] = proof

    return finish


def _modules(module: nn.Module, original: type[nn.Module], proof: Proof) -> list[Any] | None:
    """What is at the places of the proof, or None where something could have become another."""
    for owner, name, function, code in proof.library:
        now: Any = getattr(owner, name)
        if now is not function or (code is not None and now.__code__ is not code):
            return None
    if not _runs(original, proof.code) or not all(_runs(kind, code) for kind, code in proof.wrappers):
        return None
    found: list[Any] = []
    for parent, name, kind, children in proof.places:
        above = module if parent < 0 else found[parent]
        m = above._modules.get(name) if type(above) in _CONTAINERS else getattr(above, name, None)
        if type(m) is not kind or m._compiled_call_impl is not None or not _OWN.isdisjoint(m.__dict__):
            return None
        if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks:
            return None
        if kind is not nn.Conv2d and tuple(m._modules) != children:
            return None
        found.append(m)
    return found


_CONTAINERS = (nn.Sequential, nn.ModuleList)
#: Attributes of a module by which it runs something else than its class says.
_OWN = frozenset({"forward", "_call_impl", "_wrapped_call_impl", "_conv_forward"})


def _runs(kind: Any, code: types.CodeType) -> bool:
    """Whether modules of ``kind`` run ``code``, in the way and with the children that all modules have."""
    usual = kind.__getattr__ is nn.Conv2d.__getattr__ and kind.__getattribute__ is object.__getattribute__
    usual = usual and kind.__call__ is nn.Conv2d.__call__ and kind._call_impl is nn.Conv2d._call_impl
    return usual and type(kind.forward) is types.FunctionType and kind.forward.__code__ is code


def _block(x: Tensor, convs: list[nn.Conv2d]) -> tuple[Any, ...] | None:
    """Weights and biases if the convolutions, as they are now, make a block that the operator takes."""
    weights, biases = [], []
    autocast = autocast_dtype(x)
    for conv, axis in zip(convs, (0, 1, 1, 0), strict=True):
        weight, bias = conv.weight, conv.bias
        if conv.padding_mode != "zeros" or line_axis(weight, conv.stride, conv.padding, conv.dilation, conv.groups) != axis:
            return None
        if not go_together(x, weight, bias, autocast):
            return None
        weights.append(weight)
        biases.append(bias)
    l1, l2, r1, r2 = (w.shape for w in weights)
    if not (l1[1] == r1[1] == x.shape[1] and l2[1] == l1[0] and r2[1] == r1[0] and l2[0] == r2[0]):
        return None
    return (*weights, *biases)


def _proof(module: nn.Module, original: type[nn.Module], program: Program | None) -> Proof | None:
    """Of all but the roles, or None where the code is not straight."""
    forward: Any = original.forward
    names = _straight(forward)
    if names is None:
        return None
    places: list[Place] = []
    wrappers: dict[type[nn.Module], types.CodeType] = {}
    if not _add(module, -1, names, places, wrappers):
        return None
    library = [entry for kind in dict.fromkeys(place.kind for place in places) for entry in _LIBRARY.get(kind, ())]
    # What was replaced before this package was imported is not PyTorch's.
    if not all(str(getattr(function, "__module__", "torch")).startswith("torch") for _, _, function, code in library if code):
        return None
    proof = Proof(forward.__code__, tuple(library), tuple(wrappers.items()), tuple(places), (), program)
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
    proof = proof._replace(roles=tuple(roles))
    found = _modules(module, original, proof)
    return None if found is None or _block(block.x, [found[role] for role in roles]) is None else proof


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
        elif kind not in _LIBRARY:
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
