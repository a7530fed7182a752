"""What works through the four convolutions of a FusedGCN works as on the block written by hand."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from gcn_kernels import FusedGCN, fused_gcn


class ByHand(nn.Module):
    """The same four convolutions, called one after the other."""

    def __init__(self, block: FusedGCN) -> None:
        super().__init__()
        self.conv_l1, self.conv_l2, self.conv_r1, self.conv_r2 = block.children()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_l2(self.conv_l1(x)) + self.conv_r2(self.conv_r1(x))


class Adapter(nn.Module):
    """A low-rank adapter around a convolution, as fine-tuning libraries put it in its place."""

    def __init__(self, base: nn.Conv2d, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Conv2d(base.in_channels, rank, base.kernel_size, padding=base.padding, bias=False)
        self.up = nn.Conv2d(rank, base.out_channels, 1, bias=False)
        self.to(base.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Doubled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def hook_of_the_forward(m: nn.Module) -> None:
    m.conv_l1.register_forward_hook(lambda module, inputs, output: output * 2)


def hook_before_the_forward(m: nn.Module) -> None:
    m.conv_l2.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))


def hook_of_the_backward(m: nn.Module) -> None:
    m.conv_r1.register_full_backward_hook(lambda module, grad_input, grad_output: tuple(2 * g for g in grad_input))


def another_class(m: nn.Module) -> None:
    m.conv_r1.__class__ = Doubled


def adapter(m: nn.Module) -> None:
    m.conv_l1 = Adapter(m.conv_l1)


def patched_forward(m: nn.Module) -> None:
    m.conv_r2.forward = lambda x: x.repeat(1, 2, 1, 1)[:, :3]


def dilated(m: nn.Module) -> None:
    m.conv_l1.dilation, m.conv_l1.padding = (2, 1), (4, 0)


def padded_otherwise(m: nn.Module) -> None:
    m.conv_l1.padding_mode = "circular"
    m.conv_l1._reversed_padding_repeated_twice = [0, 0, 2, 2]


def replaced(m: nn.Module) -> None:
    m.conv_l2 = nn.Sequential(nn.ReLU(), m.conv_l2)


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "forward hook": hook_of_the_forward,
    "forward pre-hook": hook_before_the_forward,
    "backward hook": hook_of_the_backward,
    "pruning": lambda m: prune.l1_unstructured(m.conv_l1, "weight", 0.5),
    "old weight_norm": lambda m: nn.utils.weight_norm(m.conv_r2),
    "old spectral_norm": lambda m: nn.utils.spectral_norm(m.conv_l2),
    "weight_norm": lambda m: parametrizations.weight_norm(m.conv_l1),
    "spectral_norm": lambda m: parametrizations.spectral_norm(m.conv_l1),
    "subclass": another_class,
    "adapter": adapter,
    "patched forward": patched_forward,
    "dilation": dilated,
    "padding mode": padded_otherwise,
    "replaced": replaced,
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
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_done_to_a_convolution_counts(change: Callable[[nn.Module], object]) -> None:
    torch.manual_seed(0)
    block = FusedGCN(6, 3, 5).double()
    plain = ByHand(copy.deepcopy(block))
    for model in (block, plain):
        torch.manual_seed(1)
        change(model)
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    block(x[:1]), plain(x[:1])
    for ours, theirs in zip(step(block, block, x), step(plain, plain, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("change", ["forward hook", "pruning", "adapter", "dilation", "replaced"])
def test_under_compile_too(change: str) -> None:
    torch.manual_seed(0)
    block = FusedGCN(6, 3, 5).double()
    plain = ByHand(copy.deepcopy(block))
    for model in (block, plain):
        torch.manual_seed(1)
        CHANGES[change](model)
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    compiled = torch.compile(block, backend="aot_eager")
    for ours, theirs in zip(step(compiled, block, x), step(plain, plain, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_hooks_on_all_modules_fire() -> None:
    block, seen = FusedGCN(6, 3, 5), []
    handle = nn.modules.module.register_module_forward_hook(lambda m, i, o: seen.append(type(m).__name__))
    try:
        block(torch.randn(1, 6, 9, 8))
    finally:
        handle.remove()
    assert seen == ["Conv2d"] * 4 + ["FusedGCN"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_eager_quantisation_observes_the_convolutions() -> None:
    model = nn.Sequential(FusedGCN(6, 3, 5)).train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    prepared = torch.ao.quantization.prepare_qat(model)
    prepared(torch.randn(2, 6, 9, 8))
    observer = prepared[0].conv_l1.activation_post_process
    assert observer.activation_post_process.max_val > 0


def test_the_representation_says_what_would_run() -> None:
    block = FusedGCN(6, 3, 5)
    assert "backend='auto'" in repr(block)
    handle = block.conv_l2.register_forward_hook(lambda m, i, o: None)
    assert "runs its convolutions: conv_l2 has a hook" in repr(block)
    handle.remove()
    assert "backend='auto'" in repr(block)


def test_fx_traces_the_convolutions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), FusedGCN(6, 3, 5))
    traced, x = torch.fx.symbolic_trace(model), torch.randn(1, 3, 9, 8)
    assert [n.target for n in traced.graph.nodes if n.op == "call_module"].count("1.conv_l1") == 1
    torch.testing.assert_close(traced(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_script_compiles_the_convolutions() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 6, 1), FusedGCN(6, 3, 5)), torch.randn(1, 3, 9, 8)
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x), model(x), rtol=1e-5, atol=1e-5)
    assert list(scripted.state_dict()) == list(model.state_dict())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
def test_the_older_onnx_exporter(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = FusedGCN(6, 3, 5).eval()
    torch.onnx.export(model, (torch.randn(1, 6, 9, 8),), tmp_path / "block.onnx", dynamo=False)
    graph = onnx.load(tmp_path / "block.onnx").graph
    assert sorted(n.op_type for n in graph.node) == ["Add", "Conv", "Conv", "Conv", "Conv"]


def test_meta_tensors_record_gradients() -> None:
    block = FusedGCN(6, 3, 5, device="meta")
    block(torch.empty(2, 6, 9, 8, device="meta")).sum().backward()
    assert block.conv_l1.weight.grad.shape == block.conv_l1.weight.shape


FLOPS = 2 * 2 * (6 * 3 * 5 + 3 * 3 * 5) * 72


def test_flops_are_counted() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    block, x = FusedGCN(6, 3, 5), torch.randn(1, 6, 9, 8, requires_grad=True)
    arguments = [p for name in ("weight", "bias") for p in (getattr(c, name) for c in block.children())]
    for run in (lambda: block(x), lambda: fused_gcn(x, *arguments)):
        with FlopCounterMode(display=False) as counter:
            y = run()
        assert counter.get_total_flops() == FLOPS
        with FlopCounterMode(display=False) as counter:
            y.sum().backward()
        assert counter.get_total_flops() == 2 * FLOPS


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
