"""On a GPU: what a process does first may be a capture, or a call on the second GPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from gcn_kernels import backends

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        (reason := backends.why_not("cuda", "cuda")) is not None, reason=f"the CUDA kernels do not run here: {reason}"
    ),
]

CAPTURE = """
import torch
from cases import Case, make
from gcn_kernels import fused_gcn
case = Case("captured", n=2, c=256, h=32, w=32, mid_l=21, mid_r=21, out=21, k=(15, 15, 15, 15))
block = make(case, torch.bfloat16).to(DEVICE)
x = block.x
torch.cuda.set_device(DEVICE)
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
with torch.inference_mode(), torch.cuda.graph(graph):
    y = fused_gcn(*block.arguments, backend="cuda")
x.copy_(torch.randn_like(x))
graph.replay()
torch.cuda.synchronize()
with torch.inference_mode():
    assert torch.equal(y, fused_gcn(*block.arguments, backend="cuda"))
print("equal")
"""


def first_call(device: str) -> str:
    code = CAPTURE.replace("DEVICE", repr(device))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip() or done.stderr[-2000:]


def test_a_process_may_capture_its_first_call() -> None:
    """Attributes are asked for and shared memory is granted while the stream is captured; nothing is launched beside it."""
    assert first_call("cuda:0") == "equal"


def test_the_first_call_may_be_on_the_second_gpu() -> None:
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    assert first_call("cuda:1") == "equal"
