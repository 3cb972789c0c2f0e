"""Tells an MQTT broker of events, counts and snapshots, and Home Assistant what there is to see.

Ends of events are told at least once, in their order: one counts as told when the broker has
acknowledged it, and until then it waits in the store, also over a restart. What only matters now
(an event that began, one that changed) is told while the broker is there. States are retained.
"""

import re
import secrets
import socket
import ssl
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from onchip.closing import Closing
from onchip.errors import DeviceError, OnchipError, UnsupportedError
from onchip.watch.config import Mqtt
from onchip.watch.health import Backoff, Health
from onchip.watch.values import Event

if TYPE_CHECKING:
    from paho.mqtt.client import Client

PART = "broker"
KEEPALIVE = 10  # seconds
ANSWER = 10.0  # seconds that a broker may take to answer
WINDOW = 20  # ends that are under way at once
RATE = 50.0  # ends a second, so that a backlog floods nobody
NEWS = 1000  # what only matters now, and waits to be sent
LOOK = 10.0  # seconds after which the outbox is looked into although nothing was told
FAREWELL = 3.0  # seconds for the last words
HOME_ASSISTANT = "homeassistant"  # where it looks for what there is
OCCUPIED = "{{ 'ON' if value | int(0) > 0 else 'OFF' }}"
Content = Callable[[], bytes | None]


class Outbox(Protocol):
    """Where ends wait, and snapshots are."""

    def unsent(self, limit: int) -> list[Event]:
        """Return ends that were not told yet, in their order."""

    def sent(self, event: str) -> None:
        """Remember that one was told."""

    def snapshot(self, event: str) -> Path | None:
        """Return the picture of an event."""


