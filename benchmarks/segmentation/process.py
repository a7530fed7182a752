"""One process of a run: its rank and device, and batch statistics over all of them."""

import argparse
import os
from typing import NamedTuple, NoReturn

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor, nn


class Process(NamedTuple):
    """Where this process stands among ``size`` processes, and the device it works on."""

    rank: int
    size: int
    device: torch.device

    def total(self, value: Tensor) -> Tensor:
        """The sum of ``value`` over the processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def say(self, text: str) -> None:
        """Print once, however many processes there are."""
        if self.rank == 0:
            print(text, flush=True)

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


class Parser(argparse.ArgumentParser):
    """Options of a script that torchrun may start several times: one process says what is wrong with them."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """End the script with status 2."""
        if os.environ.get("RANK", "0") != "0":
            self.exit(2)
        super().error(message)


def start_process() -> Process:
    """Join the other processes when started by torchrun; gloo on CPUs, NCCL on CUDA."""
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        return Process(0, 1, device)
    dist.init_process_group("nccl" if cuda else "gloo")
    return Process(dist.get_rank(), dist.get_world_size(), device)


def set_batch_norm(network: nn.Module, kind: str, device: torch.device) -> nn.Module:
    """Make every BatchNorm "local", "synced" over processes, or "frozen" (statistics and parameters).

    Raises:
        ValueError: another kind.
    """
    if kind not in ("local", "synced", "frozen"):
        raise ValueError(f"batch_norm: expected local, synced or frozen, got {kind!r}")
    if kind == "synced" and device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            if kind == "synced":
                module.__class__ = SyncedBatchNorm2d
            if kind == "frozen":
                module.requires_grad_(False)
                module.__class__ = FrozenBatchNorm2d
    return network


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Uses the statistics it has, in train mode too."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] -> the same."""
        return nn.functional.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Statistics over the batches of all processes, for devices that ``nn.SyncBatchNorm`` does not support."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] -> the same; every process gives as many images."""
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        mean = _mean(input.mean((0, 2, 3)))
        centred = input - mean[:, None, None]
        variance = _mean(centred.square().mean((0, 2, 3)))
        count = input.numel() // input.shape[1] * dist.get_world_size()
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            momentum = 0.1 if self.momentum is None else self.momentum
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * count / (count - 1), momentum)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return centred * scale[:, None, None] + self.bias[:, None, None]


def _mean(value: Tensor) -> Tensor:
    total: Tensor = differentiable.all_reduce(value)  # type: ignore[no-untyped-call]
    return total / dist.get_world_size()
