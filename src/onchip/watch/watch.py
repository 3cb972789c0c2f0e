"""A watch: all cameras, the chip, what is kept and who is told, wired together."""

import ctypes
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial

from onchip.closing import Closing
from onchip.detect.live import Camera as Connected
from onchip.detect.program import Limits
from onchip.errors import DeviceError
from onchip.sight import open_sight
from onchip.watch.camera import Lookout, View
from onchip.watch.chip import Chip, Load, Sees
from onchip.watch.config import Camera, Clip, Config, Mqtt, check_labels
from onchip.watch.events import News, ids
from onchip.watch.figures import Processor
from onchip.watch.health import Health
from onchip.watch.mqtt import Broker
from onchip.watch.record import Recorder
from onchip.watch.store import Store
from onchip.watch.tracks import FAINT
from onchip.watch.values import CameraState, Event, WatchState

TICK = 1.0  # seconds between looks at what no picture tells
TIDY = 20  # ticks between two returns of memory
PATIENCE = 5.0  # seconds for which is waited for cameras and the chip, when all ends
FAREWELL = 3.0  # seconds for which is waited for the disk, before the broker is left
FULL = 0.9  # a processor so busy is at its end
CHIP_FULL = 0.8  # a chip is at its end before: between two looks it waits for Python
BEHIND = 0.85  # a camera with less than this part of what is due is behind
MISSED = 0.15  # a part of what is due that nobody looks at, from which it is said
SOON = 15.0  # seconds until figures say something


class Watch(Closing):
    """Watches the cameras of a file, from `start` to `close`.

    Args:
        config: the file.
        open_chip: opens what finds objects; by itself the model of the file.

    Raises:
        InputError: the model is missing, is none or is not whole, or knows not what the file names;
            another process uses the folder of events.
        UnsupportedError: it is no detector that onchip knows, or a package is not installed.
        ToolError: the runtime of the chip fails.
    """

    def __init__(self, config: Config, *, open_chip: Callable[[], Sees] | None = None) -> None:
        self.config = config
        self.health, self.cameras_health = Health(), Health()
        self._told: list[Callable[[Event, str], None]] = []
        self._known: dict[str, tuple[dict[str, int], bool]] = {}  # what the broker was told
        self._ends = threading.Event()
        self._processor = Processor()
        self._started = time.monotonic()
        self._ticks = threading.Thread(target=self._tick, name="watch", daemon=True)
        self.chip = Chip(
            open_chip or partial(open_model, config), self.health, partial(check_labels, config)
        )
        with ExitStack() as opened:
            opened.callback(self.chip.close)
            try:
                self.chip.open()
            except DeviceError as error:  # it may come yet, as after a start of the machine
                self.health.failing("chip", error)
            self.store = Store(
                config.data, config.keep, self.health, self._saved, outbox=config.mqtt is not None
            )
            opened.callback(self.store.close)
            self.broker = self._broker(config.mqtt) if config.mqtt is not None else None
            make_id = ids(self._newest())
            self._recorders = {c.name: self._recorder(c, c.clip) for c in config.cameras if c.clip}
            opened.callback(_all_at_once, [r.close for r in self._recorders.values()])
            self.lookouts = {
                camera.name: Lookout(
                    camera, config, self.chip, self.cameras_health, make_id, self._heard,
                    self._recorders.get(camera.name),
                )
                for camera in config.cameras
            }  # fmt: skip
            opened.pop_all()
        self._connected = [self._connect(lookout) for lookout in self.lookouts.values()]

    def start(self) -> None:
        """Begin to watch."""
        if self.broker is not None:
            self.broker.start()
        self.chip.start()
        for connected in self._connected:
            connected.start()
        self._ticks.start()

    def close(self) -> None:
        """End all events and all threads, and write what waits."""
        self._ends.set()
        _all_at_once([*(connected.close for connected in self._connected), self.chip.close])
        for lookout in self.lookouts.values():
            lookout.close()
        _all_at_once([recorder.close for recorder in self._recorders.values()])
        if self.broker is not None:  # it tells the last ends, which it finds in the store
            self.store.flush(FAREWELL)
            self.broker.close()
        self.store.close()
        if self._ticks.is_alive():
            self._ticks.join()

    def subscribe(self, told: Callable[[Event, str], None]) -> None:
        """Have a function called with each event that was saved, and "new", "update" or "end"."""
        self._told.append(told)

    def latest(self, camera: str) -> View | None:
        """Return a camera's newest picture, what is in it, and its number."""
        lookout = self.lookouts.get(camera)
        return lookout.latest() if lookout is not None else None

    def wait(self, camera: str, number: int, timeout: float) -> View | None:
        """Return a camera's newest picture once its number is greater; None where none comes."""
        return self.lookouts[camera].wait(number, timeout)

    def state(self) -> WatchState:
        """Return how everything is."""
        cameras = tuple(lookout.state() for lookout in self.lookouts.values())
        load, (processor, own) = self.chip.load(), self._processor()
        events, stored, free = self.store.figures()
        return WatchState(
            cameras=cameras, parts=self.health.parts(), model=self.config.model.name,
            chip=self.chip.name, chip_ms=round(load.ms, 2), chip_fps=round(load.fps, 1),
            load=round(load.busy, 3), processor=round(processor, 3),
            limit=self._limit(cameras, load, processor, own), events=events, stored_bytes=stored,
            free_bytes=free, time=time.time(),
        )  # fmt: skip

    def _limit(
        self, cameras: tuple[CameraState, ...], load: Load, processor: float, own: float
    ) -> str:
        if time.monotonic() - self._started < SOON:
            return "not known yet"
        return limit(cameras, load, processor, own)

    def _connect(self, lookout: Lookout) -> Connected:
        recorder = self._recorders.get(lookout.name)
        packet = recorder.packet if recorder is not None else None
        return Connected(
            lookout.place, lookout.take, rate=lookout.camera.fps, packet=packet, tell=lookout.tell
        )

    def _recorder(self, camera: Camera, clip: Clip) -> Recorder:
        return Recorder(
            camera.name, self.store.underway, self.store.add_clip, self.health,
            before=clip.before, after=clip.after, rate=camera.fps,
        )  # fmt: skip

    def _newest(self) -> str:
        """Return the id after which new ones are to sort."""
        try:
            return max((event.id for event in self.store.events(limit=50)), default="")
        except DeviceError:  # shown by the store
            return ""

    def _broker(self, mqtt: Mqtt) -> Broker:
        labels = {camera.name: camera.objects for camera in self.config.cameras}
        broker = Broker(mqtt, labels, self.store, self.health)
        self.subscribe(broker.told)
        return broker

    def _heard(self, news: News, jpeg: bytes | None) -> None:
        self.store.put(news.event, jpeg)

    def _saved(self, event: Event, kind: str) -> None:
        for told in tuple(self._told):
            try:
                told(event, kind)
            except Exception as error:  # noqa: BLE001 - who listens must not stop what is saved
                self.health.failing("news", error)

    def _tick(self) -> None:
        tidy = _trim()
        for count in itertools.count():
            if self._ends.wait(TICK):
                return
            if count % TIDY == 0:
                tidy()
            for lookout in self.lookouts.values():
                lookout.tick()
            self._processor()
            if self.broker is not None:
                self._tell(self.broker)

    def _tell(self, broker: Broker) -> None:
        """Tell the broker what is seen now, and which cameras work."""
        for name, lookout in self.lookouts.items():
            now = (lookout.counts(), self.cameras_health.part(name).state == "ok")
            if self._known.get(name) != now:
                self._known[name] = now
                broker.counts(name, now[0])
                broker.camera(name, now[1])


