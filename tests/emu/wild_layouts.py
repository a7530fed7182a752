"""Strides of maps that are views of something smaller: expanded, overlapping, or of one element with any stride.

Elements of such a map share memory, so a map's values follow from the memory: what is written to one element shows in others.
"""

from collections.abc import Sequence

Strides = tuple[int, int, int, int]

#: Layouts of [N, C, H, W]. "lone": any strides where a dimension has one element.
LAYOUTS = ("expanded-n", "expanded-c", "expanded-h", "expanded-w", "overlapping", "lone")


def strides_of(layout: str, shape: Sequence[int]) -> tuple[Strides, int]:
    """The strides of a map, and how many elements the memory has.

    All but "expanded-c" have a pixel's channels side by side, as channels_last has.

    Example:
        >>> strides_of("expanded-h", (2, 8, 4, 5))
        ((40, 1, 0, 8), 80)
    """
    _, c, h, w = shape
    dense = {"n": h * w * c, "c": 1, "h": w * c, "w": c}
    if layout == "expanded-c":
        strides: Strides = (h * w, 0, w, 1)
    elif layout == "expanded-h":
        strides = (w * c, 1, 0, c)
    elif layout.startswith("expanded-"):
        n_, c_, h_, w_ = (0 if name == layout[-1] else stride for name, stride in dense.items())
        strides = (n_, c_, h_, w_)
    elif layout == "overlapping":  # every row begins in the middle of the one before it
        strides = (h * w * c, 1, w // 2 * c, c)
    elif layout == "lone":
        wild = (1 << 42, 5, 7, 3)
        n_, c_, h_, w_ = (any_ if size == 1 else own for any_, size, own in zip(wild, shape, dense.values(), strict=True))
        strides = (n_, c_, h_, w_)
    else:
        raise ValueError(f"{layout}: expected one of {', '.join(LAYOUTS)}")
    return strides, 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
