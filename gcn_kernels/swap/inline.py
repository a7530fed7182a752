"""Blocks without a module of their own: four convolutions and a sum, written inside the forward of a larger module.

The larger module's forward is traced with torch.fx (its children stay calls), every such pattern becomes one call, and the
rewritten code becomes the forward of a generated class. It stays equal to the original because only ``nn.Conv2d`` children
without hooks are replaced, train and eval mode are traced each, and the plain attributes that the trace read are compared at
every call: a change runs the original forward.
"""

import importlib
import operator
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from gcn_kernels.gcn.functional import fused_gcn
from gcn_kernels.swap.find import (
    Roles,
    assignments,
    convolutions,
    flaw,
    has_forward,
    hooked,
    is_line,
    kernel_of,
    pads_same,
    places_of,
)
from gcn_kernels.swap.probe import Refused

#: Types of attributes that a trace may read: immutable, compared by value at every call.
PLAIN_TYPES = (bool, int, float, str, type(None), torch.dtype, torch.device, types.FunctionType, types.BuiltinFunctionType)
_BOOKKEEPING = frozenset(vars(nn.Module()))
_MISSING = object()


@dataclass(frozen=True)
class Owner:
    """A module with line convolutions beside other ones, where a block may be written inline."""

    module: nn.Module
    places: tuple[str, ...]
    convs: dict[str, nn.Module]


class Code(NamedTuple):
    """Source of a forward, and what its global names stand for: objects, or names of modules to import."""

    source: str
    objects: tuple[tuple[str, Any], ...]
    imports: tuple[tuple[str, str], ...]

    def compile(self) -> Callable[..., Any]:
        """The function that the source defines."""
        namespace = dict(self.objects) | {name: importlib.import_module(module) for name, module in self.imports}
        exec(self.source, namespace)
        function: Callable[..., Any] = namespace["forward"]
        return function


class Rewrite(NamedTuple):
    """How an owner runs fused: its rewritten forward in both modes, and the attributes that it was traced with."""

    train: Code
    eval: Code
    attributes: tuple[tuple[str, Any], ...]

    def make_forward(self, original: type[nn.Module]) -> Callable[..., Any]:
        """The forward of the generated class."""
        train, evaluate, attributes = self.train.compile(), self.eval.compile(), self.attributes

        def forward(self: Any, *inputs: Any, **named: Any) -> Any:
            for name, value in attributes:
                if self.__dict__.get(name, _MISSING) != value:
                    return original.forward(self, *inputs, **named)
            return train(self, *inputs, **named) if self.training else evaluate(self, *inputs, **named)

        return forward


def fused_convs(x: Tensor, l1: nn.Conv2d, l2: nn.Conv2d, r1: nn.Conv2d, r2: nn.Conv2d, backend: str) -> Tensor:
    """The call that takes a block's place; where a convolution has got a hook since, the convolutions run one by one."""
    if any(c._forward_hooks or c._forward_pre_hooks or c._backward_hooks or c._backward_pre_hooks for c in (l1, l2, r1, r2)):
        total: Tensor = l2(l1(x)) + r2(r1(x))
        return total
    return fused_gcn(x, l1.weight, l2.weight, r1.weight, r2.weight, l1.bias, l2.bias, r1.bias, r2.bias, backend=backend)


def owners(model: nn.Module, taken: set[nn.Module]) -> Iterator[Owner]:
    """Yield the innermost modules with at least two line convolutions along each axis, leaving out those in ``taken``."""
    claimed = set(taken)
    found = []
    for module, places in places_of(model).items():
        lines = {path: c for path, c in convolutions(module).items() if c not in claimed and _axis(c) is not None}
        axes = [_axis(c) for c in lines.values()]
        if has_forward(module) and axes.count(0) >= 2 and axes.count(1) >= 2:
            claimed.update(lines.values())
            found.append(Owner(module, places, lines))
    yield from reversed(found)


def rewrite(module: nn.Module, backend: str) -> tuple[Rewrite, list[Roles]]:
    """Trace the forward of ``module`` and replace every block in it.

    Raises:
        Refused: the forward cannot be traced, depends on something that a trace would freeze, or holds no block.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise Refused("it is scripted: convert before torch.jit.script")
    if "forward" in vars(module):
        raise Refused("its forward is replaced on the instance")
    codes: dict[bool, Code] = {}
    attributes: dict[str, Any] = {}
    roles: list[Roles] = []
    for training in (True, False):
        graph, read = _trace(module, training)
        roles = _replace_blocks(module, graph, backend)
        if not roles:
            raise Refused("its forward holds no sum of a (k x 1, 1 x k) and a (1 x k, k x 1) branch of plain convolutions")
        codes[training] = _code(graph)
        attributes |= read
    return Rewrite(codes[True], codes[False], tuple(sorted(attributes.items()))), roles


class _OneLevel(fx.Tracer):
    """Traces one forward; children are calls, except plain ``nn.Sequential``, which are looked into."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) is not nn.Sequential or hooked(m) is not None


