"""The network of the paper: its tables' parameter counts, names that published checkpoints have, any input size."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gcn_kernels import FusedGCN, convert_gcn
from gcn_kernels.models import BoundaryRefinement, GCNNet, make_head, resnet, resnet50_gcn
from gcn_kernels.models.network import Deconvolution
from gcn_kernels.models.resnet import GCNBottleneck


def weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.dim() == 4)


@pytest.mark.parametrize(
    ("k", "gcn", "dense"), [(3, 260_694, 387_072), (5, 434_490, 1_075_200), (7, 608_286, 2_107_392), (9, 782_082, 3_483_648)]
)
def test_table_2_parameters(k, gcn, dense):
    assert weights(make_head("gcn", 2048, 21, k)) == gcn == 2 * k * (2048 * 21 + 21 * 21)
    assert weights(make_head("dense", 2048, 21, k)) == dense == k * k * 2048 * 21


@pytest.mark.parametrize(("m", "thousands"), [(2048, 75_885), (1024, 28_505), (210, 4_307)])
def test_table_4_parameters(m, thousands):
    count = weights(make_head("stack", 2048, 21, 7, middle=m))
    assert count == 9 * (2048 * m + m * m + 21 * m)
    assert abs(count / 1000 - thousands) < 1, "the paper gives whole thousands"
    assert weights(make_head("gcn", 2048, 21, 7)) // 1000 == 608


def test_a_fresh_gcn_starts_near_two_lines():
    head = make_head("gcn", 8, 3, 5)
    for conv, rest in ((head.conv_l2, (0, 2)), (head.conv_r2, (2, 0))):
        bound = 1 / (3 * 5) ** 0.5
        start = conv.weight.detach()
        start[:, :, rest[0], rest[1]] -= torch.eye(3)
        assert 0 < start.abs().max() <= bound


@pytest.mark.parametrize("kind", ["gcn", "dense", "stack"])
@pytest.mark.parametrize("k", [3, 5, 9])
def test_heads_reach_equally_far(kind, k):
    torch.manual_seed(0)
    head = make_head(kind, 3, 2, k, middle=4).double()
    x = torch.zeros(1, 3, 25, 25, dtype=torch.float64, requires_grad=True)
    head(x)[0, :, 12, 12].sum().backward()
    touched = x.grad.abs().sum(1)[0].nonzero()
    assert touched.min(0).values.tolist() == [12 - k // 2] * 2
    assert touched.max(0).values.tolist() == [12 + k // 2] * 2


def test_heads_refuse_wrong_arguments():
    for kind, k in (("cross", 3), ("gcn", 4), ("dense", 2), ("stack", 1)):
        with pytest.raises(ValueError, match=r"head: expected|kernel_size: expected an odd"):
            make_head(kind, 8, 2, k)


#: Parameters of torchvision's ResNet without its classifier, and width of the last map.
PARAMETERS = {
    18: (11_176_512, 512),
    34: (21_284_672, 512),
    50: (23_508_032, 2048),
    101: (42_500_160, 2048),
    152: (58_143_808, 2048),
}


@pytest.mark.parametrize("depth", PARAMETERS)
def test_encoders_have_the_size_of_the_published_ones(depth):
    with torch.device("meta"):
        encoder = resnet(depth)
        maps = encoder(torch.empty(1, 3, 65, 97))
    assert sum(p.numel() for p in encoder.parameters()) == PARAMETERS[depth][0]
    assert encoder.channels[-1] == PARAMETERS[depth][1]
    assert [tuple(m.shape) for m in maps] == [
        (1, c, s, t) for c, s, t in zip(encoder.channels, (17, 9, 5, 3), (25, 13, 7, 4), strict=True)
    ]


def test_encoder_names_are_those_of_torchvision():
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    expected = {"conv1.weight", *(f"bn1.{n}" for n in norm)}
    for stage, count in enumerate((3, 4, 6, 3), start=1):
        for block in range(count):
            parts = ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3", *(["downsample.0", "downsample.1"] if block == 0 else [])]
            for part in parts:
                is_conv = part.startswith("conv") or part.endswith(".0")
                expected |= {f"layer{stage}.{block}.{part}.{n}" for n in (["weight"] if is_conv else norm)}
    with torch.device("meta"):
        assert set(resnet(50).state_dict()) == expected


def test_a_published_checkpoint_loads_without_its_classifier():
    source, target = resnet(18, width=8), resnet(18, width=8)
    state = {**source.state_dict(), "fc.weight": torch.zeros(1000, 64), "fc.bias": torch.zeros(1000)}
    target.load_checkpoint(state)
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True))
    with pytest.raises(RuntimeError, match="Missing key"):
        target.load_checkpoint({"fc.bias": torch.zeros(1)})
    with pytest.raises(ValueError, match="depth: expected one of 18"):
        resnet(19)


def test_resnet50_gcn_is_that_of_table_6():
    with torch.device("meta"):
        encoder = resnet50_gcn()
        maps = encoder(torch.empty(1, 3, 64, 64))
    blocks = [m for m in encoder.modules() if isinstance(m, GCNBottleneck)]
    sizes = [(tuple(b.left[0].kernel_size), b.left[0].out_channels) for b in blocks]
    assert sizes == [((5, 1), 85)] * 6 + [((7, 1), 128)] * 3
    assert [tuple(m.shape[1:]) for m in maps] == [(256, 16, 16), (512, 8, 8), (1024, 4, 4), (2048, 2, 2)]
    assert convert_gcn(encoder).swapped == []


def test_the_network_has_the_parts_of_figure_2():
    with torch.device("meta"), torch.no_grad():
        net = GCNNet(resnet(152), 21, 15)
        assert net(torch.empty(1, 3, 512, 512)).shape == (1, 21, 512, 512)
    kinds = [type(m) for m in net.modules()]
    assert [kinds.count(k) for k in (FusedGCN, BoundaryRefinement, Deconvolution)] == [4, 9, 5]
    assert [h.conv_l1.in_channels for h in net.heads] == [256, 512, 1024, 2048]
    assert {h.conv_l1.kernel_size for h in net.heads} == {(15, 1)}


@pytest.mark.parametrize("size", [(1, 1), (31, 45), (32, 64), (33, 100), (97, 7)])
def test_scores_have_the_size_of_the_input(size):
    net = GCNNet(resnet(18, width=4), 3, (3, 5, 7, 15)).eval()
    assert net(torch.randn(2, 3, *size)).shape == (2, 3, *size)
    assert [h.conv_l1.kernel_size[0] for h in net.heads] == [3, 5, 7, 15]


@pytest.mark.parametrize("head", ["gcn", "1x1", "dense", "stack"])
def test_every_head_trains(head):
    net = GCNNet(resnet(18, width=4), 3, 5, head=head, refine=head == "gcn", middle=6)
    net(torch.randn(2, 3, 64, 48)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_a_fresh_deconvolution_interpolates_every_class_by_itself():
    x = torch.randn(1, 4, 6, 7)
    expected = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(Deconvolution(4)(x)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


class FeaturesOnly(nn.Module):
    """Stand-in for an encoder that timm makes with features_only=True: five maps, described by feature_info."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4 << i - 1, 4 << i, 3, 2, 1) for i in range(5))
        self.feature_info = SimpleNamespace(channels=lambda: [4, 8, 16, 32, 64], reduction=lambda: [2, 4, 8, 16, 32])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for conv in self.convs:
            x = conv(x)
            maps.append(x)
        return maps


