"""Strips in models that other packages have: what a swap finds there, and that it changes no value, no step and no key.

The packages are no requirement of the tests; where one is missing, or cannot be imported, its model is skipped with the reason.
They are timm and torchvision; onedl-mmsegmentation, onedl-mmengine and mmcv-lite. ``.ci/run real_models`` installs them.
"""

import copy
import warnings
from typing import Any

import pytest
import torch
from gcnbench import models
from torch import Tensor, nn

import gcn_kernels.swap.rules as rules
from gcn_kernels import convert_model, revert_gcn
from gcn_kernels.core import backends

pytestmark = pytest.mark.skipif(backends.why_not("cpu", "cpu") is not None, reason=str(backends.why_not("cpu", "cpu")))


#: The chains of depthwise convolutions of the operator's calls in a forward pass.
REAL: dict[str, list[tuple[int, ...]]] = {
    # The attention of each of 13 blocks, and the 3 x 3 of their MLP.
    "MSCAN-T": [(2, 2, 2), (1,)] * 13,
    # Three slices in each of 18 blocks.
    "InceptionNeXt-T": [(1,)] * 54,
    # Normalisations are between the strips: one call for each convolution of stride 1.
    "GhostNetV2": [(1,)] * 61,
}


@pytest.fixture(scope="module", params=REAL)
def real(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    """The name of a model, and the model with parameters and statistics that hide nothing."""
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages that look for parts of theirs
            model = models.MODELS[request.param].make()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{type(error).__name__}: {error}")
    return request.param, unlike_new(model)


def unlike_new(model: nn.Module) -> nn.Module:
    """Scales near 1 in place of zeros and 1e-6, and shifts: a layer that begins as nothing hides what is before it."""
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.dim() <= 1 and tensor.is_floating_point():
                scale = name.endswith(("weight", "running_var", "gamma"))
                tensor.copy_(float(scale) + 0.1 * torch.randn(tensor.shape))
    return model


def outputs(model: nn.Module, image: Tensor) -> list[Tensor]:
    y: Any = model(image)
    return [y] if isinstance(y, Tensor) else list(y)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The lengths of the chains of every call of the operator that a converted model makes."""
    made: list[tuple[int, ...]] = []
    operator = rules.fused_strips

    def counting(x: Tensor, branches: Any, **options: Any) -> Tensor:
        made.append(tuple(len(branch) for branch in branches))
        return operator(x, branches, **options)

    monkeypatch.setattr(rules, "fused_strips", counting)
    return made


def test_values_calls_and_keys(real: tuple[str, nn.Module], calls: list[tuple[int, ...]]) -> None:
    name, plain = real
    model = copy.deepcopy(plain).eval()
    image = torch.randn(1, 3, 128, 96)  # its smallest maps have more than one pixel, which would have both layouts
    with torch.no_grad():
        expected = outputs(model, image)
        report = convert_model(model, force=True)
        calls.clear()  # those of the trial and of timing
        found = outputs(model, image)
    assert sorted(calls) == sorted(REAL[name]), str(report)
    for y, truth in zip(found, expected, strict=True):
        assert (y - truth).norm() <= 1e-6 * truth.norm()
    assert list(model.state_dict()) == list(plain.state_dict())
    assert len(revert_gcn(model)) == len(report.swapped)
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]


#: With normalisations folded: those between the two strips of each of GhostNetV2's attentions make one call of two.
FOLDED = {"GhostNetV2": [(1,)] * 33 + [(2,)] * 14}


def test_normalisations_are_folded_on_request(real: tuple[str, nn.Module], calls: list[tuple[int, ...]]) -> None:
    name, plain = real
    model = copy.deepcopy(plain).eval()
    image = torch.randn(1, 3, 128, 96)  # its smallest maps have more than one pixel, which would have both layouts
    with torch.no_grad():
        expected = outputs(model, image)
        convert_model(model, force=True, fold_batchnorm=True)
        for _ in range(2):  # watched, and perhaps repeated
            calls.clear()
            for y, truth in zip(outputs(model, image), expected, strict=True):
                assert (y - truth).norm() <= 1e-6 * truth.norm()
            assert sorted(calls) == sorted(FOLDED.get(name, REAL[name]))


def test_a_training_step(real: tuple[str, nn.Module]) -> None:
    """Loss, parameters and statistics after a step in training mode, dropped paths and all."""
    _, plain = real
    steps: list[dict[str, Tensor]] = []
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for convert in (False, True):
        model = copy.deepcopy(plain).double().train()
        if convert:
            assert convert_model(model, force=True).swapped
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        torch.manual_seed(1)
        loss = torch.stack([y.square().mean() for y in outputs(model, image)]).sum()
        loss.backward()
        gradients = {f"gradient of {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        steps.append({"loss": loss.detach(), **gradients, **model.state_dict()})
    before, after = steps
    assert before.keys() == after.keys()
    for key, exact in before.items():
        found, truth = after[key].double(), exact.double()  # the number of batches is an integer
        assert (found - truth).norm() <= 1e-9 * truth.norm() + 1e-15, key
