"""What works through the convolutions of a fused module works as on the module written by hand; and what is seen of them."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from gcn_kernels import FusedGCN, FusedRefine, FusedStrips, FusedUpsample, fused_gcn


class GCNByHand(nn.Module):
    """The same four convolutions, called one after the other."""

    def __init__(self, block: FusedGCN) -> None:
        super().__init__()
        self.conv_l1, self.conv_l2, self.conv_r1, self.conv_r2 = block.children()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_l2(self.conv_l1(x)) + self.conv_r2(self.conv_r1(x))


class RefineByHand(nn.Module):
    def __init__(self, module: FusedRefine) -> None:
        super().__init__()
        self.conv1, self.conv2 = module.conv1, module.conv2

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class StripsByHand(nn.Module):
    """The strips of KINDS."""

    def __init__(self, module: FusedStrips) -> None:
        super().__init__()
        self.stem, self.branches = module.stem, module.branches

    def forward(self, x: Tensor) -> Tensor:
        a = self.stem(x)
        (row, column), (square,) = self.branches
        return a + column(row(a)) + square(a)


def transposed(module: FusedUpsample) -> nn.Module:
    plain = nn.ConvTranspose2d(module.in_channels, module.out_channels, 4, 2, 1, bias=module.bias is not None).to(
        module.weight.dtype
    )
    plain.load_state_dict(module.state_dict())
    return plain


@dataclass(frozen=True)
class Kind:
    """A fused module of 6 channels.

    Attributes:
        make: makes it.
        by_hand: the plain module that shares its convolutions.
        places: of its convolutions.
        nodes: of its ONNX graph.
    """

    make: Callable[[], nn.Module]
    by_hand: Callable[[Any], nn.Module]
    places: tuple[str, ...]
    nodes: Sequence[str]

    def pair(self, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module, list[str]]:
        """The module and the plain one with the same parameters, each in an ``nn.Sequential``, and the convolutions' places."""
        torch.manual_seed(0)
        module = self.make().to(dtype)
        places = [f"0.{place}".removesuffix(".") for place in self.places]
        return nn.Sequential(module), nn.Sequential(self.by_hand(copy.deepcopy(module))), places


