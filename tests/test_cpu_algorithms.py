"""The CPU's two algorithms: which one runs, on which instruction set, and the weight spectra kept between calls."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gcn_kernels import FusedGCN, backends, fused_gcn, info, reference

pytestmark = pytest.mark.skipif(
    backends.why_not("cpu", "cpu") is not None, reason=f"backend cpu does not run: {backends.why_not('cpu', 'cpu')}"
)


def block(channels: int = 64, k: int = 15) -> FusedGCN:
    return FusedGCN(channels, 5, k, backend="cpu", algo="fft")


def arguments(module: FusedGCN, x: Tensor) -> list[Tensor]:
    convs = (module.conv_l1, module.conv_l2, module.conv_r1, module.conv_r2)
    return [x, *(conv.weight for conv in convs), *(conv.bias for conv in convs)]  # type: ignore[misc]


def assert_current(module: FusedGCN, x: Tensor, y: Tensor) -> None:
    """``y`` is what the weights give as they are now."""
    exact = reference.gcn(*arguments(module, x))
    torch.testing.assert_close(y, exact, rtol=0, atol=1e-5 * exact.abs().max().item())


def run_alone(program: str, **environment: str) -> str:
    """Run a program in a process of its own, away from the sources, and return what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def empty_cache() -> Iterator[None]:
    info.spectra_cache_bytes(clear=True)
    yield
    info.spectra_cache_bytes(clear=True)


@pytest.mark.parametrize(
    ("module", "size", "algo"),
    [
        (FusedGCN(256, 21, 15), (128, 128), "fft"),
        (FusedGCN(2048, 21, 15), (16, 16), "fft"),
        (FusedGCN(512, 21, 63), (64, 64), "fft"),
        (FusedGCN(2048, 512, 1, backend="cpu"), (8, 8), "direct"),
        (FusedGCN(8, 3, 3, backend="cpu"), (4, 4), "fft"),
        (FusedGCN(256, 21, 15, dtype=torch.float64), (128, 128), "direct"),
    ],
    ids=["res2", "res5", "k63", "k1", "tiny", "float64"],
)
def test_the_plan_chooses_by_predicted_time(module: FusedGCN, size: tuple[int, int], algo: str) -> None:
    forward = module.plan(size)["forward"]
    assert forward["algo"] == algo
    if forward["fft_ms"] is None:
        assert algo == "direct"
    else:
        assert (forward["fft_ms"] < forward["direct_ms"]) == (algo == "fft")


@pytest.mark.parametrize(("channels", "side"), [(256, 128), (512, 64), (1024, 32), (2048, 16)])
def test_the_papers_maps_have_units_for_16_threads_at_batch_1_and_for_64_at_batch_8(channels: int, side: int) -> None:
    module = FusedGCN(channels, 21, 15)
    for batch, wanted in ((1, 16), (8, 32)):
        first = module.plan((side, side), batch)["forward"]["fft"]
        assert first["l1"]["units"] + first["r1"]["units"] >= wanted


def isas() -> list[str]:
    """Those that this CPU has."""
    capability = torch.backends.cpu.get_cpu_capability().lower()
    found = {"avx512": ["avx512", "avx2"], "avx2": ["avx2"]}.get(capability, [])
    return [*found, "portable"]


