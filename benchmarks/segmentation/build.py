"""From a recipe to a network."""

import pickle

import torch
from torch import nn

from gcn_kernels.models import GCNNet, resnet, resnet50_gcn
from segmentation.encoders import PatchEncoder
from segmentation.extras import require
from segmentation.recipe import ENCODER, Recipe


def build_encoder(name: str) -> nn.Module:
    """The encoder of this name, with random weights; see :attr:`segmentation.recipe.Recipe.encoder`.

    Raises:
        ValueError: an unknown name, also to timm.
        ImportError: an encoder of timm, and timm is not installed.
    """
    if name == "patch":
        return PatchEncoder()
    if name == "resnet50-gcn":
        return resnet50_gcn()
    if name.startswith("timm:"):
        timm = require("timm")
        try:
            encoder: nn.Module = timm.create_model(name.removeprefix("timm:"), features_only=True)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise ValueError(f"--encoder {name}: timm cannot make it with features_only=True: {error}") from error
        return encoder
    if not ENCODER.holds(name):
        raise ValueError(f"--encoder: expected {ENCODER.expected}, got {name!r}")
    return resnet(int(name.removeprefix("resnet")))


def load_weights(encoder: nn.Module, path: str) -> None:
    """Load a state dict with torchvision's names into an encoder.

    Raises:
        ValueError: the file is missing, is no state dict, or is that of another network.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        encoder.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})
    except (OSError, pickle.UnpicklingError, EOFError, AttributeError) as error:
        raise ValueError(f"--weights {path}: expected a file with a state dict: {str(error).splitlines()[0]}") from error
    except RuntimeError as error:
        raise ValueError(f"--weights {path}: not those of this encoder: {_first_lines(error)}") from error


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip()[:160] for line in str(error).splitlines()[:3])


def build_network(recipe: Recipe, classes: int) -> GCNNet:
    """The network of a recipe, its random weights drawn from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    encoder = build_encoder(recipe.encoder)
    if recipe.weights:
        load_weights(encoder, recipe.weights)
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
