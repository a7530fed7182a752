"""What every operator of the package promises, whatever it computes: registration, derivatives, compilers, layouts, determinism.

All tests run for every example below, and every operator has one; what an operator alone promises is in its own file. An example
is the public function, the definition beside it, tensors for both, and a module. What the operators themselves are given is seen
while the function runs, so no test repeats how the function comes to it.
"""

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from views import VIEWS

import gcn_kernels
from gcn_kernels import (
    FusedGCN,
    FusedRefine,
    FusedStrips,
    FusedUpsample,
    fused_gcn,
    fused_refine,
    fused_strips,
    fused_upsample,
    reference,
)
from gcn_kernels.core.operator import Operator

NAMESPACE = "gcn_kernels::"


@dataclass(frozen=True)
class Example:
    """A call of an operator.

    Attributes:
        operator: what the call comes to.
        public: the function of x, the parameters and ``backend``.
        definition: the same in plain PyTorch.
        shapes: of x and the parameters.
        module: one whose input has as many channels as ``shapes`` say.
    """

    operator: Operator
    public: Callable[..., Tensor]
    definition: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    module: Callable[[], nn.Module]

    def function(self, *tensors: Tensor) -> Tensor:
        """The public function with the kernels of a CPU."""
        return self.public(*tensors, backend="cpu")

    def draw(self, dtype: torch.dtype = torch.float64, batch: int | None = None) -> list[Tensor]:
        """x and the parameters. In float64 no value of a small map comes near to the kink of a ReLU."""
        first, *parameters = self.shapes
        x = torch.randn(first if batch is None else (batch, *first[1:]), dtype=dtype)
        return [x, *(torch.randn(shape, dtype=dtype) / max(1, torch.Size(shape[1:]).numel()) ** 0.5 for shape in parameters)]

    def leaves(self, dtype: torch.dtype = torch.float64, batch: int | None = None) -> list[Tensor]:
        return [t.requires_grad_() for t in self.draw(dtype, batch)]


def pair(x: Tensor, row: Tensor, column: Tensor, row_bias: Tensor, column_bias: Tensor, backend: str) -> Tensor:
    """A strip of two steps with a skip."""
    return fused_strips(x, [[(row, row_bias), (column, column_bias)]], skip=True, backend=backend)


def plain_pair(x: Tensor, row: Tensor, column: Tensor, row_bias: Tensor, column_bias: Tensor) -> Tensor:
    return reference.strips(x, [[(row, row_bias), (column, column_bias)]], skip=True)


GCN_SHAPES = ((2, 3, 5, 4), (2, 3, 3, 1), (4, 2, 1, 5), (2, 3, 1, 3), (4, 2, 5, 1), (2,), (4,), (2,), (4,))
EXAMPLES = {
    "gcn": Example(
        gcn_kernels.GCN, fused_gcn, reference.gcn, GCN_SHAPES, lambda: FusedGCN(3, 4, 5, mid_channels=2, backend="cpu")
    ),
    "strips": Example(
        gcn_kernels.STRIPS,
        pair,
        plain_pair,
        ((2, 3, 5, 4), (3, 1, 1, 5), (3, 1, 3, 1), (3,), (3,)),
        lambda: FusedStrips(3, [[(1, 5), (5, 1)], [(3, 3, 2)]], stem=3, skip=True, backend="cpu"),
    ),
    "upsample": Example(
        gcn_kernels.DOUBLING,
        fused_upsample,
        reference.upsample,
        ((2, 3, 4, 3), (3, 2, 4, 4), (2,)),
        lambda: FusedUpsample(3, 2, backend="cpu"),
    ),
    "refine": Example(
        gcn_kernels.REFINE,
        fused_refine,
        reference.refine,
        ((2, 3, 4, 3), (2, 3, 3, 3), (3, 2, 3, 3), (2,), (3,)),
        lambda: FusedRefine(3, backend="cpu"),
    ),
}
every_example = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)


class Seen(TorchDispatchMode):
    """The calls of the package's operators while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the call and let it go on."""
        if func._schema.name.startswith(NAMESPACE):
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def seen(example: Example, dtype: torch.dtype = torch.float64) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The forward and the backward operator of a training step, with what they are given."""
    leaves = example.leaves(dtype)
    with Seen() as mode:
        y = example.function(*leaves)
        torch.autograd.grad(y, leaves, torch.randn_like(y))
    yield from mode.calls


def fused(example: Example, tensors: list[Tensor], dy: Tensor, function: Callable[..., Tensor] | None = None) -> list[Tensor]:
    """y and the gradients of all tensors."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = (function or example.function)(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def test_every_operator_with_kernels_for_cpus_has_an_example() -> None:
    with_cpu_kernels = {id(operator) for operator in gcn_kernels.OPERATORS if "cpu" in operator.backends}
    assert {id(example.operator) for example in EXAMPLES.values()} == with_cpu_kernels


