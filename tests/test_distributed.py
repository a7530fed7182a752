"""DistributedDataParallel: two processes with half a batch each train as one process with the whole batch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gcn_kernels import FusedGCN

PROCESSES, STEPS, BATCH = 2, 2, 3


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), FusedGCN(6, 4, 7, mid_channels=5))


def data(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    shape = (PROCESSES * BATCH, 3, 11, 9)
    return torch.randn(shape, generator=generator), torch.randn((PROCESSES * BATCH, 4, 11, 9), generator=generator)


def train(model: nn.Module, rows: slice) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(STEPS):
        x, target = (t[rows] for t in data(step))
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES)
    model = DistributedDataParallel(network())
    train(model, slice(rank * BATCH, (rank + 1) * BATCH))
    torch.save(model.module.state_dict(), Path(folder) / f"rank{rank}.pt")
    # The group's threads end with its last owner, and the model is one: left to the end of the process, they have aborted it.
    dist.barrier()
    del model
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch is built without gloo")
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    multiprocessing.spawn(worker, args=(str(tmp_path),), nprocs=PROCESSES)
    alone = network()
    train(alone, slice(None))
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(PROCESSES))
    for name, expected in alone.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-5)
        assert not torch.equal(expected, network().state_dict()[name]), f"{name} was not trained"
