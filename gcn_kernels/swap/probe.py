"""Accept by numbers: does a module compute the four convolutions and their sum, and nothing else?

The module is copied to the CPU in float64 with every parameter and floating buffer redrawn (so a bias of zero, a BatchNorm at
its initial statistics or a gate at 1 hides nothing), its call hooks left behind, and compared with
:func:`gcn_kernels.reference.gcn` in eval and in train mode, on a map larger than twice the kernel and on one smaller than it,
H != W: values on both, gradients on the small one. The module itself is never run, and random number generators end where they
were.
"""

import contextlib
import copy
import inspect
import random
import sys
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from gcn_kernels import reference
from gcn_kernels.swap.find import CALL_HOOKS, CONVOLUTIONS, Roles

#: Largest error, relative to the largest reference value, that still counts as equal in float64.
TOLERANCE = 1e-9
SEED = 1703_02719


class MatrixProducts(TorchFunctionMode):
    """Computes plain float64 convolutions as one matrix product for all taps, then shifts and adds.

    PyTorch has no fast float64 convolution for CPUs: it gathers every tap of every channel first, gigabytes on a wide block.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace ``conv2d`` where it is plain; let everything else through."""
        if func is torch.conv2d and (plain := _plain_convolution(*args, **(kwargs or {}))) is not None:
            return plain
        return func(*args, **(kwargs or {}))


def _plain_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """The convolution, or None where it is not one of stride 1, dilation 1 and groups 1 over a padded map it fits into."""
    pad = (padding, padding) if isinstance(padding, int) else padding
    plain = all(v in (1, (1, 1), [1, 1]) for v in (stride, dilation)) and groups == 1 and not isinstance(pad, str)
    if not plain or input.dim() != 4 or input.shape[1] != weight.shape[1] or input.dtype != weight.dtype:
        return None
    padded = F.pad(input, (pad[1], pad[1], pad[0], pad[0]))
    kh, kw = weight.shape[2:]
    height, width = padded.shape[2] - kh + 1, padded.shape[3] - kw + 1
    if height < 1 or width < 1:
        return None
    taps = weight.permute(2, 3, 0, 1).reshape(-1, weight.shape[1]) @ padded.flatten(2)
    taps = taps.reshape(-1, kh, kw, weight.shape[0], *padded.shape[2:])
    total = input.new_zeros(())
    for i in range(kh):
        for j in range(kw):
            total = total + taps[:, i, j, :, i : i + height, j : j + width]
    return total if bias is None else total + bias[:, None, None]


class Refused(Exception):
    """The module is not what it looks like; the message says why."""