@pytest.mark.parametrize("isa", isas())
def test_every_instruction_set_that_this_cpu_has(isa: str) -> None:
    """The choice is made once per process, so each gets its own."""
    program = """
import torch
from gcn_kernels import FusedGCN, reference

module = FusedGCN(40, 7, 15, algo="fft")
x = torch.randn(2, 40, 23, 37, requires_grad=True)
y = module(x)
convs = (module.conv_l1, module.conv_l2, module.conv_r1, module.conv_r2)
exact = reference.gcn(x, *(c.weight for c in convs), *(c.bias for c in convs))
leaves = [x, *module.parameters()]
for a, b in zip(torch.autograd.grad(y.square().sum(), leaves), torch.autograd.grad(exact.square().sum(), leaves)):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
torch.testing.assert_close(y, exact, rtol=1e-4, atol=1e-5)
print(module.plan((23, 37))["forward"]["fft"]["l1"]["isa"])
"""
    ran = run_alone(program, GCN_KERNELS_CPU_ISA=isa).strip()
    assert ran == isa


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize(
    ("variable", "values", "expected"),
    [
        (
            "GCN_KERNELS_SPECTRA_MB",
            ("", "abc", "0x10", "0.5", "1e3", "-1", " 5", str(2**43), str(2**70)),
            "a whole number from 0 to",
        ),
        ("GCN_KERNELS_CPU_ISA", ("", "AVX2", "avx", "avx512 ", "sse"), "one of portable, avx2, avx512"),
    ],
)
def test_a_setting_that_is_none_is_an_error_that_names_it(variable: str, values: tuple[str, ...], expected: str) -> None:
    """At the first call that reads it, and at every later one; never on import. ``python -m gcn_kernels.info`` says so too."""
    program = """
import os, torch, traceback
from gcn_kernels import FusedGCN, info

def refuses(value):
    module, x = FusedGCN(40, 7, 15, algo="fft"), torch.randn(1, 40, 23, 37)
    for _ in range(2):
        try:
            with torch.no_grad():
                module(x)
        except RuntimeError as error:
            for text in (VARIABLE, EXPECTED, f"got '{value}'", "unset"):
                assert text in str(error), error
        else:
            raise AssertionError(f"{VARIABLE}={value!r} was taken")
    assert sum(f"{VARIABLE}: expected {EXPECTED}" in line for line in info.describe().values()) == 1

for value in VALUES:
    os.environ[VARIABLE] = value
    child = os.fork()  # in which nothing has read the variable
    if child == 0:
        try:
            refuses(value)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0, value
"""
    run_alone(f"VARIABLE, EXPECTED, VALUES = {variable!r}, {expected!r}, {values!r}\n" + program, **{variable: values[0]})


def test_an_unsuitable_problem_is_an_error_not_a_fallback() -> None:
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    module = FusedGCN(4, 2, 3, algo="fft", dtype=torch.float64)
    with pytest.raises(RuntimeError, match="float64"):
        module(x)
    long_line = torch.randn(1, 1, 1, 4000)
    module = FusedGCN(1, 1, (1, 401), algo="fft")
    with pytest.raises(RuntimeError, match="algo='fft' cannot do this problem"):
        module(long_line)
    automatic = FusedGCN.from_convs(module.conv_l1, module.conv_l2, module.conv_r1, module.conv_r2)
    assert_current(automatic, long_line, automatic(long_line))


def test_inference_keeps_spectra_and_training_does_not(empty_cache: None) -> None:
    module, x = block(), torch.randn(1, 64, 20, 20)
    module(x).sum().backward()
    assert info.spectra_cache_bytes() == 0
    with torch.no_grad():
        module(x)
    assert info.spectra_cache_bytes() == module.plan((20, 20))["forward"]["spectra_bytes"] > 0


@pytest.mark.parametrize("change", ["in_place", "data", "load_state_dict", "inference_mode", "one_element"])
def test_a_changed_weight_is_never_answered_from_old_spectra(change: str, empty_cache: None) -> None:
    module, x = block(), torch.randn(1, 64, 20, 20)
    with torch.no_grad():
        before = module(x)
        assert torch.equal(before, module(x))
        if change == "in_place":
            module.conv_l1.weight.mul_(2)
        elif change == "data":  # leaves no trace in the version counter
            module.conv_r1.weight.data.add_(1)
        elif change == "load_state_dict":
            module.load_state_dict(block().state_dict())
        elif change == "inference_mode":
            with torch.inference_mode():
                module.conv_l2.weight.neg_()
        else:
            module.conv_l1.weight.data.view(-1)[-1] += 1
        after = module(x)
    assert not torch.equal(before, after)
    assert_current(module, x, after)


def test_compiled_graphs_see_changed_weights(empty_cache: None) -> None:
    module, x = block(), torch.randn(1, 64, 20, 20)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        compiled(x)
        module.conv_l1.weight.mul_(3)
        assert_current(module, x, compiled(x))