def test_an_encoder_of_timm_is_accepted():
    net = GCNNet(FeaturesOnly(), 3, 5)
    assert [h.conv_l1.in_channels for h in net.heads] == [8, 16, 32, 64]
    assert net(torch.randn(1, 3, 50, 70)).shape == (1, 3, 50, 70)


def test_the_network_refuses_what_it_cannot_use():
    shallow = FeaturesOnly()
    shallow.feature_info.reduction = lambda: [1, 2, 4, 8, 16]
    for arguments, message in (
        ((shallow, 3), "expected maps at 1/4"),
        ((nn.Identity(), 3), "expected an attribute channels"),
        ((resnet(18, width=4), 3, (3, 5)), "one for each of res-2"),
    ):
        with pytest.raises(ValueError, match=message):
            GCNNet(*arguments)


def test_the_network_compiles_without_a_break():
    net = GCNNet(resnet(18, width=4), 3, 5).eval()
    x = torch.randn(1, 3, 33, 40)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("channels", "size"), [(256, 128), (512, 64), (1024, 32), (2048, 16)])
def test_fused_and_plain_heads_agree_on_the_maps_of_a_512_pixel_image(channels, size):
    plain, fused = (make_head("gcn", channels, 21, 15, backend=name) for name in ("torch", "auto"))
    fused.load_state_dict(plain.state_dict())
    x = torch.randn(1, channels, size, size)
    with torch.no_grad():
        expected = plain(x)
        assert ((fused(x) - expected).abs().max() / expected.abs().max()).item() < 1e-5


def test_refinement_and_deconvolution_take_the_backend_where_they_have_kernels():
    for backend in ("torch", "cpu", "auto", "triton", "cuda"):
        assert BoundaryRefinement(3, backend=backend).backend == Deconvolution(3, backend=backend).backend == backend
    plain, fused = (GCNNet(resnet(18), 5, 7, backend=backend).eval() for backend in ("torch", "auto"))
    fused.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 90)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), plain(x), rtol=1e-4, atol=1e-4)
