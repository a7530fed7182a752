"""Fixed inputs for every wrapper of the device layer, and what the PTX manual says comes out.

The tests run them in the emulator. On a machine with a GPU and nvcc

    python tests/emu/calibration.py --out tests/emu/golden

runs them on the GPU and writes inputs and outputs; the tests then hold the emulator to these as well.
"""

import argparse
import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.generic]

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden"
LANES = 32

UINT8, UINT16, UINT32 = np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.uint32)
FLOAT16, FLOAT32, FLOAT64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)


@dataclass(frozen=True)
class Expected:
    """The outputs, and how far each may be off; what is not finite has to be equal."""

    values: Array
    allowed: Array | float = 0.0


@dataclass(frozen=True)
class Calibration:
    """A kernel of calibration.cuh; ``draw`` gives its input [sets, ...], ``expect`` the output for an input."""

    name: str
    draw: Callable[[], Array]
    expect: Callable[[Array], Expected]
    output: np.dtype


def bits(*shape: int, dtype: np.dtype = UINT32) -> Callable[[], Array]:
    """Every pattern of bits is as likely."""
    return lambda: np.random.default_rng(0).integers(0, 1 << 8 * dtype.itemsize, shape, dtype=dtype)


# --- ldmatrix


def ldmatrix(tiles: int, transposed: bool) -> Calibration:
    rows = 8 * tiles

    def expect(stored: Array) -> Expected:
        named = stored[:, np.arange(rows) * 5 % rows]  # lane l names row 5 l
        matrix = named.reshape(-1, tiles, 8, 8)
        if transposed:
            matrix = matrix.swapaxes(2, 3)
        # Lane l gets elements 2 (l % 4) and the next of row l / 4 of every tile.
        return Expected(matrix.reshape(-1, tiles, LANES, 2).swapaxes(1, 2))

    suffix = "_trans" if transposed else ""
    return Calibration(f"ldmatrix_x{tiles}{suffix}", bits(4, rows, 8, dtype=UINT16), expect, UINT16)


# --- mma

G, T = np.arange(LANES) // 4, np.arange(LANES) % 4
#: Row and column of each element of a lane's fragments [lane, register(, half)], as the PTX manual has them.
A16_ROWS = np.stack([G, G + 8, G, G + 8], 1)[:, :, None] + np.zeros(2, int)
A16_COLUMNS = np.stack([2 * T, 2 * T, 2 * T + 8, 2 * T + 8], 1)[:, :, None] + np.arange(2)
B16_ROWS = np.stack([2 * T, 2 * T + 8], 1)[:, :, None] + np.arange(2)
B16_COLUMNS = G[:, None, None] + np.zeros((2, 2), int)
A32_ROWS, A32_COLUMNS = np.stack([G, G + 8, G, G + 8], 1), np.stack([T, T, T + 4, T + 4], 1)
B32_ROWS, B32_COLUMNS = np.stack([T, T + 4], 1), np.stack([G, G], 1)
D_ROWS, D_COLUMNS = np.stack([G, G, G + 8, G + 8], 1), np.stack([2 * T, 2 * T + 1, 2 * T, 2 * T + 1], 1)


def widened(pairs: Array, element: str) -> Array:
    """16-bit elements, given by their bits, in float64."""
    exact = pairs.view(FLOAT16) if element == "half" else (pairs.astype(UINT32) << 16).view(FLOAT32)
    with np.errstate(invalid="ignore"):  # numpy complains of signalling nan
        return exact.astype(FLOAT64)


def narrowed(values: Array, element: str) -> Array:
    """The bits of the nearest 16-bit elements, by another implementation than the emulator's."""
    dtype = torch.float16 if element == "half" else torch.bfloat16
    return torch.from_numpy(np.ascontiguousarray(values, FLOAT32)).to(dtype).view(torch.int16).numpy().view(UINT16)


def cut_to_tf32(words: Array) -> Array:
    return (words & np.uint32(0xFFFFE000)).view(FLOAT32).astype(FLOAT64)


