"""From a recipe to a network."""

import torch
from torch import nn

from gcn_kernels.models import GCNNet, resnet, resnet50_gcn
from segmentation.encoders import PatchEncoder
from segmentation.extras import require
from segmentation.recipe import Recipe


def build_encoder(name: str) -> nn.Module:
    """The encoder of this name, with random weights; see :attr:`segmentation.recipe.Recipe.encoder`.

    Raises:
        ValueError: an unknown name.
        ImportError: an encoder of timm, and timm is not installed.
    """
    if name == "patch":
        return PatchEncoder()
    if name == "resnet50-gcn":
        return resnet50_gcn()
    if name.startswith("timm:"):
        timm = require("timm", "timm", f"encoder {name!r}")
        encoder: nn.Module = timm.create_model(name.removeprefix("timm:"), features_only=True)
        return encoder
    if name.startswith("resnet") and name.removeprefix("resnet").isdigit():
        return resnet(int(name.removeprefix("resnet")))
    raise ValueError(f"encoder: expected patch, resnet18 ... resnet152, resnet50-gcn or timm:NAME, got {name!r}")


def build_network(recipe: Recipe, classes: int) -> GCNNet:
    """The network of a recipe, its random weights drawn from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    encoder = build_encoder(recipe.encoder)
    if recipe.weights:
        state = torch.load(recipe.weights, map_location="cpu", weights_only=True)
        encoder.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})
    network = GCNNet(
        encoder,
        classes,
        recipe.kernel,
        head=recipe.head,
        refine=recipe.refine,
        middle=recipe.middle or None,
        backend=recipe.backend,
    )
    if recipe.channels_last:
        torch.nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
    return network
