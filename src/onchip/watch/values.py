"""What the parts of a watch hand to each other.

Boxes are parts of the picture: x1, y1, x2, y2, from 0 to 1.
"""

from typing import Literal

from msgspec import Struct

Box = tuple[float, float, float, float]
Why = Literal["left", "still", "long", "lost", "stopped", "cut off"]


class Event(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One object's stay before one camera.

    `start` and `end` are seconds of the wall clock; `end` is None while it lasts. `why` says how it
    ended: the object left, came to rest, the event was cut for length, the camera was lost, the
    program was stopped or was cut off (and the end was found at the next start). `score` and `box`
    are of its best moment, which the snapshot shows; `zones` are those that it entered, in order.
    """

    id: str
    camera: str
    label: str
    start: float
    score: float
    box: Box
    zones: tuple[str, ...] = ()
    end: float | None = None
    why: Why | None = None
    snapshot: bool = False  # whether there is a picture of it
    clip: bool = False  # whether there is a video of it


class Sighting(Struct, frozen=True, kw_only=True):
    """One tracked object in one picture. `event` is its event's id, where it is one."""

    track: int
    label: str
    score: float
    box: Box
    zones: tuple[str, ...] = ()
    event: str | None = None
    still: bool = False


class PartState(Struct, frozen=True, kw_only=True):
    """How one part is: a camera, the chip, the broker, the disk.

    `since` is when the state began and `retry` when it is tried again, both of the wall clock.
    """

    name: str
    state: Literal["starting", "ok", "failing"]
    message: str = ""
    hint: str = ""
    since: float = 0.0
    retry: float | None = None


class CameraState(Struct, frozen=True, kw_only=True):
    """A camera's part and figures: pictures a second that came, were due and were looked at.

    `missed_fps`: pictures a second that were to be looked at when a newer one took their place.
    `age_ms` is the age of pictures when their boxes are known: (median, worst of the last minute).
    """

    name: str
    part: PartState
    size: tuple[int, int] = (0, 0)
    fps: float = 0.0
    wanted_fps: float = 0.0
    detect_fps: float = 0.0
    missed_fps: float = 0.0
    age_ms: tuple[float, float] = (0.0, 0.0)
    motion: bool = False
    objects: int = 0
    zones: dict[str, tuple[tuple[float, float], ...]] = {}


class WatchState(Struct, frozen=True, kw_only=True):
    """Everything that the page's head shows; also `onchip watch --json`, one each few seconds.

    `load` and `processor` are the busy parts (0 to 1) of the chip and of this machine's cores.
    `limit` says in one line what keeps it from more.
    """

    cameras: tuple[CameraState, ...]
    parts: tuple[PartState, ...]  # chip, disk, broker, page
    model: str
    chip: str
    chip_ms: float
    chip_fps: float
    load: float
    processor: float
    limit: str
    events: int
    stored_bytes: int
    free_bytes: int
    time: float