# --- registration


@every_example
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(example: Example, requires_grad: bool) -> None:
    calls = list(seen(example))
    assert [func for func, _ in calls] == [example.operator.forward, example.operator.backward]
    for func, arguments in calls:
        given = [leaf(a, requires_grad) for a in arguments]
        results = torch.library.opcheck(func, tuple(given))
        assert set(results.values()) == {"SUCCESS"}, (func, results)


def leaf(value: Any, requires_grad: bool) -> Any:
    """A tensor of its own for a tensor and for each of a list."""
    if isinstance(value, (list, tuple)):
        return [leaf(item, requires_grad) for item in value]
    return value.detach().clone().requires_grad_(requires_grad) if isinstance(value, Tensor) else value


@every_example
def test_schemas_are_those_that_python_calls(example: Example) -> None:
    for name, schema in example.operator.schemas.items():
        registered = getattr(torch.ops.gcn_kernels, name).default._schema
        assert str(registered) == schema and not registered.is_mutable


# --- derivatives


@every_example
def test_derivatives_and_their_derivatives(example: Example) -> None:
    leaves = example.leaves()
    assert torch.autograd.gradcheck(example.function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(example.function, leaves, fast_mode=True)


@every_example
def test_only_the_gradients_that_are_asked_for(example: Example) -> None:
    (_, arguments) = list(seen(example, torch.float32))[1]
    place = 1 + len(example.operator.saved)
    flat = example.operator.backward(*arguments)
    everything = [t for part in flat for t in (part if isinstance(part, list) else [part])]
    for i in range(len(everything)):
        found = example.operator.backward(*arguments[:place], 1 << i, *arguments[place + 1 :])
        alone = [t for part in found for t in (part if isinstance(part, list) else [part])]
        assert torch.equal(alone[i], everything[i])
        assert all(t.numel() == 0 for j, t in enumerate(alone) if j != i)


@every_example
def test_what_the_backward_pass_reads_may_not_have_changed(example: Example) -> None:
    leaves = example.leaves()
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        example.function(*leaves)
    for i, t in enumerate(leaves):
        given = [t.detach().requires_grad_() for t in leaves]
        y = example.function(*given)
        with torch.no_grad():
            given[i].add_(1)
        if t.data_ptr() in saved:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()
        else:
            y.sum().backward()
    assert leaves[0].data_ptr() in saved


@every_example
def test_transforms_go_through_the_definition(example: Example) -> None:
    x, *parameters = example.draw()
    stacked = torch.stack([x, 2 * x])
    results = []
    for run in (partial(example.public, backend="auto"), example.definition):
        mapped = torch.vmap(lambda x, run=run: run(x, *parameters))(stacked)
        _, tangent = torch.func.jvp(lambda x, run=run: run(x, *parameters), (x,), (torch.ones_like(x),))
        gradient = torch.func.grad(lambda w, run=run: run(x, w, *parameters[1:]).square().sum())(parameters[0])
        results.append((mapped, tangent, gradient))
    torch.testing.assert_close(*results)
    with pytest.raises(RuntimeError, match=r"does not support torch\.func transforms"):
        torch.vmap(lambda x: example.function(x, *parameters))(stacked)


@every_example
def test_transforms_of_the_backward_pass_go_through_the_definition(example: Example) -> None:
    """Of a graph that was recorded before: many gradients at a time, and the derivative along a direction of dy."""
    results, given = [], example.draw()
    for run in (example.function, example.definition):
        leaves = [t.clone().requires_grad_() for t in given]
        y = run(*leaves)
        dys = torch.stack([torch.cos(y.detach()), torch.sin(y.detach())])
        many = torch.autograd.grad(y, leaves, dys, is_grads_batched=True, retain_graph=True)
        with forward_ad.dual_level():
            along = torch.autograd.grad(y, leaves, forward_ad.make_dual(dys[0], dys[1]), retain_graph=True)
            tangents = [forward_ad.unpack_dual(t).tangent for t in along]
        (again,) = torch.autograd.grad(y, leaves[:1], dys[0], create_graph=True)
        second = torch.autograd.grad(again, leaves[1:2], torch.ones_like(again))
        results.append([*many, *tangents, *second])
    torch.testing.assert_close(*results)


# --- layouts, sizes, determinism


@every_example
@pytest.mark.parametrize("view", VIEWS)
def test_any_strides(example: Example, view: str) -> None:
    x, *parameters = [VIEWS[view](t) for t in example.draw()]
    dy = VIEWS[view](torch.randn_like(example.definition(x, *parameters)))
    results = fused(example, [x, *parameters], dy)
    for ours, theirs in zip(results, fused(example, [x, *parameters], dy, example.definition), strict=True):
        torch.testing.assert_close(ours, theirs)


@every_example
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
def test_results_have_the_layout_of_x(example: Example, layout: torch.memory_format) -> None:
    x, *parameters = example.leaves(torch.float32)
    x = x.detach().contiguous(memory_format=layout).requires_grad_()
    y = example.function(x, *parameters)
    (dx,) = torch.autograd.grad(y, x, torch.randn_like(y))
    assert y.is_contiguous(memory_format=layout) and dx.stride() == x.stride()


@every_example
def test_one_image_without_a_batch_and_no_image(example: Example) -> None:
    x, *parameters = example.draw(torch.float32)
    assert torch.equal(example.function(x[0], *parameters), example.function(x, *parameters)[0])
    leaves = example.leaves(torch.float32, batch=0)
    y = example.function(*leaves)
    for gradient, t in zip(torch.autograd.grad(y, leaves, torch.randn_like(y)), leaves, strict=True):
        assert gradient.shape == t.shape and not gradient.any()


@every_example
def test_bits_do_not_depend_on_threads(example: Example) -> None:
    tensors = example.draw(torch.float32, batch=5)
    dy = torch.randn_like(example.definition(*tensors))
    torch.set_num_threads(1)
    first = fused(example, tensors, dy)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(first, fused(example, tensors, dy), strict=True)), threads