def test_memory_given_to_another_weight_is_not_mistaken_for_it(empty_cache: None) -> None:
    storage = torch.randn(5 * 64 * 15)
    x = torch.randn(1, 64, 20, 20)
    module = block()
    weights = arguments(module, x)
    with torch.no_grad():
        for _ in range(2):
            weights[1] = storage.view(5, 64, 15, 1)
            left = fused_gcn(*weights, backend="cpu", algo="fft")
            torch.testing.assert_close(left, reference.gcn(*weights), rtol=1e-4, atol=1e-4)
            # The same memory as a weight of another layout.
            weights[1] = storage.view(5, 15, 64).transpose(1, 2).unsqueeze(-1)
            other = fused_gcn(*weights, backend="cpu", algo="fft")
            torch.testing.assert_close(other, reference.gcn(*weights), rtol=1e-4, atol=1e-4)


def test_several_threads_share_the_cache(empty_cache: None) -> None:
    modules = [block(k=k) for k in (5, 9, 15)]
    x = torch.randn(1, 64, 20, 20)
    wrong: list[float] = []

    def work(module: FusedGCN) -> None:
        with torch.no_grad():
            exact = reference.gcn(*arguments(module, x))
            wrong.extend(d for _ in range(20) if not (d := float((module(x) - exact).abs().max())) < 1e-4)

    threads = [threading.Thread(target=work, args=(module,)) for module in modules * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_cache_is_bounded() -> None:
    program = """
import torch
from gcn_kernels import FusedGCN, info, reference

modules = [FusedGCN(256, 8, 15, algo="fft") for _ in range(6)]
x = torch.randn(1, 256, 24, 24)
with torch.no_grad():
    for module in modules + modules:
        convs = (module.conv_l1, module.conv_l2, module.conv_r1, module.conv_r2)
        exact = reference.gcn(x, *(c.weight for c in convs), *(c.bias for c in convs))
        torch.testing.assert_close(module(x), exact, rtol=1e-4, atol=1e-5)
        assert info.spectra_cache_bytes() <= LIMIT << 20
one, kept = modules[0].plan((24, 24))["forward"]["spectra_bytes"], info.spectra_cache_bytes()
assert 6 * one > LIMIT << 20 and (kept > 0) == (LIMIT > 0), (one, kept)
"""
    for limit in (0, 3):
        run_alone(program.replace("LIMIT", str(limit)), GCN_KERNELS_SPECTRA_MB=str(limit))


def test_small_values_next_to_huge_ones_are_lost_only_on_their_own_lines() -> None:
    """The frequency domain's error is relative to the largest value of a line; other lines keep theirs."""
    module = block(channels=8, k=7)
    x = torch.randn(1, 8, 32, 32)
    x[0, :, 5, 9] = 1e8
    with torch.no_grad():
        exact = reference.gcn(*(t.double() for t in arguments(module, x)))
        spectral, direct = module(x), FusedGCN.from_convs(*module.children(), algo="direct")(x)  # type: ignore[arg-type]
    # Outside of the huge sample's own receptive field (a cross, and the square the second convolutions make of it), on
    # lines that do not hold it in either convolution.
    far = torch.ones(32, 32, dtype=torch.bool)
    far[2:9, :] = far[:, 6:13] = False
    assert ((spectral - exact).abs()[0, :, far] / exact.abs().max()).max() < 1e-12
    assert ((spectral - exact).abs().max() / exact.abs().max()) < 1e-6
    assert ((direct - exact).abs()[0, :, far]).max() < 1e-5


ANOTHER_THREAD_WRITES = """
import threading, time, torch
from gcn_kernels import FusedGCN, info, reference

torch.manual_seed(0)
module, x = FusedGCN(512, 21, 15, algo="fft"), torch.randn(1, 512, 16, 16)
convs = (module.conv_l1, module.conv_l2, module.conv_r1, module.conv_r2)
w = module.conv_l1.weight.data
a, b = torch.randn_like(w), torch.randn_like(w)
expected = {}
for name, value in (("a", a), ("b", b)):
    w.copy_(value)
    expected[name] = reference.gcn(x, *(c.weight for c in convs), *(c.bias for c in convs)).detach()
wrong, end = [], time.monotonic() + 20
rounds = 0
while time.monotonic() < end and not wrong:
    rounds += 1
    info.spectra_cache_bytes(clear=True)
    w.copy_(a)
    started, stop = threading.Event(), threading.Event()

    def write():
        while not stop.is_set():
            w.copy_(b)
            w.copy_(a)
            started.set()

    thread = threading.Thread(target=write)
    thread.start()
    started.wait()
    with torch.no_grad():
        module(x)
    stop.set()
    thread.join()
    for name, value in (("a", a), ("b", b)):
        w.copy_(value)
        with torch.no_grad():
            off = (module(x) - expected[name]).abs().max() / expected[name].abs().max()
        if off > 1e-4:
            wrong.append((rounds, name, float(off)))
print(rounds, "rounds", wrong)
assert not wrong, (rounds, wrong)
"""


@pytest.mark.proof
def test_another_thread_that_writes_to_a_weight_leaves_no_wrong_spectra_behind() -> None:
    """The call that races may return either; every later one, without a race, has to be right."""
    run_alone(ANOTHER_THREAD_WRITES)


FORKS = """
import os, signal, threading, time, torch

torch.set_num_threads(1)  # PyTorch's own pool of threads does not survive a fork
from gcn_kernels import FusedGCN

modules, x = [FusedGCN(8, 3, 5, algo="fft") for _ in range(3)], torch.randn(1, 8, 9, 9)
other, stop = FusedGCN(8, 3, 5, algo="fft"), threading.Event()

def infer(module):
    with torch.no_grad():
        while not stop.is_set():
            module(x)

threads = [threading.Thread(target=infer, args=(module,)) for module in modules]
for thread in threads:
    thread.start()
with torch.no_grad():
    expected = other(x)
    stuck = 0
    for _ in range(COUNT):
        child = os.fork()
        if child == 0:
            signal.alarm(300)  # ends one that waits for a lock, and none that waits for a processor
            os._exit(0 if torch.equal(other(x), expected) else 1)
        status = os.waitpid(child, 0)[1]
        stuck += status != 0
        if stuck:
            break
stop.set()
for thread in threads:
    thread.join()
assert stuck == 0, status
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_infers_while_threads_of_its_parent_do() -> None:
    run_alone(FORKS.replace("COUNT", "20"))


@pytest.mark.proof
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_300_forked_children_infer_while_threads_of_their_parent_do() -> None:
    run_alone(FORKS.replace("COUNT", "300"))


@pytest.mark.parametrize(("precision", "conv"), [("medium", None), ("high", None), ("medium", "bf16"), ("highest", None)])
@pytest.mark.parametrize("amx", [False, True])
def test_float32_follows_the_switch_of_convolutions_not_that_of_matrix_products(
    monkeypatch: pytest.MonkeyPatch, precision: str, conv: str | None, amx: bool
) -> None:
    """With AMX, matrix products of float32 may be bfloat16 at "medium". The direct method is made of them; conv2d is not."""
    monkeypatch.setattr(backends, "HAS_AMX", amx)
    mkldnn = torch.backends.mkldnn
    before = torch.get_float32_matmul_precision(), mkldnn.conv.fp32_precision  # type: ignore[attr-defined]
    x = torch.zeros(1, 8, 4, 4)
    try:
        torch.set_float32_matmul_precision(precision)
        if conv is not None:
            mkldnn.conv.fp32_precision = conv  # type: ignore[attr-defined]
        instead = amx and precision != "highest" and conv is None
        assert backends.choose_dense("auto", "auto", x) == ("torch" if instead else "cpu")
        assert backends.choose_dense("auto", "fft", x) == backends.choose_dense("cpu", "fft", x) == "cpu"
        for backend, algo in (("auto", "direct"), ("cpu", "direct"), ("cpu", "auto")):
            if instead:  # what was asked for would be another result than conv2d's
                with pytest.raises(RuntimeError, match=r"set_float32_matmul_precision has lowered.*'highest'"):
                    backends.choose_dense(backend, algo, x)
            else:
                assert backends.choose_dense(backend, algo, x) == "cpu"
        assert backends.choose_dense("auto", "auto", x.double()) == backends.choose_dense("auto", "auto", x.half()) == "cpu"
        assert backends.choose_dense("auto", "direct", x.double()) == "cpu"
        # The other operators' kernels have products of their own.
        assert backends.choose("auto", "auto", x) == backends.choose("cpu", "auto", x) == "cpu"
    finally:
        torch.set_float32_matmul_precision(before[0])
        mkldnn.conv.fp32_precision = before[1]  # type: ignore[attr-defined]
