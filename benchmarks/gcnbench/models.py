"""Whole models under the clock, as they are and converted: what a swap of strips is worth where it is used.

The models are those of other packages, with random parameters. In every mode a model computes as in
inference, so that results do not depend on the call: normalisations use their running statistics, paths are not dropped.
``fwdbwd`` is a forward pass and the gradients of the image and of all parameters. Work and floor are those of its matrix
products and convolutions as PyTorch counts them. Errors are judged as those of a baseline are: the layers after a convolution
magnify its rounding.
"""

import copy
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gcn_kernels import convert_model
from gcnbench.problems import LAYOUTS, AnyProblem, Inputs, Map
from gcnbench.subject import Subject
from gcnbench.variants import Call, UnavailableError, Variant, first_line, result_names


def _of_timm(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model: nn.Module = importlib.import_module("timm").create_model(name, pretrained=False)
        return model

    return make


def _mscan_tiny() -> nn.Module:
    mscan = importlib.import_module("mmseg.models.backbones.mscan")
    model: nn.Module = mscan.MSCAN(
        embed_dims=[32, 64, 160, 256], depths=[3, 3, 5, 2], drop_path_rate=0.0, norm_cfg={"type": "BN", "requires_grad": True}
    )
    return model


@dataclass(frozen=True)
class Model:
    """A model of another package: its longest kernel, the height and width of its image, how it is made."""

    k: int
    side: int
    make: Callable[[], nn.Module]


#: By the name that the table shows. Two have blocks of strips; in the others, on small maps, depthwise convolutions stand alone.
MODELS = {
    "MSCAN-T": Model(21, 512, _mscan_tiny),
    "InceptionNeXt-T": Model(11, 512, _of_timm("inception_next_tiny")),
    "GhostNetV2": Model(5, 224, _of_timm("ghostnetv2_100")),
    "MobileNetV3-L": Model(5, 224, _of_timm("mobilenetv3_large_100")),
    "EfficientNet-B0": Model(5, 224, _of_timm("efficientnet_b0")),
}


def build(name: str, seed: int) -> nn.Module:
    """The model in inference mode, the same parameters for the same seed.

    Raises:
        UnavailableError: what it comes from is not installed, or cannot be imported.
    """
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages that look for parts of theirs
            model = MODELS[name].make()
    except Exception as error:
        raise UnavailableError(first_line(error)) from error
    # Layers that start as zeros (scales of residual branches) would hide what is computed before them.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def output(model: nn.Module, image: Tensor) -> Tensor:
    """What a model returns as one tensor: several maps one after the other."""
    y: Any = model(image)
    return y if isinstance(y, Tensor) else torch.cat([t.flatten(1) for t in y], 1)


@dataclass(frozen=True)
class ModelProblem(AnyProblem):
    """A model on images of one size."""

    @classmethod
    def of(cls, name: str, batch: int, dtype: torch.dtype) -> "ModelProblem":
        """The problem of a model's name."""
        model = MODELS[name]
        return cls(Map(name, 3, model.side, model.side, 0, 0), batch, model.k, dtype)

    def heading(self) -> str:
        return f"# {self.map.label}, batch {self.batch}, {self.dtype_name}, converted (fused) and as it is"

    def flops(self, mode: str) -> int:
        model = build(self.map.name, 0).to("meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            output(model, torch.empty(self.batch, 3, self.map.height, self.map.width, device="meta"))
        return {"fwd": 1, "bwd": 2, "fwdbwd": 3}[mode] * int(counter.get_total_flops())

    def bytes(self, mode: str) -> int:
        parameters = sum(p.numel() for p in build(self.map.name, 0).parameters())
        image = self.batch * 3 * self.map.height * self.map.width
        return {"fwd": 1, "bwd": 2, "fwdbwd": 3}[mode] * (image + parameters) * self.dtype.itemsize


@dataclass(frozen=True)
class ModelInputs(Inputs):
    """The image and the parameters of ``plain``, of which ``fused`` has a copy."""

    plain: nn.Module
    fused: nn.Module

    def laid_out(self, layout: str) -> "ModelInputs":
        form: Any = LAYOUTS[layout]
        copies: list[Any] = [copy.deepcopy(m) for m in (self.plain, self.fused)]
        plain, fused = (m.to(memory_format=form) for m in copies)
        image = self.tensors[0].contiguous(memory_format=form)
        return replace(self, tensors=(image, *plain.parameters()), plain=plain, fused=fused)


def make_inputs(problem: ModelProblem, device: torch.device, seed: int) -> ModelInputs:
    """A random image, a model and a converted copy, and a gradient."""
    plain = build(problem.map.name, seed).to(device, problem.dtype)
    fused = convert_model(plain, inplace=False).model
    assert isinstance(fused, nn.Module)
    image = torch.randn(problem.batch, 3, problem.map.height, problem.map.width).to(device, problem.dtype)
    with torch.no_grad():
        y = output(plain, image)
    dy = torch.randn(y.shape).to(device, problem.dtype)
    names = ("x", *(name for name, _ in plain.named_parameters()))
    return ModelInputs((image, *plain.parameters()), dy, plain, fused, arguments=names)


def call(model: nn.Module, inputs: ModelInputs, mode: str) -> Call:
    """The measured call of a model."""
    image = inputs.tensors[0].detach()
    if mode == "fwd":
        return lambda: (output(model, image),)
    image = image.clone().requires_grad_()
    leaves = (image, *model.parameters())
    if mode == "bwd":
        kept = output(model, image)
        return lambda: torch.autograd.grad(kept, leaves, inputs.dy, retain_graph=True, materialize_grads=True)

    def step() -> tuple[Tensor, ...]:
        y = output(model, image)
        return y, *torch.autograd.grad(y, leaves, inputs.dy, materialize_grads=True)

    return step


def float64_results(inputs: ModelInputs, needs_gradients: bool) -> dict[str, Tensor]:
    """Results of the model as it is, in float64, by name."""
    mode = "fwdbwd" if needs_gradients else "fwd"
    plain = copy.deepcopy(inputs.plain).double()
    exact = replace(inputs, tensors=(inputs.tensors[0].double(), *plain.parameters()), dy=inputs.dy.double())
    results = call(plain, exact, mode)()
    return {name: t.detach() for name, t in zip(result_names(mode, inputs.arguments), results, strict=True)}


def refuse_wrong_gradients(inputs: ModelInputs) -> None:
    """Leave out a layout in which PyTorch's own gradients are wrong.

    Those of MSCAN in channels_last are, by more than their size, with running statistics (torch 2.13.0 on a CPU).

    Raises:
        UnavailableError: the model as it is has another gradient of the image than in NCHW.
    """
    found, expected = (call(i.plain, i, "fwdbwd")()[1] for i in (inputs, inputs.laid_out("NCHW")))
    error = ((found - expected).norm() / expected.norm()).item()
    if not error < 0.1:
        raise UnavailableError(f"PyTorch's own gradients in this layout are wrong: error of d x is {error:.1e}")


def variant(ours: bool, layout: str) -> Variant:
    """The converted model, or the one as it is, as a row of the table."""

    def prepare(inputs: Any, mode: str) -> Call:
        if layout == "channels_last" and mode != "fwd":
            refuse_wrong_gradients(inputs)
        return call(inputs.fused if ours else inputs.plain, inputs, mode)

    return Variant(f"{'fused' if ours else 'eager'} {layout}", ours, layout, prepare)


#: The baselines by the names that ``--baselines`` knows.
BASELINES = {"eager-nchw": variant(False, "NCHW"), "eager-channels-last": variant(False, "channels_last")}
SUBJECT = Subject(
    inputs=make_inputs,
    plain=lambda inputs, mode: call(inputs.plain, inputs, mode),
    expected=float64_results,
    unsafe=lambda inputs, needs_gradients: False,
    memory=True,
    by_k=False,
    strict=False,
)
