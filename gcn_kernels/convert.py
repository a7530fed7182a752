"""Command line of the swap: ``python -m gcn_kernels.convert module:factory`` prints what would be swapped.

``factory`` is a module, or a function or class that makes one when called without arguments.
"""

import argparse
import importlib
import operator
from dataclasses import replace

from torch import nn

from gcn_kernels.core import backends
from gcn_kernels.swap import convert_model
from gcn_kernels.swap.report import ALREADY
from gcn_kernels.swap.rules import FAMILIES


def load(target: str) -> nn.Module:
    """The model that ``"module:factory"`` names.

    Args:
        target: importable module, a colon, and the dotted name of a module instance or of something that makes one.

    Raises:
        ValueError: no colon in ``target``.
        ImportError: the module cannot be imported.
        AttributeError: the module has no such name.
        TypeError: what the name stands for is not a module and makes none.

    Example:
        >>> load("torch.nn:Identity")
        Identity()
    """
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise ValueError(f"expected module:factory, for example my_project.models:build_model, got {target!r}")
    found = operator.attrgetter(name)(importlib.import_module(module))
    model = found if isinstance(found, nn.Module) else found()
    if not isinstance(model, nn.Module):
        raise TypeError(f"{target}: expected a torch.nn.Module, got {type(model).__name__}")
    return model


def main(arguments: list[str] | None = None) -> int:
    """Print the report; 0 if at least one block can be swapped or is already, 1 if none, 2 if the model cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m gcn_kernels.convert", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", help="module:factory, for example my_project.models:build_model")
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES, help="what is looked for; all if not given")
    parser.add_argument("--backend", default="auto", choices=backends.BACKENDS)
    parser.add_argument("--no-verify", action="store_true", help="trust the structure, without a trial")
    parser.add_argument("--force", action="store_true", help="swap blocks that are expected to run slower fused as well")
    parser.add_argument("--no-gain", action="store_true", help="leave out what each swap is expected to gain")
    parser.add_argument("--fold-batchnorm", action="store_true", help="fold normalisations in eval mode into convolutions")
    options = parser.parse_args(arguments)
    try:
        model = load(options.target)
    except (ValueError, ImportError, AttributeError, TypeError) as error:
        parser.error(str(error))
    report = convert_model(
        model,
        options.families,
        verify=not options.no_verify,
        backend=options.backend,
        force=options.force,
        fold_batchnorm=options.fold_batchnorm,
    )
    if options.no_gain:
        report = replace(report, entries=[replace(entry, gain=None) for entry in report.entries])
    print(report)
    return 0 if any(entry.swapped or entry.reason == ALREADY for entry in report.entries) else 1


if __name__ == "__main__":
    raise SystemExit(main())