def open_model(config: Config) -> Sees:
    """Open the model of a file; it gives faint boxes too, by which tracks go on.

    Raises:
        InputError: it is missing, is no model or is not whole.
        UnsupportedError: it is no detector that onchip knows.
    """
    threads = 1 if len(config.cameras) > 1 else 0  # where it is the processor: many, or one soon
    return open_sight(config.model, limits=Limits(FAINT, config.overlap), threads=threads)


def limit(cameras: Iterable[CameraState], load: Load, processor: float, own: float) -> str:
    """Say in one line what keeps a watch from looking more often.

    `processor` is the busy part of the cores, and `own` the part of it that is this process's.
    """
    live = [c for c in cameras if c.part.state == "ok" and c.fps > 0]
    slow = [c for c in live if c.fps < BEHIND * c.wanted_fps]
    if load.busy >= CHIP_FULL:
        return f"the chip: it looks {load.fps:.0f} times a second, {load.ms:.0f} ms each"
    if processor >= FULL:
        if own < processor / 2:
            return f"this machine's processor: other programs take {processor - own:.0%} of it"
        return "this machine's processor: cameras of smaller pictures, or fewer of them, would help"
    if slow:
        names = ", ".join(f"{c.name} ({c.fps:.1f} of {c.wanted_fps:g})" for c in slow[:4])
        return f"cameras that give fewer pictures a second than are wanted: {names}"
    if load.fps and any(c.missed_fps > MISSED * c.wanted_fps for c in live):
        return f"one process, which prepares and follows {load.fps:.0f} pictures a second, no more"
    return "nothing"


def _all_at_once(works: Iterable[Callable[[], None]]) -> None:
    """Do all at the same time, and wait for them for some seconds in all."""
    threads = [threading.Thread(target=work, name="closing", daemon=True) for work in works]
    for thread in threads:
        thread.start()
    until = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


def _trim() -> Callable[[], object]:
    """Return what gives memory that is free back to the system, where the C library can.

    glibc keeps what frames of many threads have left, 40 MB a camera and slowly more.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    return partial(trim, 0) if trim is not None else lambda: None