def probe(block: nn.Module, roles: list[Roles]) -> Roles:
    """Return the first of ``roles`` under which ``block`` equals the reference.

    Raises:
        Refused: there is none, or the module cannot be copied or run on its own.
    """
    with _undisturbed():
        generator = torch.Generator().manual_seed(SEED)
        try:
            twin = _redrawn_copy(block, generator)
        except Exception as error:
            raise Refused(f"it cannot be copied for a trial: {_first_line(error)}") from error
        convs = {path: twin.get_submodule(path) for path in {p for r in roles for p in r}}
        kernels: Any = [c.kernel_size for c in convs.values()]
        kh, kw = max(k[0] for k in kernels), max(k[1] for k in kernels)
        channels: Any = convs[roles[0][0]].in_channels
        small = max(1, kh // 2), max(1, kw // 2) + 1
        small = (small[0], small[1] + (small[0] == small[1]))
        for training, (height, width) in ((False, (2 * kh + 1, 2 * kw + 2)), (False, small), (True, small)):
            twin.train(training)
            x = torch.randn(1, channels, height, width, dtype=torch.float64, generator=generator, device="cpu")
            large = height > 2 * kh
            with parametrize.cached(), MatrixProducts(), torch.set_grad_enabled(not large):
                roles = _agreeing(twin, x, roles, generator)
        return roles[0]


def _agreeing(twin: nn.Module, x: Tensor, roles: list[Roles], generator: torch.Generator) -> list[Roles]:
    """Those of ``roles`` under which ``twin`` equals the reference on ``x``, in values and, where recorded, in gradients."""
    x.requires_grad_()
    y = _run(twin, x)
    references = {r: _reference(twin, r, x) for r in roles}
    shape = next(iter(references.values())).shape
    if y.shape != shape:
        raise Refused(f"it gives shape {list(y.shape)} where a GCN block gives {list(shape)}, for input {list(x.shape)}")
    equal = [r for r, expected in references.items() if _close(y, expected)]
    if not equal:
        raise Refused(_diagnosis(twin, x, y, references))
    if not torch.is_grad_enabled():
        return equal
    if not y.requires_grad:
        raise Refused("its forward records no gradient")
    variables = [x, *twin.parameters()]
    dy = torch.randn(y.shape, dtype=y.dtype, generator=generator, device="cpu")
    found = _gradients(y, variables, dy)
    for role in equal:
        expected = _gradients(references[role], variables, dy)
        if not all(_close(a, b) for a, b in zip(found, expected, strict=True)):
            raise Refused("it gives the values of a GCN block, but other gradients")
    return equal


def _run(twin: nn.Module, x: Tensor) -> Tensor:
    before, given = _attributes(twin), x.clone()
    try:
        y = twin.forward(given)
    except Exception as error:
        size = list(x.shape[2:])
        raise Refused(f"it does not run on one map of size {size} in float64: {_first_line(error)}{_suspects(twin)}") from error
    if not isinstance(y, Tensor):
        raise Refused(f"it returns a {type(y).__name__}, expected one tensor")
    if y.dtype != x.dtype:
        raise Refused(f"it returns {y.dtype} for an input of {x.dtype}")
    if not torch.equal(given, x):
        raise Refused("it changes its input in place")
    after = _attributes(twin)
    if changed := sorted(key for key in before.keys() | after.keys() if before.get(key) is not after.get(key)):
        raise Refused(f"its forward stores values on the module ({', '.join(changed)})")
    return y


def _reference(twin: nn.Module, roles: Roles, x: Tensor) -> Tensor:
    convs: Any = [twin.get_submodule(path) for path in roles]
    return reference.gcn(x, *(c.weight for c in convs), *(c.bias for c in convs))


def _gradients(y: Tensor, variables: list[Tensor], dy: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(y, variables, dy, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(v) if g is None else g for v, g in zip(variables, found, strict=True)]


def _close(a: Tensor, b: Tensor) -> bool:
    scale = b.abs().max().item() if b.numel() else 0.0
    return bool(torch.isfinite(a).all()) and (a - b).abs().max().item() <= TOLERANCE * max(scale, 1.0)


def _redrawn_copy(block: nn.Module, generator: torch.Generator) -> nn.Module:
    """A deep copy with fresh float64 parameters and buffers on the CPU, and no call hooks."""
    memo: dict[int, Any] = {}
    for module in block.modules():
        memo |= {id(getattr(module, name)): OrderedDict() for name in CALL_HOOKS}
    for parameter in block.parameters():
        spread = (parameter.shape.numel() / max(1, parameter.shape[0])) ** -0.5 if parameter.dim() > 1 else 1.0
        drawn = torch.randn(parameter.shape, dtype=torch.float64, generator=generator, device="cpu") * spread
        memo[id(parameter)] = nn.Parameter(drawn)
    for buffer in block.buffers():
        if buffer.is_floating_point():
            memo[id(buffer)] = 0.5 + torch.rand(buffer.shape, dtype=torch.float64, generator=generator, device="cpu")
        elif buffer.is_meta:
            memo[id(buffer)] = torch.zeros(buffer.shape, dtype=buffer.dtype, device="cpu")
    return copy.deepcopy(block, memo).cpu()


def _attributes(module: nn.Module) -> dict[str, object]:
    """Every plain attribute in the subtree; those of nn.Module's own bookkeeping stay the same objects."""
    return {f"{path}.{key}".strip("."): value for path, m in module.named_modules() for key, value in vars(m).items()}


def _diagnosis(twin: nn.Module, x: Tensor, y: Tensor, references: dict[Roles, Tensor]) -> str:
    """What else the module seems to do."""
    for expected in references.values():
        if _close(y, expected.relu()):
            return "it applies ReLU to the sum"
        if x.shape == y.shape and _close(y, expected + x):
            return "it adds its input (a residual)"
    error = min(((y - e).abs().max() / e.abs().max()).item() for e in references.values())
    mode = "train" if twin.training else "eval"
    return f"it gives other values than a GCN block ({error:.1e} of the largest, in {mode} mode){_suspects(twin)}"


def _suspects(twin: nn.Module) -> str:
    """Children that a plain block does not have, and paddings that do not keep the size."""
    found = []
    for path, module in twin.named_modules():
        if isinstance(module, nn.Conv2d):
            same = tuple(k // 2 for k in module.kernel_size)
            if not isinstance(module.padding, str) and tuple(module.padding) != same:
                found.append(f"{path} pads {tuple(module.padding)} where {same} keeps the size")
            if module.padding_mode != "zeros":
                found.append(f"{path} has padding_mode {module.padding_mode!r}")
        elif path and not list(module.children()) and not isinstance(module, (*CONVOLUTIONS, nn.Identity)):
            found.append(f"it has {path}: {type(module).__name__}")
    return f"; {'; '.join(found)}" if found else ""


def input_name(block: nn.Module) -> str:
    """Name of the one map that ``block.forward`` takes.

    Raises:
        Refused: it takes another number of inputs, or cannot be inspected.
    """
    try:
        parameters = inspect.signature(block.forward).parameters.values()
    except (TypeError, ValueError) as error:
        raise Refused(f"the signature of its forward cannot be read: {error}") from error
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) > 1:
        raise Refused(f"its forward takes {len(needed)} inputs ({', '.join(p.name for p in needed)}), expected one")
    positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
    if not positional or (needed and needed[0] is not positional[0]):
        raise Refused("its forward does not take the map as its first input")
    return positional[0].name


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Run a trial whatever modes the caller has set, and leave every random number generator as it was."""
    numpy = sys.modules.get("numpy")
    states = random.getstate(), numpy.random.get_state() if numpy else None
    modes = torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False), torch.device("cpu")
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            for mode in modes:
                stack.enter_context(mode)
            yield
    finally:
        random.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
