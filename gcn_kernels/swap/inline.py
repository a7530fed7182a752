"""What pickles of converted models from before swaps ran the model's own forward refer to. They load as today's swaps."""

from typing import Any, NamedTuple


class Code(NamedTuple):
    """A forward as source, of a block written inline."""

    source: str
    objects: tuple[tuple[str, Any], ...]
    imports: tuple[tuple[str, str], ...]


class Rewrite(NamedTuple):
    """A forward in both modes."""

    train: Code
    eval: Code
    attributes: tuple[tuple[str, Any], ...]
