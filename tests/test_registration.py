"""The operators are registered as the dispatcher, the compiler and autograd expect of any operator."""

import pytest
import torch
from cases import SMALL, Block, Case, make
from implementations import Implementation, every_compiled_backend
from suites import in_suites

import gcn_kernels
from gcn_kernels.core import library

PROBLEMS = {
    "float32": (SMALL, torch.float32, "nchw"),
    "float64-channels_last": (SMALL, torch.float64, "channels_last"),
    "bfloat16": (SMALL, torch.bfloat16, "nchw"),
    # In float64: double backward goes through PyTorch's own convolutions, two of whose float32 algorithms differ on some CPUs.
    "no-bias": (Case("no-bias", biases=()), torch.float64, "channels_last"),
    "only-b_l1-b_r2": (Case("two", biases=("b_l1", "b_r2")), torch.float32, "nchw"),
    "batch0": (Case("batch0", n=0), torch.float32, "nchw"),
    "map1x1": (Case("map1x1", h=1, w=1), torch.float32, "nchw"),
}
TORCH = tuple(int(number) for number in torch.__version__.split("+")[0].split(".")[:2])
#: Both layouts, all biases and some, and a result without elements.
EVERY_DAY = ("float64-channels_last", "only-b_l1-b_r2", "batch0")
every_problem = pytest.mark.parametrize("name", in_suites(PROBLEMS, everyday=lambda name: name in EVERY_DAY))
Problem = tuple[Case, torch.dtype, str]
#: Of every operator. The doubling's first one is kept for graphs of earlier versions, on a CPU.
BACKENDS = {name: operator.backends or ("cpu",) for operator in gcn_kernels.OPERATORS for name in operator.schemas}


def build(problem: Problem, run: Implementation) -> Block:
    case, dtype, layout = problem
    return make(case, dtype).in_layout(layout).to(run.device)


@every_compiled_backend
@every_problem
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck_gcn(name: str, requires_grad: bool, run: Implementation) -> None:
    problem = PROBLEMS[name]
    block = build(problem, run)
    block = block.leaves() if requires_grad else block
    channels_last = problem[2] == "channels_last"
    results = torch.library.opcheck(run.forward_operator, run.operator_arguments(block, channels_last))
    assert set(results.values()) == {"SUCCESS"}, results


@every_compiled_backend
@every_problem
@pytest.mark.parametrize("wanted", [0b111111111, 0b010000101], ids=["all", "some"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck_gcn_backward(name: str, wanted: int, requires_grad: bool, run: Implementation) -> None:
    block = build(PROBLEMS[name], run)
    block = block.map(lambda t: t.detach().requires_grad_()) if requires_grad else block
    arguments = run.backward_arguments(block, wanted)
    if requires_grad and TORCH < (2, 13):
        # All but the last check; its failure, if it is one, is not this package's.
        names = ("test_schema", "test_autograd_registration", "test_faketensor")
        results = torch.library.opcheck(run.backward_operator, arguments, test_utils=names)
        assert set(results.values()) == {"SUCCESS"}, results
        try:
            torch.library.opcheck(run.backward_operator, arguments, test_utils="test_aot_dispatch_dynamic")
        except Exception as error:
            pytest.xfail(f"torch {torch.__version__} cannot trace a double backward with dynamic shapes: {error}")
        return
    results = torch.library.opcheck(run.backward_operator, arguments)
    assert set(results.values()) == {"SUCCESS"}, results


@pytest.mark.parametrize("name", library.SCHEMAS)
@every_compiled_backend
def test_schema_is_the_one_that_python_calls(name: str, run: Implementation) -> None:
    if run.backend == "triton":
        pytest.skip("its operators are declared in Python")
    if run.backend not in BACKENDS[name]:
        pytest.skip(f"it has no kernels for {run.backend}")
    operator = getattr(torch.ops.gcn_kernels, name).default
    assert str(operator._schema) == library.SCHEMAS[name]
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"gcn_kernels::{name}", run.device.upper())
    assert not operator._schema.is_mutable


@every_compiled_backend
def test_operator_refuses_what_the_python_side_would_not_send(run: Implementation) -> None:
    """The C++ side stands on its own: wrong sizes and types end in an error, not in memory that is not its own."""
    block = make(SMALL).to(run.device)
    x, w_l1, *others = block.arguments
    options = run.operator_arguments(block)[len(block.arguments) :]
    operator = run.forward_operator
    wrong = {
        "channels": (x[:, 1:], w_l1, *others),
        "rank": (x[0], w_l1, *others),
        "even k": (x, w_l1[:, :, 1:], *others),
        "dtype": (x, w_l1.double(), *others),
        "bias": (x, w_l1, *others[:3], torch.ones(99, device=run.device), *others[4:]),
    }
    accepted = []
    for name, arguments in wrong.items():
        try:
            operator(*arguments, *options)
            accepted.append(name)
        except RuntimeError as error:
            assert str(error)
    assert not accepted
    if run.backend == "triton":
        return  # has one algorithm
    with pytest.raises(RuntimeError, match="no-such-algo"):
        operator(*block.arguments, *options[:-1], "no-such-algo")
