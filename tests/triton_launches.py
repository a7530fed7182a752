"""The launches of the Triton operators, recorded instead of made, and compiled for an architecture that is not here."""

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from cases import Case
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gcn_kernels.triton import device, ops

ALL_GRADIENTS = 0b111111111
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


@dataclass(frozen=True)
class Launch:
    """One launch as the Python side makes it."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    meta: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)

    @property
    def numbers(self) -> list[int]:
        """The arguments that are sizes and strides."""
        return [value for value in self.arguments if isinstance(value, int)]

    @property
    def source(self) -> tuple[dict[str, str], dict[tuple[int, ...], Any], dict[tuple[int, ...], list[list[Any]]]]:
        """Signature, constants and attributes as the JIT derives them: ones are constants, multiples of 16 are known."""
        names = list(self.kernel.arg_names)
        signature: dict[str, str] = {}
        constants: dict[tuple[int, ...], Any] = {}
        attributes: dict[tuple[int, ...], list[list[Any]]] = {}
        for i, (name, value) in enumerate(zip(names, self.arguments, strict=False)):
            if isinstance(value, Tensor):
                signature[name] = _POINTERS[value.dtype]
                aligned = value.storage_offset() * value.element_size() % 16 == 0
            elif value == 1:
                signature[name], constants[(i,)] = "constexpr", 1
                continue
            else:
                signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
                aligned = value % 16 == 0
            if aligned:
                attributes[(i,)] = [["tt.divisibility", 16]]
        for name in names[len(self.arguments) :]:
            signature[name], constants[(names.index(name),)] = "constexpr", self.meta[name]
        return signature, constants, attributes

    @property
    def options(self) -> dict[str, int]:
        return {name: self.meta[name] for name in ("num_warps", "num_stages", "maxnreg") if name in self.meta}

    @property
    def key(self) -> str:
        """Equal for launches that the JIT serves with one compiled kernel."""
        return repr((self.name, self.source, self.options))


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a launch."""

    ptx: str
    cubin: bytes
    shared_bytes: int

    @cached_property
    def resources(self) -> dict[str, int]:
        """Registers of a thread and bytes of its stack."""
        found = re.search(r"REG:(\d+) STACK:(\d+)", self._dump("-res-usage"))
        assert found is not None
        return {"registers": int(found[1]), "stack": int(found[2])}

    def count(self, pattern: str) -> int:
        """How many machine instructions match."""
        return len(re.findall(pattern, self._machine_code))

    @cached_property
    def _machine_code(self) -> str:
        return self._dump("-sass")

    def _dump(self, option: str) -> str:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.cubin)
            file.flush()
            done = subprocess.run([_TOOLS / "cuobjdump", option, file.name], capture_output=True, text=True, check=True)
        return done.stdout


def compile_for(launch: Launch, capability: int) -> Compiled:
    """Compile for ``sm_<capability>``, with no GPU."""
    signature, constants, attributes = launch.source
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    return Compiled(kernel.asm["ptx"], kernel.asm["cubin"], kernel.metadata.shared)


def recording(monkeypatch: pytest.MonkeyPatch, capability: int) -> list[Launch]:
    """From now on launches are kept in this list instead of made, as on a GPU with 132 multiprocessors."""
    launches: list[Launch] = []

    def note(kernel: Any, grid: tuple[Any, ...], arguments: Any, **meta: Any) -> None:
        launches.append(Launch(kernel, grid, tuple(arguments), meta))

    architecture: Callable[[object], str] = lambda _: f"sm_{capability}"  # noqa: E731
    monkeypatch.setattr(device, "launch", note)
    monkeypatch.setattr(device, "architecture_of", architecture)
    monkeypatch.setattr(device, "multiprocessors", lambda _: 132)
    return launches


def record(
    monkeypatch: pytest.MonkeyPatch,
    capability: int,
    case: Case,
    dtype: torch.dtype,
    layout: torch.memory_format,
    allow_tf32: bool,
) -> list[Launch]:
    """Every launch of the forward and the backward pass of a problem."""
    launches = recording(monkeypatch, capability)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    x = empty(case.n, case.c, case.h, case.w).to(memory_format=layout)
    weights = [empty(*shape) for shape in case.weight_shapes().values()]
    biases = [
        empty(w.shape[0]) if name in case.biases else None
        for name, w in zip(("b_l1", "b_l2", "b_r1", "b_r2"), weights, strict=True)
    ]
    y, u_l, u_r = ops.forward(x, *weights, *biases, layout == torch.channels_last, allow_tf32)  # type: ignore[arg-type]
    ops.backward(y, x, u_l, u_r, *weights, biases[0], biases[2], ALL_GRADIENTS, allow_tf32)  # type: ignore[arg-type]
    return launches
