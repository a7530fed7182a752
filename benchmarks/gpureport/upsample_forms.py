"""Program: the doubling's other forms on the GPU: kernels of 3 x 3 and 2 x 2, and each channel by itself, as bilinear
interpolation is. See gpureport/upsample.py.
"""

import sys
from dataclasses import replace

from gpureport import upsample
from gpureport.subject import Sizes

#: k, and whether each channel is doubled by itself.
FORMS = ((3, False), (2, False), (4, True), (3, True), (2, True))


def sizes(n: int, channels: int, size: int, forms: tuple[tuple[int, bool], ...] = FORMS) -> tuple[Sizes, ...]:
    return tuple((n, channels, channels, size, size, k, channels if by_itself else 1) for k, by_itself in forms)


SUBJECT = replace(
    upsample.SUBJECT,
    checked=(*sizes(2, 21, 33), *sizes(16, 21, 64), *sizes(1, 1, 5)),
    timed=(*sizes(16, 21, 256), *sizes(16, 256, 64, ((4, True), (2, True)))),
    small=sizes(2, 5, 4),
)

if __name__ == "__main__":
    sys.exit(SUBJECT.main(__doc__))
