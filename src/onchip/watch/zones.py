"""Parts of the picture that have names."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from onchip.watch.config import Polygon, Zone
from onchip.watch.values import Box


class Zones:
    """A camera's zones. An object is where it stands: at the middle of its box's lower side."""

    def __init__(self, zones: Mapping[str, Zone]) -> None:
        self._zones = dict(zones)
        self._bound = {label for zone in zones.values() for label in zone.objects}

    def at(self, box: Box) -> tuple[str, ...]:
        """Return the names of the zones in which an object stands."""
        x, y = (box[0] + box[2]) / 2, box[3]
        return tuple(n for n, zone in self._zones.items() if inside(zone.points, x, y))

    def count(self, label: str, names: Sequence[str]) -> bool:
        """Whether an object in these zones makes an event.

        One whose label some zone names makes events in such zones only, any other everywhere.
        """
        return label not in self._bound or any(label in self._zones[n].objects for n in names)


def inside(polygon: Polygon, x: float, y: float) -> bool:
    """Whether a point is inside a polygon. Points on the picture's border are not outside it.

    >>> inside(((0, 0), (1, 0), (0, 1)), 0.0, 1.0), inside(((0, 0), (1, 0), (0, 1)), 0.9, 0.9)
    (True, False)
    """
    x, y = min(max(x, 1e-6), 1 - 1e-6), min(max(y, 1e-6), 1 - 1e-6)
    found = False
    before_x, before_y = polygon[-1]
    for next_x, next_y in polygon:
        if (next_y > y) != (before_y > y):
            at = next_x + (y - next_y) / (before_y - next_y) * (before_x - next_x)
            found ^= x < at
        before_x, before_y = next_x, next_y
    return found


def outside_all(polygons: Sequence[Polygon], width: int, height: int) -> npt.NDArray[np.bool_]:
    """Return for each cell of a grid `(height, width)` whether no polygon covers its middle."""
    covered = np.zeros((height * 4, width * 4), np.uint8)
    for polygon in polygons:
        points = np.asarray(polygon, np.float64) * (width * 4, height * 4) - 0.5
        cv2.fillPoly(covered, [np.round(points).astype(np.int32)], 1)
    return covered.reshape(height, 4, width, 4).mean((1, 3)) < 0.5
