"""What nvcc makes of the CUDA kernels, for every architecture: no spills, room for the blocks that the plan counts on, and the
instructions that the kernels' headers promise. Needs nvcc, and no GPU."""

import cuda_binary
import pytest
from ahead import Job
from cuda_binary import ARCHITECTURES, Kernel
from suites import in_suites

#: An architecture, and the arithmetic whose kernels are compiled; all, unless one is named.
Target = tuple[int, str]
EVERY_DAY: Target = (80, "half")
TARGETS: list[Target] = [EVERY_DAY, *((architecture, "") for architecture in ARCHITECTURES)]


def id_of(target: Target) -> str:
    architecture, math = target
    return f"sm_{architecture}-{math}" if math else f"sm_{architecture}"


pytestmark = [
    pytest.mark.skipif(cuda_binary.nvcc() is None, reason="needs nvcc"),
    pytest.mark.parametrize("target", in_suites(TARGETS, everyday=lambda t: t == EVERY_DAY), ids=id_of),
]
needs_nvdisasm = pytest.mark.skipif(cuda_binary.nvdisasm() is None, reason="needs nvdisasm, of CUDA or of the triton package")

REGISTERS = 65536  # of a multiprocessor
BLOCK = 128  # threads
#: Blocks that share a multiprocessor by the plan, so that one works while another waits.
BLOCKS = {
    **{"first_stage_kernel": 2, "weight_grad_kernel": 2, "line_conv_kernel": 2, "second_stage_grad_kernel": 2},
    **{"unpacked_first_stage_kernel": 2, "unpacked_second_stage_kernel": 4},
}

#: Whose products are the bulk of the work, by template arguments: products to each load of fragments in the 16-bit main loop.
WIDE = 3  # LineTile::kWide, the gradient of x
NARROW_SMALL = 1  # LineTile::kNarrowSmall, next to which the narrow weight gradient has more products in a step


def is_bulk(kernel: Kernel) -> bool:
    if kernel.math not in ("half", "bfloat16"):
        return False
    if kernel.name in ("first_stage_kernel", "unpacked_first_stage_kernel"):
        return kernel.numbers[0] >= 16
    if kernel.name == "line_conv_kernel":
        return kernel.numbers[0] == WIDE
    return kernel.name == "weight_grad_kernel"


def ahead(items: list[pytest.Function]) -> list[Job]:
    targets = dict.fromkeys(item.callspec.params["target"] for item in items)
    return [job for target in targets for job in cuda_binary.jobs(*target)]


@pytest.fixture
def kernels(target: Target) -> tuple[Kernel, ...]:
    return cuda_binary.compiled(*target).kernels


def test_nothing_spills(kernels: tuple[Kernel, ...]) -> None:
    assert not [str(k) for k in kernels if k.stack or k.spilled]


def test_registers_leave_room_for_the_blocks_of_the_plan(kernels: tuple[Kernel, ...]) -> None:
    counted_on = [k for k in kernels if k.name in BLOCKS]
    assert {k.name for k in counted_on} == set(BLOCKS)
    assert not [f"{k}: {k.registers}" for k in counted_on if k.registers * BLOCK * BLOCKS[k.name] > REGISTERS]


def test_strips_have_registers_for_the_threads_of_the_plan(kernels: tuple[Kernel, ...]) -> None:
    """As many threads share a multiprocessor as a block may have: three blocks of 256, or one of 768; of float64 half as many."""
    found = {"double" if "kernelIdE" in k.symbol else str(k): k for k in kernels if k.name == "strips_tile_kernel"}
    assert len(found) == 4 and "double" in found
    assert not [
        f"{name}: {k.registers}" for name, k in found.items() if k.registers * (384 if name == "double" else 768) > REGISTERS
    ]


def test_strips_on_tensor_cores_have_registers_for_the_threads_of_the_plan(kernels: tuple[Kernel, ...]) -> None:
    found = [k for k in kernels if k.name == "strips_banded_kernel"]
    assert {k.math for k in found} == {"half", "bfloat16", "tf32"} and len(found) == 3
    assert not [f"{k}: {k.registers}" for k in found if k.registers * (640 if k.math == "tf32" else 768) > REGISTERS]


@needs_nvdisasm
def test_strips_multiply_on_tensor_cores(kernels: tuple[Kernel, ...]) -> None:
    """The loop with the most products: a line of a kernel of at most 5 pieces, in tf32 8, and 4 blocks."""
    for kernel in (k for k in kernels if k.name == "strips_banded_kernel"):
        products, fragments = (16, 7) if kernel.math == "tf32" else (12, 4)
        assert kernel.loop["HMMA"] == products, f"{kernel}: {kernel.loop}"
        assert kernel.loop["LDSM"] == fragments, str(kernel)
        assert not kernel.loop["FFMA"] and not kernel.loop["LDL"] and not kernel.loop["STL"], str(kernel)