@every_example
def test_tensors_without_data(example: Example) -> None:
    y = example.definition(*example.draw())
    x = example.draw()[0].to("meta")
    with torch.no_grad():
        meta = example.module().to(device="meta", dtype=x.dtype)(x)
    assert meta.is_meta and meta.shape == y.shape


# --- autocast, compilers, files


@every_example
def test_autocast_computes_in_its_dtype(example: Example) -> None:
    leaves = example.leaves(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = example.function(*leaves)
    assert torch.equal(y, example.function(*(t.bfloat16() for t in leaves)))
    assert {g.dtype for g in torch.autograd.grad(y, leaves, torch.randn_like(y))} == {torch.float32}


@every_example
def test_compiled_in_one_graph(example: Example, fresh_compiler: None) -> None:
    module = example.module()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 3, 6, 7), (1, 3, 9, 8)):
        x = torch.randn(size, requires_grad=True)
        found = compiled(x)
        inputs, dy = (x, *module.parameters()), torch.randn_like(found)
        expected = module(x)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        for a, b in zip(torch.autograd.grad(found, inputs, dy), torch.autograd.grad(expected, inputs, dy), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@every_example
def test_exported_program_calls_the_operator(example: Example) -> None:
    module = example.module().requires_grad_(False)
    batch = torch.export.Dim("n", min=1, max=64)
    program = torch.export.export(module, (torch.randn(2, 3, 9, 11),), dynamic_shapes=({0: batch},))
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert called.count(str(example.operator.forward)) == 1 and not any("conv" in name for name in called)
    longer = torch.randn(5, 3, 9, 11)
    torch.testing.assert_close(program.module()(longer), module(longer), rtol=0, atol=0)


@every_example
def test_trace_runs_the_operator(example: Example) -> None:
    module, x = example.module(), torch.randn(2, 3, 9, 11)
    traced = torch.jit.trace(module, (x,))
    assert str(example.operator.name) in str(traced.inlined_graph)
    assert torch.equal(traced(2 * x), module(2 * x))


@every_example
def test_onnx_is_plain_convolutions(example: Example) -> None:
    pytest.importorskip("onnxscript")
    program = torch.onnx.export(example.module().eval(), (torch.randn(1, 3, 9, 11),), dynamo=True, verbose=False)
    assert program is not None
    nodes = {node.op_type for node in program.model.graph}
    assert nodes <= {"Conv", "ConvTranspose", "Add", "Relu"} and nodes & {"Conv", "ConvTranspose"}


@every_example
def test_copies_and_pickles_of_a_module_are_alike(example: Example) -> None:
    module, x = example.module(), torch.randn(2, 3, 9, 11)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), module(x)) and repr(other) == repr(module)
        assert list(other.state_dict()) == list(module.state_dict())


def test_a_mistake_in_an_example_shows() -> None:
    """The tests above compare with the definition of the example: another one would not pass."""
    example = EXAMPLES["refine"]
    tensors = example.draw()
    wrong = reference.refine(tensors[0], tensors[1], -tensors[2], *tensors[3:])
    with pytest.raises(AssertionError):
        torch.testing.assert_close(example.function(*tensors), wrong)