def operands(depth: int) -> tuple[Array, Array, Array]:
    """Sets of a [16, depth], b [depth, 8], d [16, 8]: plain, of mixed magnitudes, cancelling, small integers, not finite."""
    rng = np.random.default_rng(1)
    a, b, d = rng.normal(size=(5, 16, depth)), rng.normal(size=(5, depth, 8)), rng.normal(size=(5, 16, 8))
    a[1] *= 2.0 ** rng.integers(-6, 7, a[1].shape)
    b[1] *= 2.0 ** rng.integers(-6, 7, b[1].shape)
    d[2] = -(a[2] @ b[2]) * (1 + 1e-4 * rng.normal(size=d[2].shape))
    a[3], b[3], d[3] = (rng.integers(-9, 10, x.shape) for x in (a[3], b[3], d[3]))
    a[4, 3, 2], a[4, 8, 1], b[4, depth - 1, 5], d[4, 12, 0] = np.inf, np.nan, -np.inf, np.inf
    return a, b, d


def product(a: Array, b: Array, d: Array, error: float) -> Expected:
    """d + a b in float64, and ``error`` relative to the sum of all terms' magnitudes."""
    with np.errstate(invalid="ignore"):
        values = d + np.einsum("smk,skn->smn", a, b)
        magnitude = abs(d) + np.einsum("smk,skn->smn", abs(a), abs(b))
    return Expected(values[:, D_ROWS, D_COLUMNS], error * np.nan_to_num(magnitude, posinf=0)[:, D_ROWS, D_COLUMNS])


def unpacked(fragments: Array, rows: Array, columns: Array, shape: tuple[int, int]) -> Array:
    matrix = np.empty((len(fragments), *shape))
    matrix[:, rows, columns] = fragments
    return matrix


def mma_16bit(element: str) -> Calibration:
    def draw() -> Array:
        a, b, d = operands(16)
        words = [narrowed(a, element)[:, A16_ROWS, A16_COLUMNS], narrowed(b, element)[:, B16_ROWS, B16_COLUMNS]]
        fragments = [np.ascontiguousarray(w).reshape(5, LANES, -1).view(UINT32) for w in words]
        return np.concatenate([*fragments, d.astype(FLOAT32)[:, D_ROWS, D_COLUMNS].view(UINT32)], 2)

    def expect(registers: Array) -> Expected:
        sets = len(registers)
        a, b = (np.ascontiguousarray(r).view(UINT16) for r in (registers[:, :, :4], registers[:, :, 4:6]))
        a_matrix = unpacked(widened(a, element).reshape(sets, LANES, 4, 2), A16_ROWS, A16_COLUMNS, (16, 16))
        b_matrix = unpacked(widened(b, element).reshape(sets, LANES, 2, 2), B16_ROWS, B16_COLUMNS, (16, 8))
        d = unpacked(registers[:, :, 6:].view(FLOAT32), D_ROWS, D_COLUMNS, (16, 8))
        return product(a_matrix, b_matrix, d, 2.0**-22)

    return Calibration(f"mma_{element}", draw, expect, FLOAT32)


def mma_32bit(name: str, operand: Callable[[Array], Array], error: float) -> Calibration:
    def draw() -> Array:
        a, b, d = (x.astype(FLOAT32).view(UINT32) for x in operands(8))
        return np.concatenate([a[:, A32_ROWS, A32_COLUMNS], b[:, B32_ROWS, B32_COLUMNS], d[:, D_ROWS, D_COLUMNS]], 2)

    def expect(registers: Array) -> Expected:
        a = unpacked(operand(registers[:, :, :4]), A32_ROWS, A32_COLUMNS, (16, 8))
        b = unpacked(operand(registers[:, :, 4:6]), B32_ROWS, B32_COLUMNS, (8, 8))
        return product(a, b, unpacked(registers[:, :, 6:].view(FLOAT32), D_ROWS, D_COLUMNS, (16, 8)), error)

    return Calibration(name, draw, expect, FLOAT32)


# --- copies and shared memory


def copy_async(size: int) -> Calibration:
    def expect(given: Array) -> Expected:
        values = np.full_like(given, 0x5A)
        values[:, :, :size] = given[:, :, :size]
        values[:, ::3, :size] = 0
        return Expected(values)

    return Calibration(f"copy_async_{size}", bits(2, LANES, 16, dtype=UINT8), expect, UINT8)


