"""What nvcc makes of the Hopper kernels: no spills, products by wgmma, copies by the copy engine, and registers that the roles of
a block can hand each other. Needs nvcc, and no GPU."""

import subprocess
from pathlib import Path

import cuda_binary
import pytest
from ahead import Job
from cuda_binary import SOURCES, compiled_hopper

pytestmark = pytest.mark.skipif(cuda_binary.nvcc() is None, reason="needs nvcc")
needs_nvdisasm = pytest.mark.skipif(cuda_binary.nvdisasm() is None, reason="needs nvdisasm, of CUDA or of the triton package")

REGISTERS, THREADS = 65536, 384
COPYING, MULTIPLYING = 40, 232  # as hopper_tiles.h has them
#: Whose warpgroups keep the registers that they have from the start.
ALIKE = {"hopper_second_stage_kernel", "refine_march_kernel"}


def ahead(items: list[pytest.Function]) -> list[Job]:
    return cuda_binary.jobs_hopper()


def test_nothing_spills() -> None:
    kernels = compiled_hopper().kernels
    assert kernels and not [str(k) for k in kernels if k.stack or k.spilled]


def test_products_are_not_serialized_and_setmaxnreg_is_not_ignored() -> None:
    report = compiled_hopper().report
    assert "wgmma" not in report and "C75" not in report


def test_the_roles_share_the_registers() -> None:
    kernels = compiled_hopper().kernels
    tiles = (SOURCES / "gcn" / "hopper" / "hopper_tiles.h").read_text()
    assert f"kProducerRegisters = {COPYING}, kConsumerRegisters = {MULTIPLYING};" in tiles
    assert 128 * (COPYING + 2 * MULTIPLYING) <= REGISTERS
    for kernel in kernels:  # what the launch takes is what the roles divide up; of others it is enough for all
        if kernel.name in ALIKE:
            assert kernel.registers * THREADS <= REGISTERS, f"{kernel}: {kernel.registers}"
            continue
        assert kernel.registers * THREADS >= 128 * (COPYING + 2 * MULTIPLYING), f"{kernel}: {kernel.registers}"


@needs_nvdisasm
def test_wgmma_on_what_the_copy_engine_brought() -> None:
    #: Products that go together: two steps; two halves of two steps; three octets of a step;
    #: k-blocks of pairs of octets, of two steps and of one, and of single ones, the last apart. Loops may be unrolled.
    #: Of the second stage, the last two steps of single octets are k-blocks of their own.
    #: Of the refinement, a row of both convolutions.
    products = {
        "hopper_second_stage_kernel": 8,
        "hopper_first_stage_kernel": 2,
        "hopper_weight_grad_kernel": 3,
        "hopper_input_grad_kernel": 8,
        "refine_march_kernel": 10,
    }
    kernels = compiled_hopper().kernels
    assert {kernel.name for kernel in kernels} == set(products)
    for kernel in kernels:
        count = kernel.instructions
        assert count["HGMMA"] and count["HGMMA"] % products[kernel.name] == 0, f"{kernel}: {count['HGMMA']}"
        by_threads = kernel.name in ALIKE  # which copy rows of 16 bytes, and keep their registers
        assert bool(count["LDGSTS"]) == by_threads == (not count["UTMALDG"]), f"{kernel}: {count}"
        assert count["USETMAXREG"] == (0 if by_threads else 2), f"{kernel}: {count}"
        of_blocks = kernel.name not in ("hopper_weight_grad_kernel", "refine_march_kernel")
        assert bool(count["UBLKCP"]) == of_blocks, f"{kernel}: bulk copies of weights"
        # Sums with values that are not finite are done again without wgmma.
        assert bool(count["HMMA"]) == (kernel.name == "hopper_weight_grad_kernel"), f"{kernel}: {count}"
        assert not count["LDL"] and not count["STL"], f"{kernel}: {count}"
        if kernel.name == "hopper_input_grad_kernel":  # into NCHW, weights are multiplied from registers
            assert bool(count["LDSM"]) == (kernel.numbers[0] >= 2), f"{kernel}: {count}"


def test_waits_that_end_say_where(tmp_path: Path) -> None:
    """As PTX, which takes no time: built for it, a wait reads the clock, prints and traps; else it does none of this."""
    source = SOURCES / "gcn" / "hopper" / "instances" / "hopper_weight_grad_half.cu"
    for flags, expected in (([], False), (["-DGCN_DEBUG_BARRIERS"], True)):
        text = tmp_path / "waits.ptx"
        command = ["nvcc", "-std=c++17", "-arch=sm_90a", "-O3", "-ptx", *flags, str(source), "-o", str(text)]
        subprocess.run(command, check=True, capture_output=True)
        listing = text.read_text()
        assert ("%globaltimer" in listing and "vprintf" in listing and "trap;" in listing) == expected
