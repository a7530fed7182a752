"""What the tests of the swap share: what a step of a model shows, what a compiled model calls, drawn changes."""

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_module_children import Adapter
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.nn.utils import prune

from gcn_kernels import convert_model
from gcn_kernels.swap.pending import Pending

TORCH = tuple(int(number) for number in torch.__version__.split("+")[0].split(".")[:2])
fused_in_graphs = pytest.mark.skipif(
    TORCH < (2, 13),
    reason=f"Dynamo of torch {torch.__version__} does not show the match what it needs: plain convolutions are traced",
)


class Double(torch.autograd.Function):
    """What asks autograd in C++: no Python function sees its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 3


def outcome(model: nn.Module, x: Tensor) -> list[Any]:
    """Everything that a user can see of one step: results, gradients, what is recorded, errors."""
    random.seed(3)
    torch.manual_seed(3)
    model.zero_grad()
    x = x.clone().requires_grad_()
    try:
        result = model(x)
        results = [t for t in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(t, Tensor)]
        found: list[Any] = [(type(t), t.requires_grad, t.dtype, t.shape) for t in results]
        found += [t.detach() for t in results]
        if any(t.requires_grad for t in results):
            sum(t.square().sum() for t in results if t.requires_grad).backward()
            found += [x.grad, *(p.grad for p in model.parameters())]
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        return [type(error).__name__, str(error)]
    return found


def assert_equal(ours: list[Any], theirs: list[Any], tolerance: float = 1e-9) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(b, Tensor):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max([1.0, *b.abs().flatten().tolist()]))
        else:
            assert a == b


def compare(ours: list[Any], theirs: list[Any]) -> None:
    """As equal, but for the type of a result that the forward gives away after the end of its chain was computed."""
    for i, found in enumerate(ours):
        if isinstance(found, tuple) and found[0] is Pending:
            ours[i] = (Tensor, *found[1:])
    assert_equal(ours, theirs)


def compare_compiled(plain: nn.Module, model: nn.Module, x: Tensor) -> None:
    """The same values under ``torch.compile``."""
    with torch.no_grad():
        ours, theirs = torch.compile(model, backend="aot_eager")(x), plain(x)
    for a, b in zip(*(t if isinstance(t, tuple) else (t,) for t in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=type(plain).forward.__name__)


def compare_training_compiled(plain: nn.Module, model: nn.Module, x: Tensor) -> None:
    """The same gradients of the parameters under ``torch.compile``, in one graph."""
    gradients = []
    for m, run in ((plain, plain), (model, torch.compile(model, backend="aot_eager", fullgraph=True))):
        run(x).square().sum().backward()
        gradients.append([p.grad for p in m.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def compare_drawn(drawn: type[nn.Module], channels: int, draw: random.Random, seed: int) -> int:
    """Compare a drawn class, converted and called in a drawn mode, with the plain one; how many values there were."""
    torch.manual_seed(seed)
    plain = drawn().double()
    model = copy.deepcopy(plain)
    convert_model(model, verify=False, force=True)
    x = torch.randn(draw.randint(0, 2), channels, draw.randint(1, 6), draw.randint(1, 6), dtype=torch.float64)
    with torch.set_grad_enabled(draw.random() < 0.6):
        ours, theirs = outcome(model, x), outcome(plain, x)
    try:
        compare(ours, theirs)
    except AssertionError as error:
        raise AssertionError(f"draw {seed}: {error}") from error
    return len(theirs)


def compiled_operators(model: nn.Module, x: Tensor) -> tuple[Tensor, list[str]]:
    """The result of the compiled model without gradients, and what its graphs call after dead code is gone."""
    called: list[str] = []

    def look(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        # As the compiler behind it does: a copy over all of a tensor is what is copied.
        for copied in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.copy.default):
            copied.replace_all_uses_with(copied.args[1])
        graph.graph.eliminate_dead_code()
        called.extend(str(n.target) for n in graph.graph.nodes if n.op == "call_function")
        return graph

    torch._dynamo.reset()
    with torch.no_grad():
        y = torch.compile(model, backend=aot_autograd(fw_compiler=look))(x)
    return y, called


def drawn_change(draw: random.Random) -> Callable[[Any], object]:
    name = draw.choice(["conv_l1", "conv_l2", "conv_r1", "conv_r2"])
    value = draw.random()

    def conv(m: Any) -> Any:
        c = getattr(m, name)
        return c if isinstance(c, nn.Conv2d) else next(k for k in c.modules() if isinstance(k, nn.Conv2d))

    def adapt(m: Any) -> None:
        torch.manual_seed(5)
        setattr(m, name, Adapter(conv(m)))

    def scale_output(m: Any) -> None:
        conv(m).register_forward_hook(lambda module, inputs, output: output * (1 + value))

    def patch(m: Any) -> None:
        c = conv(m)
        c.forward = lambda x: nn.Conv2d.forward(c, x) + value

    def stretch(m: Any) -> None:
        c, d = conv(m), draw_dilation
        c.dilation, c.padding = (d, d), tuple(d * (k // 2) for k in c.kernel_size)

    draw_dilation = draw.choice([1, 2, 3])
    changes: list[Callable[[Any], object]] = [
        adapt,
        scale_output,
        stretch,
        lambda m: conv(m).weight.data.mul_(1 + value),
        lambda m: setattr(conv(m), "weight", nn.Parameter(conv(m).weight.detach() * value)),
        lambda m: setattr(conv(m), "bias", None),
        lambda m: conv(m).requires_grad_(value < 0.5),
        lambda m: setattr(m, name, nn.Sequential(getattr(m, name), nn.ReLU())),
        lambda m: prune.random_unstructured(conv(m), "bias", 0.5) if value < 0.05 and conv(m).bias is not None else None,
        patch,
        lambda m: conv(m)._forward_hooks.clear(),
        lambda m: m.train(value < 0.5),
        lambda m: setattr(conv(m), "padding_mode", "zeros"),
        lambda m: setattr(conv(m), "stride", (1, 1)),
        lambda m: m.to(memory_format=torch.channels_last if value < 0.5 else torch.contiguous_format),
    ]
    return draw.choice(changes)
