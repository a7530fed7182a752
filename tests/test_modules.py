"""FusedGCN is the block written by hand with four ``nn.Conv2d``: same children, keys, parameters and life cycle."""

import copy
import io
import itertools
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from cases import every_dtype
from implementations import Implementation, every_implementation
from torch import Tensor, nn

from gcn_kernels import FusedGCN, backends, fused_gcn, reference

KEYS = [f"{conv}.{kind}" for conv in ("conv_l1", "conv_l2", "conv_r1", "conv_r2") for kind in ("weight", "bias")]


def convs(c: int = 6, mid_l: int = 4, mid_r: int = 5, out: int = 3, k: int = 5, bias: bool = True) -> list[nn.Conv2d]:
    vertical = {"kernel_size": (k, 1), "padding": (k // 2, 0), "bias": bias}
    horizontal = {"kernel_size": (1, k), "padding": (0, k // 2), "bias": bias}
    return [
        nn.Conv2d(c, mid_l, **vertical),
        nn.Conv2d(mid_l, out, **horizontal),
        nn.Conv2d(c, mid_r, **horizontal),
        nn.Conv2d(mid_r, out, **vertical),
    ]


def by_hand(module: FusedGCN, x: Tensor) -> Tensor:
    return module.conv_l2(module.conv_l1(x)) + module.conv_r2(module.conv_r1(x))


def assert_same(module: FusedGCN, other: FusedGCN) -> None:
    x = torch.randn(2, module.conv_l1.in_channels, 9, 8, dtype=module.conv_l1.weight.dtype)
    assert torch.equal(module(x), other(x))


def test_children_and_keys() -> None:
    module = FusedGCN(6, 3, 5)
    assert [name for name, _ in module.named_children()] == ["conv_l1", "conv_l2", "conv_r1", "conv_r2"]
    assert all(type(child) is nn.Conv2d for child in module.children())
    assert list(module.state_dict()) == KEYS
    assert list(FusedGCN(6, 3, 5, bias=False).state_dict()) == [key for key in KEYS if key.endswith("weight")]


def test_default_sizes_are_the_papers() -> None:
    module = FusedGCN(64, 21)
    assert module.conv_l1.weight.shape == (21, 64, 15, 1) and module.conv_l2.weight.shape == (21, 21, 1, 15)
    assert module.conv_r1.weight.shape == (21, 64, 1, 15) and module.conv_r2.weight.shape == (21, 21, 15, 1)


def test_kernel_pair_and_mid_channels() -> None:
    module = FusedGCN(6, 3, (5, 9), mid_channels=7)
    assert [conv.kernel_size for conv in module.children()] == [(5, 1), (1, 9), (1, 9), (5, 1)]
    assert [(conv.in_channels, conv.out_channels) for conv in module.children()] == [(6, 7), (7, 3), (6, 7), (7, 3)]
    x = torch.randn(2, 6, 11, 12)
    torch.testing.assert_close(module(x), by_hand(module, x), rtol=1e-5, atol=1e-5)
    assert module(x[0]).shape == (3, 11, 12)


def test_initialisation_is_that_of_the_block_by_hand() -> None:
    torch.manual_seed(5)
    module = FusedGCN(6, 4, 5)
    torch.manual_seed(5)
    for ours, theirs in zip(module.children(), convs(mid_l=4, mid_r=4, out=4), strict=True):
        assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


def test_from_convs_shares_the_parameters() -> None:
    four = convs()
    module = FusedGCN.from_convs(*four, backend="torch")
    assert list(module.children()) == four and module.backend == "torch"
    assert [id(p) for p in module.parameters()] == [id(p) for conv in four for p in conv.parameters()]
    x = torch.randn(2, 6, 9, 8)
    with torch.no_grad():
        four[0].weight.mul_(2)
    torch.testing.assert_close(module(x), by_hand(module, x), rtol=1e-5, atol=1e-5)
    module(x).sum().backward()
    assert all(conv.weight.grad is not None for conv in four)


def test_from_convs_keeps_the_mode_and_takes_equivalent_paddings() -> None:
    four = convs()
    four[1] = nn.Conv2d(4, 3, (1, 5), padding="same", bias=False)
    four[3] = nn.Conv2d(5, 3, (1, 1), padding_mode="reflect")
    module = FusedGCN.from_convs(*(conv.eval() for conv in four))
    assert not module.training
    x = torch.randn(1, 6, 9, 8)
    torch.testing.assert_close(module(x), by_hand(module, x), rtol=1e-5, atol=1e-5)


REFUSED = {
    "stride": (0, nn.Conv2d(6, 4, (5, 1), padding=(2, 0), stride=2), "l1"),
    "stride along one axis": (1, nn.Conv2d(4, 3, (1, 5), padding=(0, 2), stride=(1, 2)), "l2"),
    "dilation": (0, nn.Conv2d(6, 4, (5, 1), padding=(4, 0), dilation=(2, 1)), "l1"),
    "groups": (0, nn.Conv2d(6, 4, (5, 1), padding=(2, 0), groups=2), "l1"),
    "even k": (2, nn.Conv2d(6, 5, (1, 4), padding=(0, 2)), "r1"),
    "padding mode": (3, nn.Conv2d(5, 3, (5, 1), padding=(2, 0), padding_mode="circular"), "r2"),
    "no padding": (1, nn.Conv2d(4, 3, (1, 5)), "l2"),
    "padding too large": (1, nn.Conv2d(4, 3, (1, 5), padding=(0, 3)), "l2"),
    "padding along the other axis": (2, nn.Conv2d(6, 5, (1, 5), padding=(2, 0)), "r1"),
    "kernel along the other axis": (0, nn.Conv2d(6, 4, (1, 5), padding=(0, 2)), "l1"),
    "k x k": (3, nn.Conv2d(5, 3, 5, padding=2), "r2"),
    "input channels": (2, nn.Conv2d(7, 5, (1, 5), padding=(0, 2)), "6, 7"),
    "output channels": (3, nn.Conv2d(5, 4, (5, 1), padding=(2, 0)), "3, 4"),
    "left branch does not chain": (1, nn.Conv2d(9, 3, (1, 5), padding=(0, 2)), "4 -> 9"),
    "right branch does not chain": (3, nn.Conv2d(9, 3, (5, 1), padding=(2, 0)), "5 -> 9"),
}


@pytest.mark.parametrize(("position", "conv", "says"), REFUSED.values(), ids=REFUSED)
def test_from_convs_refuses(position: int, conv: nn.Conv2d, says: str) -> None:
    four = convs()
    four[position] = conv
    with pytest.raises(ValueError, match="expected") as caught:
        FusedGCN.from_convs(*four)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "layer", [nn.Linear(3, 3), nn.Conv1d(6, 4, 5), nn.ConvTranspose2d(6, 4, (5, 1), padding=(2, 0))], ids=repr
)
def test_from_convs_refuses_other_layers(layer: nn.Module) -> None:
    with pytest.raises((TypeError, ValueError), match="l1"):
        FusedGCN.from_convs(layer, *convs()[1:])  # type: ignore[arg-type]


def test_pickle_deepcopy_and_state_dict() -> None:
    module = FusedGCN(6, 3, (5, 7), mid_channels=4, backend="torch")
    assert_same(module, copy.deepcopy(module))
    assert_same(module, pickle.loads(pickle.dumps(module)))
    assert pickle.loads(pickle.dumps(module)).backend == "torch"
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    fresh = FusedGCN(6, 3, (5, 7), mid_channels=4, backend="torch")
    assert str(fresh.load_state_dict(torch.load(file, weights_only=True))) == "<All keys matched successfully>"
    assert_same(module, fresh)


def change_in_place(module: FusedGCN) -> None:
    with torch.no_grad():
        module.conv_l1.weight.mul_(-2)


def change_behind_autograd(module: FusedGCN) -> None:
    module.conv_r1.weight.data.add_(1)


def load_other_weights(module: FusedGCN) -> None:
    module.load_state_dict({key: torch.randn_like(t) for key, t in module.state_dict().items()})


def assign_a_parameter(module: FusedGCN) -> None:
    module.conv_l1.weight = nn.Parameter(torch.randn_like(module.conv_l1.weight))


def step_an_optimizer(module: FusedGCN) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=100.0)
    module(torch.randn(1, 6, 9, 8, device=module.conv_l1.weight.device)).square().mean().backward()
    optimizer.step()


def average_weights(module: FusedGCN) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(module.parameters()), [torch.ones_like(p) for p in module.parameters()], 0.5)


def swap_the_storage(module: FusedGCN) -> None:
    module.conv_l1.weight.data = torch.randn_like(module.conv_l1.weight)


CHANGES = [
    change_in_place,
    change_behind_autograd,
    load_other_weights,
    assign_a_parameter,
    step_an_optimizer,
    average_weights,
    swap_the_storage,
]


@every_implementation
@pytest.mark.parametrize("inference", [torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_results_follow_every_change_of_the_weights(
    change: Callable[[FusedGCN], None], inference: Callable[[], AbstractContextManager[None]], run: Implementation
) -> None:
    """Nothing that inference prepared from old weights is used again."""
    module = FusedGCN(6, 3, 31, backend=run.backend, algo=run.algo).to(run.device)
    x = torch.randn(1, 6, 40, 41, device=run.device)
    with inference():
        old = [module(x) for _ in range(3)][-1]
    change(module)
    with inference():
        new, expected = module(x), by_hand(module, x)
    assert (expected - old).abs().max() > 0.01 * expected.abs().max()
    torch.testing.assert_close(new, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@every_dtype
def test_conversion(dtype: torch.dtype) -> None:
    module = FusedGCN(6, 3, 5)
    x = torch.randn(2, 6, 9, 8)
    expected = module(x)
    module = module.to(dtype)
    assert {p.dtype for p in module.parameters()} == {dtype}
    assert_close = torch.testing.assert_close
    assert_close(module(x.to(dtype)).float(), expected, rtol=0.05, atol=0.05 if dtype.itemsize == 2 else 1e-5)


def test_half_bfloat16_double_and_channels_last() -> None:
    x = torch.randn(2, 6, 9, 8)
    assert FusedGCN(6, 3, 5).half()(x.half()).dtype == torch.float16
    assert FusedGCN(6, 3, 5).bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert FusedGCN(6, 3, 5).double()(x.double()).dtype == torch.float64
    module = FusedGCN(6, 3, 5).to(memory_format=torch.channels_last)
    y = module(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, by_hand(module, x), rtol=1e-5, atol=1e-5)


def test_train_and_eval_are_the_same() -> None:
    module, x = FusedGCN(6, 3, 5), torch.randn(2, 6, 9, 8)
    assert torch.equal(module.train()(x), module.eval()(x))
    assert not module.conv_l1.training


def test_meta_construction_and_materialisation() -> None:
    module = FusedGCN(6, 3, 5, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.bfloat16)}
    with torch.no_grad():
        y = module(torch.empty(2, 6, 9, 8, device="meta", dtype=torch.bfloat16))
    assert y.shape == (2, 3, 9, 8) and y.device.type == "meta"
    module.load_state_dict(FusedGCN(6, 3, 5).bfloat16().state_dict(), assign=True)
    assert module(torch.randn(2, 6, 9, 8).bfloat16()).isfinite().all()


def test_representation_names_what_it_runs() -> None:
    text = repr(FusedGCN(6, 3, 5, backend="torch"))
    assert "backend='torch'" in text and "algo='auto'" in text and "conv_r2" in text


@pytest.mark.parametrize("backend", backends.BACKENDS)
def test_module_passes_its_backend_on(backend: str) -> None:
    module, x = FusedGCN(6, 3, 5, backend=backend), torch.randn(2, 6, 9, 8)
    if backend != "auto" and (reason := backends.why_not(backend, "cpu")) is not None:
        with pytest.raises(RuntimeError) as caught:
            module(x)
        assert reason in str(caught.value)
    else:
        weights = [conv.weight for conv in module.children()]
        biases = [conv.bias for conv in module.children()]
        assert torch.equal(module(x), fused_gcn(x, *weights, *biases, backend=backend))
        torch.testing.assert_close(module(x), reference.gcn(x, *weights, *biases), rtol=1e-5, atol=1e-5)


def test_training_reduces_a_loss() -> None:
    module = FusedGCN(6, 3, 5)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    x, target = torch.randn(4, 6, 9, 8), torch.randn(4, 3, 9, 8)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (module(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
