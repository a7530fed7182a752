"""A training step in a CUDA graph."""

import torch
from torch import Tensor, nn


def check_replayed(module: nn.Module, x: Tensor, dy: Tensor) -> None:
    """A step of the module is captured, and replayed on other data gives what a call gives."""
    inputs = (x, *module.parameters())

    def step() -> tuple[Tensor, ...]:
        y = module(x)
        return (y, *torch.autograd.grad(y, inputs, dy))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.normal_()
    graph.replay()
    for found, expected in zip(captured, step(), strict=True):
        assert torch.equal(found, expected)
