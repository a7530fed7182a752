"""Builds the engine and its bindings, and calls it with torch tensors."""

import hashlib
import importlib.util
import os
import subprocess
import sysconfig
import threading
from functools import cache, partial
from pathlib import Path

import pybind11
import torch

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*sorted((ROOT / "csrc/cpu/fft").glob("*.cpp")), Path(__file__).with_name("bindings.cpp")]
BUILD = Path(os.environ.get("CPU_ENGINE_BUILD", ROOT / "build/cpu_engine"))
FLAGS = os.environ.get("CPU_ENGINE_FLAGS", "-O3").split()
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def jobs():
    """What ``lib`` waits for: see ahead.py."""
    return [partial(_object, source) for source in SOURCES]


@cache
def lib():
    """The module; compiled where its sources have changed. A file appears when it is complete."""
    objects = [str(_object(source)) for source in SOURCES]
    library = _folder() / "cpu_engine.so"
    if not library.exists():
        _produce(library, ["g++", "-shared", "-fopenmp", *FLAGS, *objects])
    spec = importlib.util.spec_from_file_location("cpu_engine", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _object(source):
    target = _folder() / f"{source.stem}.o"
    if not target.exists():
        includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
        _produce(target, ["g++", "-std=c++17", "-fPIC", "-fopenmp", "-Wall", "-Wextra", *FLAGS, *includes, "-c", str(source)])
    return target


@cache
def _folder():
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in (*sorted((ROOT / "csrc/cpu/fft").iterdir()), *SOURCES):
        digest.update(path.read_bytes())
    folder = BUILD / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _produce(target, command):
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.{threading.get_ident()}")
    subprocess.run([*command, "-o", str(unfinished)], check=True)
    unfinished.replace(target)


def array(t):
    return lib().Array(t.data_ptr(), DTYPES[t.dtype], list(t.stride()))


def taps(w, flip=False):
    """[o, c, k] weights; flip reverses the taps by a negative stride."""
    o, c, k = w.stride()
    offset = (w.size(2) - 1) * k * 4 if flip else 0
    return lib().Array(w.data_ptr() + offset, 0, [o, c, -k if flip else k])


def scratch(size):
    """Poisoned memory, so that whatever is read before it is written shows."""
    return torch.full((max(size, 64) // 4,), float("nan"))


class Conv:
    def __init__(self, axis, x_shape, w, flip=False):
        n, c, h, w_ = x_shape
        self.plan = lib().plan(False, axis, n, c, w.size(0), h, w_, w.size(2))
        assert self.plan.possible
        self.w, self.flip = w, flip
        self.spectra, self.workspace = scratch(self.plan.spectra_bytes), scratch(self.plan.workspace_bytes)
        self.prepare()

    def prepare(self):
        lib().prepare(self.plan, taps(self.w, self.flip), self.spectra.data_ptr())

    def call(self, x, out, bias=None, addend=None):
        bias_address = 0 if bias is None else bias.data_ptr()
        images = (None if addend is None else array(addend), array(out))
        return lib().Call(self.plan, array(x), self.spectra.data_ptr(), bias_address, *images, self.workspace.data_ptr())

    def __call__(self, x, out, bias=None, addend=None):
        assert not self.gives_up(x, out, bias, addend)
        return out

    def gives_up(self, x, out, bias=None, addend=None):
        return lib().conv([self.call(x, out, bias, addend)])


class Wgrad:
    def __init__(self, axis, x_shape, o, k):
        n, c, h, w = x_shape
        self.plan = lib().plan(True, axis, n, c, o, h, w, k)
        assert self.plan.possible
        self.workspace = scratch(self.plan.workspace_bytes)

    def __call__(self, x, dout, grad):
        assert not self.gives_up(x, dout, grad)
        return grad

    def gives_up(self, x, dout, grad):
        return lib().wgrad(self.plan, array(x), array(dout), taps(grad), self.workspace.data_ptr())
