"""What nvcc makes of the Hopper kernels: no spills, products by wgmma, copies by the copy engine, and registers that the roles of
a block can hand each other. Needs nvcc, and no GPU."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import cuda_binary
import pytest
from cuda_binary import JOBS, SOURCES, Kernel

pytestmark = pytest.mark.skipif(cuda_binary.nvcc() is None, reason="needs nvcc")
needs_nvdisasm = pytest.mark.skipif(cuda_binary.nvdisasm() is None, reason="needs nvdisasm, of CUDA or of the triton package")

REGISTERS, THREADS = 65536, 384
COPYING, MULTIPLYING = 40, 232  # as hopper_tiles.h has them


@cache
def compiled(folder: Path) -> tuple[tuple[Kernel, ...], str]:
    """Every Hopper kernel, and all that was said about them."""

    def compile_one(source: Path) -> tuple[list[Kernel], str]:
        binary = folder / f"{source.stem}.cubin"
        flags = ["-std=c++17", "-gencode=arch=compute_90a,code=sm_90a", "-O3", "-Xptxas", "-v", "-cubin"]
        done = subprocess.run(["nvcc", *flags, str(source), "-o", str(binary)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        kernels = cuda_binary._read_report(done.stderr)
        if (disassembler := cuda_binary.nvdisasm()) is not None:
            listing = subprocess.run([disassembler, "-c", str(binary)], capture_output=True, text=True, check=True).stdout
            cuda_binary._read_listing(listing, kernels)
        return list(kernels.values()), done.stderr

    with ThreadPoolExecutor(JOBS) as pool:
        parts = list(pool.map(compile_one, sorted((SOURCES / "hopper" / "instances").glob("*.cu"))))
    return tuple(k for kernels, _ in parts for k in kernels), "".join(said for _, said in parts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cubin")


def test_nothing_spills(folder: Path) -> None:
    kernels, _ = compiled(folder)
    assert kernels and not [str(k) for k in kernels if k.stack or k.spilled]


def test_products_are_not_serialized_and_setmaxnreg_is_not_ignored(folder: Path) -> None:
    _, said = compiled(folder)
    assert "wgmma" not in said and "C75" not in said


def test_the_roles_share_the_registers(folder: Path) -> None:
    kernels, _ = compiled(folder)
    tiles = (SOURCES / "hopper" / "hopper_tiles.h").read_text()
    assert f"kRegistersCopying = {COPYING}, kRegistersMultiplying = {MULTIPLYING};" in tiles
    assert 128 * (COPYING + 2 * MULTIPLYING) <= REGISTERS
    for kernel in kernels:  # what the launch takes is what the roles divide up
        assert kernel.registers * THREADS >= 128 * (COPYING + 2 * MULTIPLYING), f"{kernel}: {kernel.registers}"


@needs_nvdisasm
def test_wgmma_on_what_the_copy_engine_brought(folder: Path) -> None:
    #: Products that go together: two steps; two halves of two steps; three octets of a step;
    #: k-blocks of pairs of octets, of two steps and of one, and of single ones, the last apart. Loops may be unrolled.
    products = {
        "hopper_first_stage_kernel": 2,
        "hopper_weight_grad_kernel": 3,
        "hopper_input_grad_kernel": 8,
    }
    kernels, _ = compiled(folder)
    assert {kernel.name for kernel in kernels} == set(products)
    for kernel in kernels:
        count = kernel.instructions
        assert count["HGMMA"] and count["HGMMA"] % products[kernel.name] == 0, f"{kernel}: {count['HGMMA']}"
        assert count["UTMALDG"] and count["USETMAXREG"] == 2, f"{kernel}: {count}"
        assert count["UBLKCP"] or kernel.name == "hopper_weight_grad_kernel", f"{kernel}: no bulk copies of weights"
        assert not count["HMMA"] and not count["LDL"] and not count["STL"], f"{kernel}: {count}"