def _trace(module: nn.Module, training: bool) -> tuple[fx.Graph, dict[str, Any]]:
    """The graph of the module's forward in one mode, and the plain attributes that decided it."""
    read: dict[str, Any] = {}

    class Recorder(type(module)):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name not in _BOOKKEEPING and name in super().__getattribute__("__dict__"):
                if not isinstance(value, PLAIN_TYPES):
                    raise Refused(f"its forward reads self.{name}, a {type(value).__name__} that may change")
                read[name] = value
            return value

    # The recorder has a dictionary of its own, so the module stays as it is whatever the forward stores.
    recorder = Recorder.__new__(Recorder)
    object.__setattr__(recorder, "__dict__", vars(module) | {"training": training})
    before = dict(vars(recorder))
    try:
        graph = _OneLevel().trace(recorder)
    except Refused:
        raise
    except Exception as error:
        text = str(error).strip().splitlines()
        raise Refused(f"its forward cannot be traced by torch.fx: {text[0] if text else type(error).__name__}") from error
    if any(value is not before.get(name, _MISSING) for name, value in vars(recorder).items()):
        raise Refused("its forward stores values on the module")
    return graph, read


def _replace_blocks(module: nn.Module, graph: fx.Graph, backend: str) -> list[Roles]:
    """Replace every block in ``graph`` by one call; return the paths of the convolutions of each."""
    found = []
    for node in list(graph.nodes):
        if (match := _match(module, node)) is None:
            continue
        x, roles, calls = match
        with graph.inserting_before(node):
            convs = [graph.get_attr(path) for path in roles]
            call = graph.call_function(fused_convs, (x, *convs, backend))
        node.replace_all_uses_with(call)
        for old in (node, *calls):
            graph.erase_node(old)
        found.append(roles)
    return found


def _match(module: nn.Module, node: fx.Node) -> tuple[fx.Node, Roles, list[fx.Node]] | None:
    """The input, the convolutions and the calls of the block that ends in ``node``, or None."""
    names = {"call_function": (operator.add, operator.iadd, torch.add), "call_method": ("add", "add_")}.get(node.op, ())
    if node.target not in names or len(node.args) != 2 or node.kwargs:
        return None
    branches = []
    for second in node.args:
        first = second.args[0] if isinstance(second, fx.Node) and _is_single_conv(module, second) else None
        if not isinstance(second, fx.Node) or not isinstance(first, fx.Node) or not _is_single_conv(module, first):
            return None
        branches.append((first, second))
    (a1, a2), (b1, b2) = branches
    x = a1.args[0]
    if not isinstance(x, fx.Node) or b1.args[0] is not x:
        return None
    for calls in ([a1, a2, b1, b2], [b1, b2, a1, a2]):
        l1, l2, r1, r2 = (str(c.target) for c in calls)
        convs = {path: module.get_submodule(path) for path in (l1, l2, r1, r2)}
        if len(convs) == 4 and flaw(convs) is None and (l1, l2, r1, r2) in assignments(convs):
            return x, (l1, l2, r1, r2), [a2, b2, a1, b1]
    return None


def _is_single_conv(module: nn.Module, node: fx.Node) -> bool:
    """Whether ``node`` calls a plain convolution whose result goes to one place only."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs or len(node.users) != 1:
        return False
    conv = module.get_submodule(str(node.target))
    if not isinstance(conv, nn.Conv2d) or type(conv).forward is not nn.Conv2d.forward or "forward" in vars(conv):
        return False
    return hooked(conv) is None and pads_same(conv)


def _code(graph: fx.Graph) -> Code:
    graph.lint()
    code = graph.python_code("self")
    objects = {name: value for name, value in code.globals.items() if not isinstance(value, types.ModuleType)}
    imports = {name: value.__name__ for name, value in code.globals.items() if isinstance(value, types.ModuleType)}
    return Code(code.src, tuple(objects.items()), tuple(imports.items()))


def _axis(conv: nn.Module) -> int | None:
    """The axis (0: H, 1: W) of a line convolution longer than 1, None for any other."""
    kernel = kernel_of(conv) or ()
    return kernel.index(max(kernel)) if len(kernel) == 2 and is_line(kernel) and max(kernel) > 1 else None
