"""Fixed inputs for every wrapper of the Hopper layer, and what the PTX manual says comes out: a part of calibration.py."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from calibration import (
    FLOAT32,
    UINT8,
    UINT16,
    UINT32,
    Array,
    Calibration,
    Expected,
    bits,
    cut_to_tf32,
    narrowed,
    widened,
)

IMAGE, UNIT, THREADS = 16384, 16, 128


class Layout(NamedTuple):
    transposed: bool
    leading: int
    stride: int
    swizzle: int  # bytes of a row
    step: int = 4096  # to the operand of the second product


#: How operands lie in shared memory, as hopper_calibration.cuh numbers it.
LAYOUTS = (
    Layout(False, 128, 256, 0),
    Layout(False, 0, 256, 32),
    Layout(False, 0, 512, 64),
    Layout(False, 0, 1024, 128),
    Layout(True, 1024, 128, 0),
    Layout(True, 512, 256, 32),
    Layout(True, 1024, 512, 64),
    Layout(True, 2048, 1024, 128),
    Layout(False, 16, 256, 0),
    Layout(True, 128, 16, 0),
    Layout(True, 128, 512, 0, 256),
    Layout(True, 1024, 256, 32, 512),
    Layout(True, 2048, 512, 64, 1024),
    Layout(True, 4096, 1024, 128, 2048),
    Layout(False, 0, 512, 64, 32),
)


def permuted(address: Array, row: int) -> Array:
    """Bits 4 to 6 of addresses exchanged as in rows of so many bytes."""
    mask = row // UNIT - 1 if row else 0
    return address ^ ((address >> 7 & mask) << 4)


def addresses(layout: int, rows: int, size: int, start: int) -> Array:
    """Where the elements [row, depth] of an operand are, in bytes; elements have ``size`` bytes."""
    transposed, leading, stride, swizzle, _ = LAYOUTS[layout]
    r, k = np.arange(rows)[:, None], np.arange(32 // size)[None, :]
    along, across = (r, k) if transposed else (k, r)  # units run along one dimension
    per_unit = UNIT // size
    if not swizzle:
        by_eight, by_unit = (leading, stride) if transposed else (stride, leading)
        blocks = across // 8 * by_eight + along // per_unit * by_unit
        return start + across % 8 * UNIT + blocks + along % per_unit * size
    per_row = swizzle // size
    blocks = across // 8 * stride + along // per_row * leading
    return permuted(start + across % 8 * swizzle + blocks + along % per_row * size, swizzle)


def registers(size: int) -> Array:
    """Where the elements [row, depth] of an operand A in registers are, in bytes: each thread's four registers in turn."""
    r, k = np.arange(64)[:, None], np.arange(32 // size)[None, :]
    per_register, per_unit = 4 // size, UNIT // size
    thread = r // 16 * 32 + r % 8 * 4 + k % per_unit // per_register
    return thread * UNIT + (r % 16 // 8 + k // per_unit * 2) * 4 + k % per_register * size


def wgmma(element: str, width: int, a: int | None, b: int) -> Calibration:
    """A in shared memory, laid out as ``a`` says, or in registers."""
    size = 4 if element == "tf32" else 2

    def draw() -> Array:
        values = np.random.default_rng(5).normal(size=(2, 2 * IMAGE // size))
        return values.astype(FLOAT32).view(UINT32) if size == 4 else narrowed(values, element)

    def expect(images: Array) -> Expected:
        numbers = cut_to_tf32(images) if size == 4 else widened(images, element)
        exact, magnitude = np.zeros((2, 64, width)), np.zeros((2, 64, width))
        for product in range(2):
            if a is None:
                places = product * THREADS * UNIT + registers(size)
            else:
                places = addresses(a, 64, size, product * LAYOUTS[a].step)
            of_a = numbers[:, places // size]
            of_b = numbers[:, addresses(b, width, size, IMAGE + product * LAYOUTS[b].step) // size]
            exact += np.einsum("smk,snk->smn", of_a, of_b)
            magnitude += np.einsum("smk,snk->smn", abs(of_a), abs(of_b))
        t, i = np.arange(THREADS)[:, None], np.arange(width // 2)[None, :]
        rows, columns = 16 * (t // 32) + t % 32 // 4 + 8 * (i // 2 % 2), 2 * (t % 4) + i % 2 + 8 * (i // 4)
        return Expected(exact[:, rows, columns], 2.0**-21 * magnitude[:, rows, columns])

    return Calibration(f"wgmma_{element}_{width}_{'registers' if a is None else a}_{b}", draw, expect, FLOAT32)


def copy_bulk() -> Calibration:
    return Calibration("copy_bulk", bits(2, 4096, dtype=UINT8), Expected, UINT8)


def copy_tensor(
    sizes: tuple[int, ...], dtype: np.dtype, box: tuple[int, ...], corner: Callable[[int], tuple[int, ...]], kind: str = ""
) -> Calibration:
    """A box of a map; sizes and boxes with the contiguous dimension last, the map being all sets."""

    def expect(given: Array) -> Expected:
        sets = len(given)
        whole = given.reshape(-1, *sizes[1:]) if len(box) == 2 else given.reshape(sets, *sizes)
        if len(box) == 4:  # the map walks columns before rows, as one may
            whole = whole.swapaxes(1, 2)
        outside = 64  # more than a box reaches over an edge
        around = np.pad(whole, outside)
        boxes = []
        for s in range(sets):
            first = [c + outside for c in corner(s)]
            found = around[tuple(slice(f, f + b) for f, b in zip(first, box, strict=True))]
            units = np.ascontiguousarray(found).view(UINT8).reshape(-1, UNIT)
            row = box[-1] * dtype.itemsize
            lies = np.empty_like(units)
            lies[permuted(np.arange(len(units)) * UNIT, row) // UNIT] = units
            boxes.append(lies)
        return Expected(np.stack(boxes))

    rank = len(box)
    shape = (3, *sizes)
    return Calibration(f"copy_tensor_{rank}d{kind}", bits(*shape, dtype=dtype), expect, UINT8)


def cluster() -> Calibration:
    def expect(given: Array) -> Expected:
        # [set, rank, phase, half]: both blocks see both halves, and in the second phase they have changed places.
        both = np.stack([given, given[:, ::-1]], 1)
        return Expected(np.stack([both, both], 1))

    return Calibration("cluster", bits(3, 2, 1024, dtype=UINT8), expect, UINT8)


def stmatrix() -> Calibration:
    def expect(given: Array) -> Expected:
        # [set, warp, lane / 4, lane % 4, tile, half]: a column, two of its rows, a tile
        numbers = given.reshape(-1, THREADS // 32, 8, 4, 4, 2)
        rows = numbers.transpose(0, 1, 4, 3, 5, 2).reshape(-1, THREADS // 32, 32, 8)
        stored = np.empty_like(rows)
        stored[:, :, np.arange(32) * 5 % 32] = rows  # lane l names row 5 l
        return Expected(stored)

    return Calibration("stmatrix_x4_trans", bits(3, THREADS, 8, dtype=UINT16), expect, UINT16)


def pack_relu(element: str) -> Calibration:
    def draw() -> Array:
        numbers = np.random.default_rng(3).normal(size=(3, THREADS, 2)).astype(FLOAT32)
        numbers[0, :3] = [[np.nan, np.inf], [-np.inf, np.nan], [1e-30, -1e-30]]
        return numbers

    def expect(given: Array) -> Expected:
        return Expected(widened(narrowed(np.where(given < 0, 0, given), element), element).astype(FLOAT32))

    return Calibration(f"pack_relu_{element}", draw, expect, FLOAT32)


HOPPER_CALIBRATIONS = (
    *(wgmma("half", 64, layout, layout) for layout in range(8)),
    wgmma("bfloat16", 64, 8, 2),
    wgmma("bfloat16", 64, 7, 9),
    wgmma("half", 72, 2, 2),
    wgmma("bfloat16", 88, 2, 2),
    wgmma("half", 96, 2, 2),
    wgmma("bfloat16", 112, 2, 2),
    wgmma("half", 72, 7, 9),
    wgmma("bfloat16", 88, 7, 9),
    wgmma("half", 104, 7, 9),
    wgmma("bfloat16", 120, 7, 9),
    wgmma("bfloat16", 128, 2, 2),
    wgmma("half", 136, 2, 1),
    wgmma("bfloat16", 144, 2, 1),
    wgmma("half", 168, 2, 1),
    wgmma("bfloat16", 176, 2, 1),
    wgmma("half", 256, 8, 8),
    wgmma("tf32", 64, 2, 2),
    wgmma("tf32", 144, 2, 1),
    wgmma("tf32", 168, 0, 1),
    wgmma("half", 24, 8, 14),
    wgmma("bfloat16", 24, 0, 14),
    wgmma("half", 64, 10, 14),
    wgmma("bfloat16", 128, 11, 14),
    wgmma("half", 168, 12, 14),
    wgmma("bfloat16", 176, 13, 14),
    wgmma("half", 64, None, 0),
    wgmma("bfloat16", 64, None, 8),
    wgmma("bfloat16", 128, None, 0),
    wgmma("half", 128, None, 14),
    copy_bulk(),
    copy_tensor((16, 40), UINT16, (16, 32), lambda s: (16 * s - 3, 8)),
    copy_tensor((10, 24), UINT32, (1, 24, 8), lambda s: (s, 5, -4)),
    copy_tensor((8, 6, 40), UINT16, (1, 5, 8, 64), lambda s: (s, 3, -2, 8)),
    copy_tensor((20, 6, 24), UINT16, (1, 4, 32, 8), lambda s: (s, 3, -2, 8), "_of_units"),
    cluster(),
    stmatrix(),
    *(pack_relu(element) for element in ("half", "bfloat16")),
)
