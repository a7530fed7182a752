"""Settings that check themselves: a field of a dataclass says what it means and which values it takes, once.

The same description makes the option of a command line with its help, and the check of a recipe that is made in code or read from
a checkpoint.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """Which values are meant, in words, the test, and the values themselves where they are few names."""

    expected: str
    holds: Callable[[Any], bool]
    names: tuple[str, ...] = ()


ODD = Rule("an odd whole number", lambda v: v >= 1 and v % 2 == 1)
POSITIVE = Rule("a number above 0", lambda v: v > 0)
PART = Rule("a number of at least 0 and below 1", lambda v: 0 <= v < 1)
NOT_NEGATIVE = Rule("a number of at least 0", lambda v: v >= 0)


def at_least(least: int) -> Rule:
    """Whole numbers from ``least`` on."""
    return Rule(f"a whole number of at least {least}", lambda v: v >= least)


def one_of(*names: str) -> Rule:
    """These names."""
    return Rule(f"one of {', '.join(names)}", lambda v: v in names, names)


def number(kind: type[int] | type[float], rule: Rule) -> Callable[[str], Any]:
    """The ``type`` of an option of argparse: a number that keeps a rule.

    Example:
        >>> number(int, at_least(1))("3")
        3
    """

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not rule.holds(value):
            raise argparse.ArgumentTypeError(f"expected {rule.expected}, got {text!r}")
        return value

    return read


def setting(default: Any, help: str, rule: Rule | None = None, *, free: bool = False) -> Any:
    """A field of a dataclass.

    Args:
        default: its value where nothing is said; its type is that of the option.
        help: what it means.
        rule: which values it takes; of a tuple, each of its items.
        free: whether a run that goes on may change it, because no number of the run depends on it.
    """
    return dataclasses.field(default=default, metadata={"help": help, "rule": rule, "free": free})


def check(settings: Any) -> None:
    """Raise ValueError if a field of ``settings`` breaks its rule."""
    for field in dataclasses.fields(settings):
        value, rule = getattr(settings, field.name), field.metadata["rule"]
        values = value if isinstance(value, tuple) else (value,)
        if rule is not None and not all(rule.holds(v) for v in values):
            raise ValueError(f"{option(field.name)}: expected {rule.expected}, got {value!r}")


def option(name: str) -> str:
    """The option of a field."""
    return f"--{name.replace('_', '-')}"


def add_option(parser: argparse._ArgumentGroup, field: Any, presets: Sequence[tuple[str, Any]]) -> None:
    """The option of one field; its default is None, so that a preset can be told from what was asked for.

    Args:
        parser: or a group of it.
        field: made by :func:`setting`.
        presets: names and values of the presets, the usual one first.
    """
    rule: Rule | None = field.metadata["rule"]
    text = f"{field.metadata['help']} ({_defaults(presets)})".replace("%", "%%")
    more: dict[str, Any] = {"default": None, "help": text}
    kind = type(field.default)
    if kind is bool:
        more["action"] = argparse.BooleanOptionalAction
    elif kind is tuple:
        more |= {"nargs": len(field.default) or "+", "type": number(float, rule or NOT_NEGATIVE), "metavar": "X"}
    elif kind is str:
        names = f"{{{','.join(rule.names)}}}" if rule and rule.names else "NAME"
        more |= {"type": _text(rule), "metavar": "PATH" if rule is None else names}
    else:
        more |= {"type": number(kind, rule or NOT_NEGATIVE), "metavar": "N" if kind is int else "X"}
    parser.add_argument(option(field.name), **more)


def _text(rule: Rule | None) -> Callable[[str], str]:
    def read(text: str) -> str:
        if rule is not None and not rule.holds(text):
            raise argparse.ArgumentTypeError(f"expected {rule.expected}, got {text!r}")
        return text

    return read


def _defaults(presets: Sequence[tuple[str, Any]]) -> str:
    """The usual preset's value, and those of the presets that differ from it."""
    usual = presets[0][1]
    others = [f"{name} {_shown(value)}" for name, value in presets[1:] if value != usual]
    return "; ".join([f"default: {_shown(usual)}", *([", ".join(others)] if others else [])])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(f"{v:g}" for v in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"