class Broker(Closing):
    """What a broker is told. Any thread may tell; one thread talks to the broker.

    `cameras` names the labels of each camera; more are added when they are first told of.

    Raises:
        UnsupportedError: the client library is not installed.
    """

    def __init__(
        self, mqtt: Mqtt, cameras: Mapping[str, Iterable[str]], outbox: Outbox, health: Health
    ) -> None:
        try:
            import paho.mqtt.client  # noqa: F401
        except ImportError as error:
            raise UnsupportedError(
                "telling a broker needs paho-mqtt", "pip install 'onchip[watch]'"
            ) from error
        self._mqtt, self._outbox, self._health = mqtt, outbox, health
        self._topics = Topics(mqtt.topic)
        self._id = f"onchip-{secrets.token_hex(6)}"
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._ends = self._connected = False
        self._refused = ""
        self._retained: dict[str, Content] = {}  # what topics are to say
        self._stale: dict[str, None] = {}  # those that the broker does not say yet
        self._shown: dict[str, tuple[str, int]] = {}  # which snapshot a topic shows
        self._counted: dict[str, set[str]] = {camera: set() for camera in cameras}
        self._news: deque[tuple[Event, str]] = deque(maxlen=NEWS)
        self._told: deque[int] = deque()  # messages that the broker has
        self._underway: dict[int, tuple[str, float]] = {}
        self._more = True  # ends may wait in the outbox
        self._next_end = self._looked = 0.0
        self._backoff = Backoff(1, 8)
        for camera, labels in cameras.items():
            self.camera(camera, False)
            self.counts(camera, dict.fromkeys(labels, 0))
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def start(self) -> None:
        """Begin to look for the broker, and to tell it."""
        self._health.starting(PART)
        self._thread.start()

    def told(self, event: Event, kind: str) -> None:
        """Take note of an event that was saved: "new", "update" or "end"."""
        topic = self._topics.snapshot(event.camera, event.label)
        with self._lock:
            if kind == "end":
                self._more = True
            elif self._connected:
                self._news.append((event, kind))
            if event.label not in self._counted.setdefault(event.camera, set()):
                self._know(event.camera, event.label)
            if event.snapshot:
                self._retain(topic, partial(self._picture, topic, event.id))
        self._wake.set()

    def counts(self, camera: str, counts: Mapping[str, int]) -> None:
        """Tell how many objects of each label are before a camera now; of others there are none."""
        with self._lock:
            known = self._counted.setdefault(camera, set())
            for label in [label for label in counts if label not in known]:
                self._know(camera, label)
            for label in known:
                self._say(self._topics.count(camera, label), str(counts.get(label, 0)))
        self._wake.set()

    def camera(self, camera: str, works: bool) -> None:
        """Tell whether a camera sends pictures."""
        with self._lock:
            self._say(self._topics.status(camera), "online" if works else "offline")
        self._wake.set()

    def close(self) -> None:
        """Tell what waits, for a few seconds, and that nothing is seen any more."""
        self._ends = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    # What topics are to say; under the lock.

    def _say(self, topic: str, text: str) -> None:
        old = self._retained.get(topic)
        if old is None or old() != text.encode():
            self._retain(topic, text.encode)

    def _retain(self, topic: str, content: Content) -> None:
        self._retained[topic] = content
        self._stale[topic] = None

    def _know(self, camera: str, label: str) -> None:
        """Tell of a label that was not told of before."""
        self._counted[camera].add(label)
        self._say(self._topics.count(camera, label), "0")
        if self._mqtt.home_assistant:
            for topic, payload in discovery(self._topics, camera, label).items():
                self._retain(topic, partial(msgspec.json.encode, payload))

    def _picture(self, topic: str, event: str) -> bytes | None:
        """Return the picture of an event, unless the topic shows it."""
        try:
            path = self._outbox.snapshot(event)
            if path is None:
                return None
            key = (event, path.stat().st_mtime_ns)
            data = path.read_bytes()
        except (OSError, OnchipError):
            return None
        if self._shown.get(topic) == key:
            return None
        self._shown[topic] = key
        return data

    # What follows is the thread's that talks to the broker.

    def _run(self) -> None:
        try:
            self._keep_talking()
        except BaseException as error:
            self._health.failing(PART, error, "this is a fault in onchip: start it again")
            raise

    def _keep_talking(self) -> None:
        while not self._ends:
            try:
                self._talk()
            except (OSError, ValueError, DeviceError) as error:
                wait = self._backoff.failed()
                text, hint = self._plain(error)
                self._health.failing(PART, text, hint, wait)
                until = time.monotonic() + wait
                while not self._ends and time.monotonic() < until:
                    self._wake.wait(max(0.0, until - time.monotonic()))
                    self._wake.clear()

    def _talk(self) -> None:
        """Connect and tell until the broker is gone, or the end has come."""
        client = self._client()
        client.connect(self._mqtt.host, self._mqtt.port, keepalive=KEEPALIVE)
        client.loop_start()
        try:
            self._greet()
            while not self._ends:
                self._send(client)
                self._wake.wait(self._pause())
                self._wake.clear()
            self._leave(client)
        finally:
            with self._lock:
                self._connected = False
                self._news.clear()
            client.disconnect()
            client.loop_stop()

    def _greet(self) -> None:
        """Wait for the broker's answer."""
        until = time.monotonic() + ANSWER
        while not self._connected:
            if self._refused:
                raise DeviceError(self._refused, "look at user and password under [mqtt]")
            if self._ends or time.monotonic() > until:
                raise DeviceError(f"{self._where} does not answer", "is it an MQTT broker?")
            self._wake.wait(0.2)
            self._wake.clear()
        self._backoff.worked()
        self._health.ok(PART)

    def _client(self) -> "Client":
        from paho.mqtt.client import CallbackAPIVersion, Client

        client = Client(CallbackAPIVersion.VERSION2, self._id, reconnect_on_failure=False)
        client.connect_timeout = 5.0
        if self._mqtt.user:
            client.username_pw_set(self._mqtt.user, self._mqtt.password)
        if self._mqtt.tls:
            client.tls_set()
        client.will_set(self._topics.available, "offline", 1, retain=True)
        self._refused, self._told = "", deque()
        self._underway.clear()
        self._shown.clear()
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        return client

    def _on_connect(self, client: "Client", data: Any, flags: Any, code: Any, more: Any) -> None:
        with self._lock:
            if code.is_failure:
                login = code.value in (134, 135)  # bad user name or password, not authorized
                why = "the user name or the password" if login else f"us: {str(code).lower()}"
                self._refused = f"{self._where} refuses {why}"
            else:
                self._connected = self._more = True
                self._say(self._topics.available, "online")
                self._stale.update(dict.fromkeys(self._retained))
        self._wake.set()

    def _on_disconnect(self, client: "Client", data: Any, flags: Any, code: Any, more: Any) -> None:
        self._connected = False
        self._wake.set()

    def _on_publish(self, client: "Client", data: Any, mid: int, code: Any, more: Any) -> None:
        self._told.append(mid)
        self._wake.set()

    def _send(self, client: "Client") -> None:
        if not self._connected:
            raise DeviceError(f"{self._where} has closed the connection", "it is tried again")
        self._acknowledge()
        self._send_retained(client)
        with self._lock:
            news = list(self._news)
            self._news.clear()
        for event, kind in news:
            client.publish(self._topics.events, _message(event, kind))
        self._send_ends(client)

    def _acknowledge(self) -> None:
        """Take note of what the broker has."""
        while self._told:
            event = self._underway.pop(self._told.popleft(), None)
            if event is not None:
                self._outbox.sent(event[0])
        if any(time.monotonic() - at > ANSWER for _, at in self._underway.values()):
            raise DeviceError(f"{self._where} acknowledges nothing", "it is tried again")

    def _send_retained(self, client: "Client") -> None:
        with self._lock:
            stale = {topic: self._retained[topic] for topic in self._stale}
            self._stale.clear()
        for topic, content in stale.items():
            data = content()
            if data is not None:
                client.publish(topic, data, 1, retain=True)

    def _send_ends(self, client: "Client") -> None:
        now = time.monotonic()
        room = WINDOW - len(self._underway)
        waits = self._more or now - self._looked > LOOK
        if not waits or room <= 0 or now < self._next_end:
            return
        self._looked = now
        self._more = False  # before asking: what is told of meanwhile sets it again
        known = {event for event, _ in self._underway.values()}
        try:
            waiting = [e for e in self._outbox.unsent(room + len(known)) if e.id not in known]
        except OnchipError:  # the disk says so itself
            self._more, self._next_end = True, now + 1.0
            return
        for event in waiting[:room]:
            message = client.publish(self._topics.events, _message(event, "end"), 1)
            self._underway[message.mid] = (event.id, now)
        if waiting:
            self._more = True
            self._next_end = now + len(waiting) / RATE

    def _pause(self) -> float:
        """Return how long to wait for something to do."""
        if not self._more or len(self._underway) >= WINDOW:
            return 1.0
        return max(0.0, self._next_end - time.monotonic())

    def _leave(self, client: "Client") -> None:
        """Tell what waits, then that nobody is there."""
        until = time.monotonic() + FAREWELL
        while (self._more or self._underway) and time.monotonic() < until:
            self._send(client)
            self._wake.wait(min(0.1, self._pause()))
            self._wake.clear()
        for camera in list(self._counted):
            self.counts(camera, {})
            self.camera(camera, False)
        self._send_retained(client)
        last = client.publish(self._topics.available, "offline", 1, retain=True)
        last.wait_for_publish(max(0.5, until - time.monotonic()))

    @property
    def _where(self) -> str:
        return f"the broker at {self._mqtt.host}:{self._mqtt.port}"

    def _plain(self, error: Exception) -> tuple[str, str]:
        """Say in plain words why there is no connection, and what to do."""
        if isinstance(error, DeviceError):
            return str(error), error.hint
        if isinstance(error, socket.gaierror):
            return f"there is no host {self._mqtt.host}", "look at host under [mqtt]"
        if isinstance(error, ConnectionRefusedError):
            return f"nothing listens where {self._where} should be", "is it running?"
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {self._where} is not trusted: {error.verify_message}",
                "let this machine trust who signed it: update-ca-certificates",
            )
        if isinstance(error, ssl.SSLError) or (
            self._mqtt.tls and isinstance(error, ConnectionError)
        ):
            return f"{self._where} does not speak TLS", "look at tls and port under [mqtt]"
        if isinstance(error, TimeoutError):
            return f"{self._where} does not answer", "is it on, and does a firewall let us?"
        return f"{self._where} cannot be reached: {error}", "it is tried again"


