"""Read the table of rknn-toolkit2's accuracy_analysis.

One line per tensor: `[Op] tensor  cos | euc  cos | euc`: first what has added up to there
("entire"), then the layer alone on the float network's values ("single").
"""

import re

from onchip.targets.target import VendorError

_NUMBER = r"(-?[\d.]+(?:e[+-]?\d+)?)"
_LINE = re.compile(
    rf"^\[\w+\]\s+(\S+)\s+{_NUMBER}\s*\|\s*{_NUMBER}\s+{_NUMBER}\s*\|\s*{_NUMBER}\s*$"
)


def read(table: str) -> dict[str, VendorError]:
    """Return the errors by tensor; lines that are no rows are passed over.

    >>> read("[exSwish] /m/Mul_output_0   0.99992 | 56.99   0.99999 | 42.71  ")
    {'/m/Mul_output_0': VendorError(total_cosine=0.99992, total_distance=56.99, own_cosine=0.99999, own_distance=42.71)}
    """  # noqa: E501
    found = {}
    for line in table.splitlines():
        if (row := _LINE.match(line.rstrip())) is not None:
            name, *numbers = row.groups()
            found[name] = VendorError(*(float(n) for n in numbers))
    return found