GCN = Kind(
    lambda: FusedGCN(6, 3, 5, backend="cpu"), GCNByHand, ("conv_l1", "conv_l2", "conv_r1", "conv_r2"), ["Add", *["Conv"] * 4]
)
STRIPS = Kind(
    lambda: FusedStrips(6, [[(1, 5), (5, 1)], [(3, 3, 2)]], stem=3, skip=True),
    StripsByHand,
    ("stem", "branches.0.0", "branches.0.1", "branches.1.0"),
    ["Add", "Add", *["Conv"] * 4],
)
KINDS = {
    "gcn": GCN,
    "refine": Kind(lambda: FusedRefine(6, mid_channels=4), RefineByHand, ("conv1", "conv2"), ["Add", "Conv", "Conv", "Relu"]),
    "strips": STRIPS,
    "upsample": Kind(lambda: FusedUpsample(6, 3, bias=True), transposed, ("",), ["ConvTranspose"]),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
WITH_CHILDREN = {name: kind for name, kind in KINDS.items() if kind.places != ("",)}
with_children = pytest.mark.parametrize("kind", WITH_CHILDREN.values(), ids=WITH_CHILDREN)


class Adapter(nn.Module):
    """An adapter around a convolution, as fine-tuning libraries put it in its place."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.extra = copy.deepcopy(base)
        self.base = base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.extra(x) / 2


def put(model: nn.Module, place: str, module: nn.Module) -> None:
    parent, _, name = place.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def another_class(conv: nn.Module) -> None:
    kind: Any = type(conv)
    conv.__class__ = type("Doubled", (kind,), {"forward": lambda self, x: 2 * kind.forward(self, x)})


def patched_forward(conv: nn.Module) -> None:
    forward = conv.forward
    conv.forward = lambda x: 3 * forward(x)


def dilated(conv: nn.Module) -> None:
    conv.dilation = (3, 3)
    conv.padding = tuple(3 * (k // 2) for k in conv.kernel_size)


def padded_otherwise(conv: nn.Module) -> None:
    h, w = conv.padding
    conv.padding_mode = "circular"
    conv._reversed_padding_repeated_twice = [w, w, h, h]


#: What is done to a convolution.
CHANGES: dict[str, Callable[[Any], object]] = {
    "forward hook": lambda c: c.register_forward_hook(lambda module, inputs, output: output * 2),
    "forward pre-hook": lambda c: c.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,)),
    "backward hook": lambda c: c.register_full_backward_hook(lambda module, grad_in, grad_out: tuple(2 * g for g in grad_in)),
    "pruning": lambda c: prune.l1_unstructured(c, "weight", 0.5),
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "subclass": another_class,
    "patched forward": patched_forward,
    "dilation": dilated,
    "padding mode": padded_otherwise,
}
#: What is put in its place.
REPLACEMENTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "adapter": Adapter,
    "replaced": lambda c: nn.Sequential(nn.ReLU(), c),
}


def change(name: str, model: nn.Module, place: str) -> None:
    torch.manual_seed(1)
    conv = model.get_submodule(place)
    if name in CHANGES:
        CHANGES[name](conv)
    else:
        put(model, place, REPLACEMENTS[name](conv))


#: The changes as they are made to a block with the children of FusedGCN; to conv_l1, where nothing else is said.
_OTHERS = {
    "forward pre-hook": "conv_l2",
    "backward hook": "conv_r1",
    "old weight_norm": "conv_r2",
    "old spectral_norm": "conv_l2",
}
_OTHERS |= {"subclass": "conv_r1", "patched forward": "conv_r2", "replaced": "conv_l2"}
ON_A_BLOCK: dict[str, Callable[[nn.Module], object]] = {
    name: partial(change, name, place=_OTHERS.get(name, "conv_l1")) for name in (*CHANGES, *REPLACEMENTS)
}


def step(model: Callable[[Tensor], Tensor], owner: nn.Module, x: Tensor) -> list[Tensor]:
    """Two training steps: values, the gradient of x, gradients of the parameters."""
    found = []
    for _ in range(2):
        z = x.clone().requires_grad_()
        owner.zero_grad()
        y = model(z)
        y.square().sum().backward()
        found += [y.detach(), z.grad, *(p.grad for p in owner.parameters() if p.grad is not None)]
    return [t.clone() for t in found]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", [*CHANGES, *REPLACEMENTS])
@every_kind
def test_what_is_done_to_a_convolution_counts(kind: Kind, name: str) -> None:
    if name == "padding mode" and kind is KINDS["upsample"]:
        name = "dilation"  # nn.ConvTranspose2d has no other padding
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    for number in range(len(kind.places)):
        ours, plain, places = kind.pair(torch.float64)
        for model in (ours, plain):
            change(name, model, places[number])
        ours(x[:1]), plain(x[:1])
        for found, expected in zip(step(ours, ours, x), step(plain, plain, x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


UNDER_COMPILE = [(GCN, name) for name in ("forward hook", "pruning", "adapter", "dilation", "replaced")]
UNDER_COMPILE += [(STRIPS, "forward hook"), (STRIPS, "replaced"), (KINDS["upsample"], "dilation")]


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(("kind", "name"), UNDER_COMPILE, ids=lambda value: value if isinstance(value, str) else "")
def test_under_compile_too(kind: Kind, name: str) -> None:
    ours, plain, places = kind.pair(torch.float64)
    for model in (ours, plain):
        change(name, model, places[-1])
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    compiled = torch.compile(ours, backend="aot_eager")
    for found, expected in zip(step(compiled, ours, x), step(plain, plain, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@with_children
def test_hooks_on_all_modules_fire(kind: Kind) -> None:
    block, seen = kind.make(), []
    handle = nn.modules.module.register_module_forward_hook(lambda m, i, o: seen.append(type(m).__name__))
    try:
        block(torch.randn(1, 6, 9, 8))
        assert "a hook is set on all modules" in repr(block)
    finally:
        handle.remove()
    assert seen == ["Conv2d"] * len(kind.places) + [type(block).__name__]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@with_children
def test_eager_quantisation_observes_the_convolutions(kind: Kind) -> None:
    model, _, places = kind.pair()
    model.train().qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    prepared = torch.ao.quantization.prepare_qat(model)
    prepared(torch.randn(2, 6, 9, 8))
    for place in places:
        assert prepared.get_submodule(place).activation_post_process.activation_post_process.max_val > 0


@with_children
def test_the_representation_says_what_would_run(kind: Kind) -> None:
    model, _, places = kind.pair()
    assert "backend=" in repr(model[0]) and "runs its convolutions" not in repr(model)
    for place in places:
        handle = model.get_submodule(place).register_forward_hook(lambda m, i, o: None)
        assert "runs its convolutions: " in repr(model) and " has a hook" in repr(model)
        handle.remove()
    assert "runs its convolutions" not in repr(model)
    model.get_submodule(places[-1]).padding = (9, 9)
    assert "runs its convolutions" in repr(model) and "has padding (9, 9)" in repr(model)


def test_a_changed_deconvolution_says_so() -> None:
    module = FusedUpsample(6, 3)
    assert "runs as" not in repr(module)
    x = torch.randn(1, 6, 5, 4)
    for name, value in {"stride": (1, 1), "padding": (0, 0), "output_padding": (1, 1)}.items():
        changed = copy.deepcopy(module)
        setattr(changed, name, value)
        assert f"runs as nn.ConvTranspose2d: {name} is {value}" in repr(changed)
        options = {"stride": 2, "padding": 1, name: value}
        torch.testing.assert_close(changed(x), F.conv_transpose2d(x, module.weight, **options))
    module.padding = (0, 0)
    assert module(x, output_size=[13, 11]).shape == (1, 3, 13, 11)  # as nn.ConvTranspose2d understands it


@every_kind
def test_fx_traces_the_convolutions(kind: Kind) -> None:
    module, _, _ = kind.pair()
    model, x = nn.Sequential(nn.Conv2d(3, 6, 1), *module), torch.randn(1, 3, 9, 8)
    traced = torch.fx.symbolic_trace(model)
    called = [str(n.target) for n in traced.graph.nodes if n.op == "call_module"]
    assert len(called) == (len(kind.places) + 1 if kind in WITH_CHILDREN.values() else 1)
    assert not any("gcn_kernels" in str(n.target) for n in traced.graph.nodes)
    torch.testing.assert_close(traced(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@every_kind
def test_script_compiles_the_convolutions(kind: Kind) -> None:
    module, _, _ = kind.pair()
    model, x = nn.Sequential(nn.Conv2d(3, 6, 1), *module), torch.randn(1, 3, 9, 8)
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x), model(x), rtol=1e-5, atol=1e-5)
    assert list(scripted.state_dict()) == list(model.state_dict())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_script_without_a_stem_and_with_a_size() -> None:
    strips, double, x = FusedStrips(6, [[3]]), FusedUpsample(6, 3), torch.randn(1, 6, 9, 8)
    torch.testing.assert_close(torch.jit.script(strips)(x), strips(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.jit.script(double)(x, [17, 16]), double(x, [17, 16]), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@every_kind
def test_the_older_onnx_exporter(kind: Kind, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    torch.onnx.export(kind.make().eval(), (torch.randn(1, 6, 9, 8),), tmp_path / "block.onnx", dynamo=False)
    graph = onnx.load(tmp_path / "block.onnx").graph
    assert sorted(n.op_type for n in graph.node) == kind.nodes


@every_kind
def test_meta_tensors_record_gradients(kind: Kind) -> None:
    block = kind.make().to("meta")
    block(torch.empty(2, 6, 9, 8, device="meta")).sum().backward()
    assert all(p.grad.shape == p.shape for p in block.parameters())


def test_flops_of_the_block() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    block, x = FusedGCN(6, 3, 5, backend="cpu"), torch.randn(1, 6, 9, 8, requires_grad=True)
    arguments = [p for name in ("weight", "bias") for p in (getattr(c, name) for c in block.children())]
    flops = 2 * 2 * (6 * 3 * 5 + 3 * 3 * 5) * 72
    for run in (lambda: block(x), lambda: fused_gcn(x, *arguments, backend="cpu")):
        with FlopCounterMode(display=False) as counter:
            y = run()
        assert counter.get_total_flops() == flops
        with FlopCounterMode(display=False) as counter:
            y.sum().backward()
        assert counter.get_total_flops() == 2 * flops


@every_kind
def test_flops_are_those_of_the_convolutions(kind: Kind) -> None:
    """Forward and backward, whichever gradients are asked for. (Under the counter, which hooks all modules, children run.)"""
    from torch.utils.flop_counter import FlopCounterMode

    ours, plain, _ = kind.pair()
    fused = getattr(ours[0], "_fused", ours[0])
    names = [name for name, _ in ours.named_parameters()]
    asked = [["x", *names], ["x"], names, *([name] for name in names)]
    for wanted in asked:
        counts = []
        for model, call in ((ours, fused), (plain, plain)):
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in wanted)
            x = torch.randn(2, 6, 9, 8, requires_grad="x" in wanted)
            with FlopCounterMode(display=False) as forward:
                y = call(x)
            with FlopCounterMode(display=False) as backward:
                y.sum().backward()
            counts.append((forward.get_total_flops(), backward.get_total_flops()))
            operators = {str(name) for found in backward.get_flop_counts().values() for name in found}
            assert any("gcn_kernels" in name for name in operators) == (model is ours), operators
        assert counts[0] == counts[1] and counts[0][0] > 0, wanted


def test_sizes_are_attributes() -> None:
    block = FusedGCN(np.int64(6), np.int32(3), (np.int64(5), 7), mid_channels=np.int64(4))
    assert (block.in_channels, block.mid_channels, block.out_channels) == (6, 4, 3)
    assert (block.kernel_size, block.padding) == ((5, 7), (2, 3))
    before = block.conv_r2.weight.detach().clone()
    block.reset_parameters()
    assert not torch.equal(block.conv_r2.weight, before)
    with pytest.raises(ValueError, match=r"in_channels: expected an int of at least 1, got 2\.5"):
        FusedGCN(2.5, 3)  # type: ignore[arg-type]


def test_a_wrong_number_of_channels_names_the_block() -> None:
    with pytest.raises(ValueError, match="FusedGCN: x has 8 channels, this block takes 16"):
        FusedGCN(16, 3, 5)(torch.randn(1, 8, 9, 8))
    with pytest.raises(ValueError, match=r"FusedGCN: expected x \[N, C, H, W\].*C = 16"):
        FusedGCN(16, 3, 5)(torch.randn(8, 9))


def test_everything_else_is_as_it_was_for_a_plain_block() -> None:
    block, x = FusedGCN(6, 3, 5, backend="cpu"), torch.randn(2, 6, 9, 8)
    assert "Recorded" in type(block(x).grad_fn).__name__
    F.relu(block(x)).sum().backward()