def test_refinements_have_registers_for_the_blocks_of_the_plan(kernels: tuple[Kernel, ...]) -> None:
    """Two blocks of 256 threads; of float32, whose products are three each, one."""
    found = [k for k in kernels if k.name in ("refine_forward_kernel", "refine_backward_kernel")]
    assert {k.math for k in found} == {"half", "bfloat16", "tf32", "float"} and len(found) == 8
    assert not [f"{k}: {k.registers}" for k in found if k.registers * 256 * (1 if k.math == "float" else 2) > REGISTERS]


@needs_nvdisasm
def test_refinements_multiply_on_tensor_cores(kernels: tuple[Kernel, ...]) -> None:
    """A step of a convolution is 36 products, three times as many of float32, and the loads that refine_products.cuh counts."""
    for kernel in (k for k in kernels if k.name == "refine_forward_kernel"):
        assert kernel.loop["HMMA"] == (108 if kernel.math == "float" else 36), str(kernel)
        assert kernel.loop["LDSM"] == 8, str(kernel)
        assert not kernel.loop["FFMA"] and not kernel.loop["LDL"] and not kernel.loop["STL"], str(kernel)


def test_doublings_have_registers_for_the_blocks_of_the_plan(kernels: tuple[Kernel, ...]) -> None:
    """Two blocks of 256 threads."""
    found = [k for k in kernels if k.name in ("upsample_forward_kernel", "upsample_backward_kernel")]
    assert len(found) == 8
    assert not [f"{k}: {k.registers}" for k in found if k.registers * 512 > REGISTERS]


@needs_nvdisasm
def test_doublings_multiply_on_tensor_cores_in_16_bits(kernels: tuple[Kernel, ...]) -> None:
    """A step of two rows of taps is 24 products to 6 fragments of x, as upsample_products.cuh counts; others multiply and add."""
    found = [k for k in kernels if k.name == "upsample_forward_kernel"]
    assert {k.math for k in found} == {"half", "bfloat16", ""}
    for kernel in found:
        if kernel.math:
            assert (kernel.loop["HMMA"], kernel.loop["LDSM"]) == (24, 6), str(kernel)
            assert not kernel.loop["FFMA"] and not kernel.loop["LDL"] and not kernel.loop["STL"], str(kernel)
        else:
            assert kernel.instructions["FFMA"] >= 128 or kernel.instructions["DFMA"] >= 64, kernel.symbol


@needs_nvdisasm
def test_no_local_memory(kernels: tuple[Kernel, ...]) -> None:
    assert all(k.instructions for k in kernels)
    assert not [str(k) for k in kernels if k.instructions["LDL"] or k.instructions["STL"]]


@needs_nvdisasm
def test_products_are_tensor_core_products_of_what_was_copied_asynchronously(kernels: tuple[Kernel, ...]) -> None:
    for kernel in (k for k in kernels if k.name in BLOCKS):
        assert kernel.loop["HMMA"], f"{kernel}: no products in its main loop"
        assert kernel.instructions["LDGSTS"], f"{kernel}: no asynchronous copies"
        assert not kernel.loop["FFMA"], f"{kernel}: products outside of the tensor cores"
        if kernel.math in ("half", "bfloat16"):
            assert kernel.loop["LDSM"], f"{kernel}: fragments are not loaded by ldmatrix"


@needs_nvdisasm
def test_three_products_to_each_load_of_fragments(kernels: tuple[Kernel, ...]) -> None:
    bulk = [k for k in kernels if is_bulk(k)]
    assert {k.name for k in bulk} == set(BLOCKS) - {"second_stage_grad_kernel", "unpacked_second_stage_kernel"}
    assert not [f"{k}: {k.loop['HMMA']} to {k.loop['LDSM']}" for k in bulk if k.loop["HMMA"] < 3 * k.loop["LDSM"]]


#: What the kernels' headers say of a step of the main loops that do the bulk of the work: products, loads of fragments, and
#: instructions at most. A step of the line convolution's is a k-block, with what finds the lane's pixels in a few of the rounds;
#: of the second stage's gradients, a patch of four steps with the loads of the next.
MIX = {
    ("first_stage_kernel", (21, 1)): (42, 13, 190),
    ("unpacked_first_stage_kernel", (21,)): (42, 13, 190),
    ("weight_grad_kernel", (1, 15)): (30, 10, 200),
    ("line_conv_kernel", (WIDE,)): (64, 16, 260),
    ("second_stage_grad_kernel", (NARROW_SMALL,)): (72, 32, 430),
}


@needs_nvdisasm
@pytest.mark.parametrize("math", ["half", "bfloat16"])
def test_main_loops_are_what_the_headers_say(kernels: tuple[Kernel, ...], target: Target, math: str) -> None:
    if target[1] not in ("", math):
        pytest.skip(f"compiled for {target[1]} alone")
    found = {(k.name, k.numbers): k for k in kernels if k.math == math}
    for which, (products, loads, most) in MIX.items():
        kernel = found[which]
        assert (kernel.loop["HMMA"], kernel.loop["LDSM"]) == (products, loads), str(kernel)
        assert sum(kernel.loop.values()) <= most, str(kernel)
        assert not kernel.loop["LDL"] and not kernel.loop["STL"]
