"""The same call gives the same bits: run after run, for any number of threads, from any thread, on any old memory."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import DTYPES, SMALL, Block, Case, make
from implementations import Implementation, every_implementation, every_kernel
from rule import evaluate
from torch import Tensor

CASES = {
    "small": SMALL,
    "batch4": Case("batch4", n=4, c=64, h=33, w=30, mid_l=21, mid_r=21, out=21, k=(15, 15, 15, 15)),
    "deep": Case("deep", n=1, c=700, h=16, w=17, mid_l=21, mid_r=19, out=21, k=(15, 15, 15, 15)),
    "large": Case("large", n=1, c=24, h=90, w=110, mid_l=9, mid_r=9, out=9, k=(31, 31, 31, 31)),
    "batch0": Case("batch0", n=0),
}
every_problem = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture(params=[False, True], ids=["", "deterministic-mode"])
def mode(request: pytest.FixtureRequest) -> bool:
    torch.use_deterministic_algorithms(request.param)
    return bool(request.param)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Every tensor that PyTorch allocates without values starts as nan."""
    torch.use_deterministic_algorithms(True)
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[assignment]
    assert torch.empty(3).isnan().all()
    yield
    torch.utils.deterministic.fill_uninitialized_memory = before  # type: ignore[assignment]


def different(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """The results whose bits differ; nan equals nan."""
    return [name for name in a if not torch.equal(a[name].nan_to_num(nan=12345.0), b[name].nan_to_num(nan=12345.0))]


@every_kernel
@every_problem
def test_repeated_runs(case: Case, mode: bool, run: Implementation) -> None:
    block = make(case).to(run.device)
    first = evaluate(run, block)
    for _ in range(3):
        assert different(evaluate(run, block), first) == []


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@every_problem
def test_number_of_threads(case: Case, dtype: torch.dtype, run: Implementation) -> None:
    if run.device != "cpu":
        pytest.skip("threads are the CPU's")
    block = make(case, dtype)
    torch.set_num_threads(1)
    alone = evaluate(run, block)
    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        assert different(evaluate(run, block), alone) == [], f"{threads} threads"


@every_implementation
def test_layouts_agree_on_a_gradient_that_is_asked_for_alone(run: Implementation) -> None:
    """What else is computed beside it does not change a gradient."""
    block = make(SMALL).to(run.device)
    together = evaluate(run, block)
    for name, t in block.named.items():
        leaf = t.detach().requires_grad_()
        arguments = [leaf if argument is t else argument for argument in block.arguments]
        (gradient,) = torch.autograd.grad(run(*arguments), leaf, block.dy)
        torch.testing.assert_close(gradient, together[name], rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")


@every_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_problem
def test_nothing_depends_on_uninitialised_memory(
    case: Case, dtype: torch.dtype, run: Implementation, request: pytest.FixtureRequest
) -> None:
    block = make(case, dtype).to(run.device)
    clean = evaluate(run, block)
    request.getfixturevalue("poisoned_memory")
    poisoned = evaluate(run, block)
    assert [name for name, t in poisoned.items() if t.isnan().any()] == []
    assert different(poisoned, clean) == []
    with torch.no_grad():
        assert torch.equal(run(*block.arguments), poisoned["y"])


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_concurrent_calls(dtype: torch.dtype, run: Implementation) -> None:
    """Calls from several Python threads do not meet in shared state, be they of one problem or of different ones."""
    problems = [
        make(Case("concurrent", n=1, c=8 + 5 * i, h=17 + i, w=12, k=(9, 9, 9, 9)), dtype, seed=i).to(run.device) for i in range(3)
    ]
    serial = [evaluate(run, block) for block in problems]

    def one(index: int) -> tuple[int, dict[str, Tensor]]:
        block: Block = problems[index % len(problems)]
        return index % len(problems), evaluate(run, block)

    with ThreadPoolExecutor(max_workers=4) as pool:
        results = list(pool.map(one, range(24)))
    assert [different(result, serial[index]) for index, result in results] == [[]] * 24
