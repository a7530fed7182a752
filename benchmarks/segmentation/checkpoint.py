"""Checkpoints of runs, and the networks in them."""

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from segmentation.build import build_network
from segmentation.recipe import Recipe, from_dict

#: In the folder of a run.
NAME = "last.pt"
_PARTS = {"step", "recipe", "classes", "network", "tested"}


class Trained(NamedTuple):
    """A trained network, how it was trained, and the names of its classes."""

    network: nn.Module
    recipe: Recipe
    classes: list[str]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of ``train_seg.py``: the file, or the folder of the run.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is something else.
    """
    path = path / NAME if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint: expected {path}, which train_seg.py --out {path.parent} writes")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint of train_seg.py: PyTorch cannot read it") from error
    if not isinstance(state, dict) or not set(state) >= _PARTS:
        raise ValueError(f"{path} is not a checkpoint of train_seg.py: it lacks its recipe and classes")
    return state


def load_trained(path: Path, device: torch.device) -> Trained:
    """The tested network of a checkpoint, on ``device`` and in eval mode.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is something else, or from another version.
    """
    state = load_checkpoint(path)
    recipe = from_dict(state["recipe"] | {"weights": ""})
    network = build_network(recipe, len(state["classes"])).to(device)
    network.load_state_dict(state["tested"])
    return Trained(network.eval(), recipe, list(state["classes"]))