class Topics:
    """Names of topics: names of cameras and labels become levels that any broker allows."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.available = f"{base}/available"
        self.events = f"{base}/events"
        self._levels: dict[tuple[str, str], str] = {}
        self._taken: dict[tuple[str, str], str] = {}

    def status(self, camera: str) -> str:
        """Return where is said whether a camera sends pictures."""
        return f"{self.base}/{self._level('', camera)}/status"

    def count(self, camera: str, label: str) -> str:
        """Return where is said how many there are."""
        return f"{self.base}/{self._level('', camera)}/{self._level(camera, label)}"

    def snapshot(self, camera: str, label: str) -> str:
        """Return where the last snapshot is."""
        return f"{self.count(camera, label)}/snapshot"

    def _level(self, above: str, name: str) -> str:
        """Return a level for a name, another for each name at one place."""
        key = (above, name)
        if key not in self._levels:
            level = re.sub(r"[+#/\s\x00-\x1f\x7f]", "_", name) or "_"
            if level == "status" or self._taken.get((above, level), name) != name:
                level = f"{level}_{_sum(name)}"
            self._taken[above, level] = name
            self._levels[key] = level
        return self._levels[key]


def discovery(topics: Topics, camera: str, label: str) -> dict[str, dict[str, object]]:
    """Return what Home Assistant is told of one label of a camera: topic to payload.

    https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
    """
    node, name = f"{slug(topics.base)}_{slug(camera)}", slug(label)
    shared = {
        "name": label,
        "availability": [{"topic": topics.available}, {"topic": topics.status(camera)}],
        "availability_mode": "all",
        "device": {"identifiers": [node], "name": camera, "manufacturer": "onchip"},
        "origin": {"name": "onchip", "sw_version": version("onchip")},
    }
    sensor = {
        "unique_id": f"{node}_{name}_occupancy",
        "device_class": "occupancy",
        "state_topic": topics.count(camera, label),
        "value_template": OCCUPIED,
    }
    image = {
        "unique_id": f"{node}_{name}_snapshot",
        "image_topic": topics.snapshot(camera, label),
        "content_type": "image/jpeg",
    }
    return {
        f"{HOME_ASSISTANT}/binary_sensor/{node}/{name}/config": {**sensor, **shared},
        f"{HOME_ASSISTANT}/image/{node}/{name}/config": {**image, **shared},
    }


def slug(name: str) -> str:
    """Return a name of the letters that Home Assistant allows, another for every name.

    >>> slug("front-door"), slug("traffic light")
    ('front-door', 'traffic_light_00fcc92e')
    """
    plain = re.sub(r"[^a-zA-Z0-9_-]", "_", name)
    return plain if plain == name else f"{plain}_{_sum(name)}"


def _sum(name: str) -> str:
    return f"{zlib.crc32(name.encode()):08x}"


def _message(event: Event, kind: str) -> bytes:
    return msgspec.json.encode({"type": kind, "event": event})