def copy_groups() -> Calibration:
    return Calibration("copy_groups", bits(2, 3, LANES, 4), lambda given: Expected(np.roll(given, -1, axis=2)), UINT32)


def shared(size: int) -> Calibration:
    # Whole lanes change places, whatever the elements they are moved by.
    return Calibration(f"shared_{size}", bits(2, LANES, 4), lambda given: Expected(given[:, ::-1]), UINT32)


# --- shuffles


def shuffle(name: str, dtype: np.dtype) -> Calibration:
    lanes = np.arange(LANES)
    downs = [lanes + n for n in (1, 2, 4, 8, 16, 7)]
    sources = np.stack([*(lanes ^ n for n in (1, 2, 4, 8, 16, 21)), *(np.where(d < LANES, d, lanes) for d in downs)])
    return Calibration(
        name,
        lambda: np.random.default_rng(2).normal(size=(2, LANES)).astype(dtype),
        lambda given: Expected(given[:, sources]),
        dtype,
    )


# --- conversions


def floats(kept_bits: int) -> Callable[[], Array]:
    """Normal fp32 numbers of all magnitudes; halfway between two that keep so many bits, and next to that; special values."""

    def draw() -> Array:
        rng = np.random.default_rng(3)
        magnitudes = rng.normal(size=4096) * 2.0 ** rng.integers(-30, 31, 4096)
        dropped = np.uint32((1 << 24 - kept_bits) - 1)
        short = (rng.normal(size=2048) * 2.0 ** rng.integers(-12, 13, 2048)).astype(FLOAT32).view(UINT32) & ~dropped
        ties = (short[:, None] + (dropped + 1) // 2 + np.array([-1, 0, 1], dtype=np.int64)).astype(UINT32).view(FLOAT32)
        special = [
            0.0,
            -0.0,
            np.inf,
            -np.inf,
            np.nan,
            1.0,
            65504.0,
            65519.0,
            65520.0,
            -65520.0,
            6e-8,
            3e-8,
            2e-8,
            1e30,
            -1e30,
            3.3895314e38,
        ]
        values = np.concatenate([magnitudes, ties.ravel(), np.array(special)]).astype(FLOAT32)
        return np.pad(values, (0, -len(values) % LANES)).reshape(-1, LANES)

    return draw


def narrow(element: str, kept_bits: int) -> Calibration:
    def expect(given: Array) -> Expected:
        return Expected(widened(narrowed(given, element), element).astype(FLOAT32))

    return Calibration(f"narrow_{element}", floats(kept_bits), expect, UINT16)


def widen(element: str) -> Calibration:
    every = np.arange(1 << 16, dtype=UINT16).reshape(-1, LANES)

    def expect(given: Array) -> Expected:
        with np.errstate(invalid="ignore"):
            return Expected(widened(given, element).astype(FLOAT32))

    return Calibration(f"widen_{element}", lambda: every, expect, FLOAT32)


def round_to_tf32() -> Calibration:
    def expect(given: Array) -> Expected:
        mantissa, exponent = np.frexp(given.view(FLOAT32).astype(FLOAT64))
        with np.errstate(over="ignore"):
            rounded = np.ldexp(np.floor(abs(mantissa) * 2**11 + 0.5), exponent - 11).astype(FLOAT32)
        return Expected(np.copysign(rounded, given.view(FLOAT32)))

    return Calibration("round_to_tf32", lambda: floats(11)().view(UINT32), expect, FLOAT32)


def dependent_launch() -> Calibration:
    return Calibration("dependent_launch", bits(6, LANES), lambda given: Expected((given + np.uint32(1)) * np.uint32(2)), UINT32)


CALIBRATIONS = (
    *(ldmatrix(tiles, transposed) for tiles in (4, 2) for transposed in (False, True)),
    *(mma_16bit(element) for element in ("half", "bfloat16")),
    mma_32bit("mma_tf32", cut_to_tf32, 2.0**-22),
    mma_32bit("mma_fp32", lambda words: words.view(FLOAT32).astype(FLOAT64), 2.0**-20),
    *(copy_async(size) for size in (4, 8, 16)),
    copy_groups(),
    *(shared(size) for size in (2, 4, 8, 16)),
    shuffle("shuffle_float", FLOAT32),
    shuffle("shuffle_double", FLOAT64),
    narrow("half", 11),
    narrow("bfloat16", 8),
    widen("half"),
    widen("bfloat16"),
    round_to_tf32(),
    dependent_launch(),
)


def decoded(calibration: Calibration, output: bytes) -> Array:
    """A kernel's output as the numbers it means."""
    values = np.frombuffer(output, calibration.output)
    if calibration.name.startswith("narrow_"):
        return widened(values, calibration.name.removeprefix("narrow_")).astype(FLOAT32)
    return values


def disagreements(found: Array, expected: Expected) -> str:
    """What is wrong with an output; empty if nothing is. Zeros are told apart by sign, nan are all alike."""
    values = np.asarray(expected.values).reshape(-1)
    found = found.reshape(-1)
    allowed = np.broadcast_to(np.asarray(expected.allowed), np.shape(expected.values)).reshape(-1)
    with np.errstate(invalid="ignore"):
        close = abs(found.astype(FLOAT64) - values.astype(FLOAT64)) <= allowed if values.dtype.kind == "f" else False
    same = found == values
    if values.dtype.kind == "f":
        same = (same & ((allowed > 0) | (np.signbit(found) == np.signbit(values)))) | (np.isnan(found) & np.isnan(values))
    wrong = np.flatnonzero(~(same | close & (allowed > 0)))
    if not wrong.size:
        return ""
    i = wrong[0]
    return f"{wrong.size} of {values.size} differ, the first at {i}: {found[i]}, expected {values[i]} +- {allowed[i]}"


def run_on_gpu(out: Path) -> Path:
    """Build the kernels with nvcc, run them on the current GPU and write inputs and outputs."""
    if shutil.which("nvcc") is None or not torch.cuda.is_available():
        raise SystemExit("needs nvcc and a GPU")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "calibration.so"
        includes = [f"-I{HERE}", f"-I{HERE.parents[1] / 'csrc' / 'cuda'}"]
        flags = ["-std=c++17", "-arch=native", "-shared", "-Xcompiler", "-fPIC"]
        hopper = torch.cuda.get_device_capability() == (9, 0)
        if hopper:
            flags[1:2] = ["-gencode=arch=compute_90a,code=sm_90a", "-DGCN_HOPPER"]
        subprocess.run(["nvcc", *flags, *includes, str(HERE / "calibration_gpu.cu"), "-o", str(library)], check=True)
        calibrate = ctypes.CDLL(str(library)).gcn_calibrate
    calibrate.restype = ctypes.c_char_p
    print(f"{torch.cuda.get_device_name()}, compute capability {'.'.join(map(str, torch.cuda.get_device_capability()))}")
    arrays: dict[str, Array] = {}
    for calibration in (*CALIBRATIONS, *(_of_hopper() if hopper else ())):
        given = np.ascontiguousarray(calibration.draw())
        output = np.empty(_output_bytes(calibration, given), UINT8)
        pointers = (given.ctypes.data_as(ctypes.c_void_p), output.ctypes.data_as(ctypes.c_void_p))
        error = calibrate(calibration.name.encode(), *pointers, len(given))
        if error is not None:
            raise RuntimeError(f"{calibration.name}: {error.decode()}")
        wrong = disagreements(decoded(calibration, output.tobytes()), calibration.expect(given))
        print(f"{calibration.name}: {wrong or 'as the manual says'}")
        arrays |= {f"{calibration.name}.input": given, f"{calibration.name}.output": output}
    out.mkdir(parents=True, exist_ok=True)
    path = out / (re.sub(r"\W+", "-", torch.cuda.get_device_name()).strip("-").lower() + ".npz")
    np.savez_compressed(path, **arrays)
    return path


def _of_hopper() -> tuple[Calibration, ...]:
    from hopper_calibration import HOPPER_CALIBRATIONS

    return HOPPER_CALIBRATIONS


def _output_bytes(calibration: Calibration, given: Array) -> int:
    return int(np.size(calibration.expect(given).values)) * calibration.output.itemsize


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=GOLDEN, help="folder of the golden data")
    print(f"wrote {run_on_gpu(parser.parse_args().out)}")
