"""A real broker hears of everything: killed, refusing, absent, restarted; no end is lost."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onchip.watch.config import Keep, Mqtt
from onchip.watch.health import Backoff, Health
from onchip.watch.mqtt import Broker, Topics, discovery, slug
from onchip.watch.store import Store
from onchip.watch.values import Event

from broker import Listener, Message, Mosquitto

NOW = time.time() - 3600
SECRET = "p4ss#w/rd"
NAMES = {"front": ("person", "traffic light")}


def event(number: int, *, label: str = "person", ended: bool = True) -> Event:
    begun = {"id": f"{number:016x}", "camera": "front", "label": label, "start": NOW + number}
    ending: dict[str, Any] = {"end": NOW + number + 5, "why": "left"} if ended else {}
    return Event(**begun, score=0.5, box=(0.1, 0.1, 0.5, 0.9), **ending)


class House:
    """A store and what tells a broker of it, as a watch has them."""

    def __init__(self, folder: Path, broker: Mosquitto, **settings: Any) -> None:
        self.health = Health()
        self._told: Callable[[Event, str], None] = lambda event, kind: None
        self.store = Store(folder, Keep(), self.health, lambda e, k: self._told(e, k))
        mqtt = Mqtt(host="127.0.0.1", port=broker.port, **settings)
        self.broker = Broker(mqtt, NAMES, self.store, self.health)
        self._told = self.broker.told
        self.broker.start()

    def close(self) -> None:
        self.store.flush()
        self.broker.close()
        self.store.close()

    def until(self, state: str) -> str:
        """Wait until the broker's part is in a state; returns its message."""
        until = time.monotonic() + 20
        while (part := self.health.part("broker")).state != state:
            assert time.monotonic() < until, part
            time.sleep(0.01)
        return f"{part.message}; {part.hint}"


@contextmanager
def house(folder: Path, broker: Mosquitto, **settings: Any) -> Iterator[House]:
    made = House(folder, broker, **settings)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    folder = tmp_path / "broker"
    folder.mkdir()
    with Mosquitto(folder) as broker:
        yield broker


def ends(messages: list[Message]) -> list[str]:
    told = [m.json for m in messages if m.topic == "onchip/events"]
    return [m["event"]["id"] for m in told if m["type"] == "end"]


def test_one_event_as_a_listener_hears_it(tmp_path: Path, mosquitto: Mosquitto) -> None:
    with Listener(mosquitto) as listener:
        with house(tmp_path / "watch", mosquitto) as here:
            here.until("ok")
            here.broker.camera("front", True)
            here.broker.counts("front", {"person": 2})
            listener.until(lambda _: listener.last("onchip/front/person") == b"2")
            here.broker.counts("front", {})
            listener.until(lambda _: listener.last("onchip/front/person") == b"0")
            here.store.put(event(1, ended=False), b"a picture")
            listener.until(lambda _: listener.last("onchip/front/person/snapshot") == b"a picture")
            here.store.put(event(1, ended=False), b"a better one")
            listener.until(
                lambda _: listener.last("onchip/front/person/snapshot") == b"a better one"
            )
            here.store.put(event(1))
            listener.until(lambda m: bool(ends(m)))
            here.broker.counts("front", {"person": 1})
            listener.until(lambda _: listener.last("onchip/front/person") == b"1")
            assert listener.last("onchip/available") == b"online"
            assert listener.last("onchip/front/status") == b"online"
        messages = listener.until(lambda _: listener.last("onchip/available") == b"offline")
        assert listener.last("onchip/front/person") == b"0"
        assert listener.last("onchip/front/status") == b"offline"
        assert listener.last("onchip/front/traffic_light") == b"0"
        kinds = [m.json["type"] for m in messages if m.topic == "onchip/events"]
        assert kinds == ["new", "update", "end"]
        whole = [m.json["event"] for m in messages if m.topic == "onchip/events"][-1]
        assert whole["camera"] == "front" and whole["snapshot"] and whole["why"] == "left"
        pictures = [m.data for m in messages if m.topic == "onchip/front/person/snapshot"]
        assert pictures == [b"a picture", b"a better one"]  # the end brought no other
    with Listener(mosquitto) as later:  # what is retained is there for who comes later
        later.until(lambda m: any(x.topic == "onchip/front/person/snapshot" for x in m))
        assert all(message.retained for message in later.messages)
        assert not any(message.topic == "onchip/events" for message in later.messages)


def test_a_broker_that_is_killed_again_and_again_hears_of_all_ends(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    """A broker that dies takes along what it has acknowledged and not yet passed on: that is its own.

    All else is heard, in its order, and nothing waits for ever.
    """
    total, killed = 300, threading.Event()
    acknowledged: dict[str, float] = {}
    kills: list[float] = []
    with Listener(mosquitto) as listener, house(tmp_path / "watch", mosquitto) as here:
        # So that the listener is there first: what it does not hear, nobody can check.
        here.broker._backoff = Backoff(2, 3)
        sent = here.store.sent

        def noted(event: str) -> None:
            acknowledged[event] = time.monotonic()
            sent(event)

        here.store.sent = noted  # type: ignore[method-assign]

        def traffic() -> None:
            for number in range(total):
                if number == total * 2 // 3:
                    assert killed.wait(60)  # so many are surely heard, however quick all is
                here.store.put(event(number, ended=False))
                here.store.put(event(number))
                time.sleep(0.005)

        thread = threading.Thread(target=traffic)
        thread.start()
        for kill in range(4):
            enough = 45 * (kill + 1)
            listener.until(lambda _, enough=enough: len(acknowledged) >= enough)  # type: ignore[misc]
            mosquitto.kill()
            kills.append(time.monotonic())
            here.until("failing")
            mosquitto.start()
            back = time.monotonic()
            listener.listening()
            here.until("ok")
            assert time.monotonic() - back < 10
        killed.set()
        thread.join()
        until = time.monotonic() + 60
        while here.store.unsent(1):
            assert time.monotonic() < until
            time.sleep(0.05)
        assert len(acknowledged) == total
        surely = {
            event
            for event, at in acknowledged.items()
            if not any(kill - 2 < at < kill + 0.5 for kill in kills)
        }
        messages = listener.until(lambda m: surely <= set(ends(m)))
        assert len(surely) > total / 4
        first = list(dict.fromkeys(ends(messages)))
        assert first == sorted(first)
        assert listener.last("onchip/front/status") == b"offline"  # retained again, by a new broker


def test_ends_that_nobody_heard_are_told_after_a_restart_in_their_order(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    mosquitto.kill()
    with house(tmp_path / "watch", mosquitto) as here:
        for number in (3, 1, 2):
            here.store.put(event(number))
            assert here.store.flush()
        assert "nothing listens" in here.until("failing")
    mosquitto.start()
    with Listener(mosquitto) as listener:
        with house(tmp_path / "watch", mosquitto):
            messages = listener.until(lambda m: len(ends(m)) >= 3)
        assert ends(messages) == [event(n).id for n in (3, 1, 2)]
        with house(tmp_path / "watch", mosquitto) as again:
            again.until("ok")
            again.store.put(event(4))
            messages = listener.until(lambda m: event(4).id in ends(m))
        assert ends(messages) == [event(n).id for n in (3, 1, 2, 4)]  # and once is enough


def test_a_process_that_is_killed_is_said_to_be_offline_by_its_last_will(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    program = (
        "import sys, time\nsys.path.insert(0, sys.argv[3])\nfrom pathlib import Path\n"
        "from test_watch_mqtt import House\n"
        "class There: port = int(sys.argv[2])\n"
        "House(Path(sys.argv[1]), There())\ntime.sleep(600)\n"
    )
    with Listener(mosquitto) as listener:
        here = Path(__file__).parent
        arguments = [str(tmp_path / "watch"), str(mosquitto.port), str(here)]
        child = subprocess.Popen([sys.executable, "-c", program, *arguments])
        try:
            listener.until(lambda _: listener.last("onchip/available") == b"online", 60)
        finally:
            child.kill()
            child.wait()
        listener.until(lambda _: listener.last("onchip/available") == b"offline")


@pytest.mark.parametrize(("user", "password"), [("", ""), ("watch", "wrong" + SECRET)])
def test_a_wrong_password_is_said_and_never_shown(
    tmp_path: Path, user: str, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Mosquitto(tmp_path, user="watch", password=SECRET) as mosquitto:
        with house(tmp_path / "watch", mosquitto, user=user, password=password) as here:
            told = here.until("failing")
        assert "refuses the user name or the password" in told and "[mqtt]" in told
        with house(tmp_path / "watch", mosquitto, user="watch", password=SECRET) as here:
            here.until("ok")
            told += str(here.health.parts())
    assert SECRET not in told + caplog.text


def test_tls_is_spoken_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    made += [
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(made, check=True, capture_output=True)
    with Mosquitto(tmp_path, tls=(certificate, key)) as mosquitto:
        with house(tmp_path / "watch", mosquitto, tls=True) as here:
            assert "is not trusted" in here.until("failing")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with house(tmp_path / "watch", mosquitto, tls=True) as here:
            here.until("ok")


def test_what_is_no_broker_is_said(tmp_path: Path, mosquitto: Mosquitto) -> None:
    with house(tmp_path / "watch", mosquitto, tls=True) as here:
        assert "TLS" in here.until("failing")
    health, store = Health(), Store(tmp_path / "watch", Keep(), Health(), lambda e, k: None)
    broker = Broker(Mqtt(host="no.such.host.invalid"), NAMES, store, health)
    broker.start()
    until = time.monotonic() + 20
    while health.part("broker").state != "failing":
        assert time.monotonic() < until
        time.sleep(0.01)
    assert "there is no host no.such.host.invalid" in health.part("broker").message
    broker.close()
    store.close()
    assert not [t for t in threading.enumerate() if t.name in ("mqtt", "store")]


# What https://www.home-assistant.io/integrations/mqtt/, …/binary_sensor.mqtt/ and …/image.mqtt/ allow
# and ask for (of what is used here), checked by the rules that they state.
SHARED = {"name", "unique_id", "availability", "availability_mode", "device", "origin"}
ALLOWED = {
    "binary_sensor": SHARED | {"device_class", "state_topic", "value_template"},
    "image": SHARED | {"image_topic", "content_type"},
}
NEEDED = {"binary_sensor": {"state_topic"}, "image": {"image_topic"}}
DEVICE = {"identifiers", "name", "manufacturer", "model", "configuration_url", "sw_version"}


def check_discovery(topic: str, payload: dict[str, Any]) -> None:
    found = re.fullmatch(r"homeassistant/(\w+)/[a-zA-Z0-9_-]+/[a-zA-Z0-9_-]+/config", topic)
    assert found, topic
    kind = found[1]
    assert set(payload) <= ALLOWED[kind] and NEEDED[kind] <= set(payload)
    assert payload["unique_id"] and payload["device"]["identifiers"]  # a device needs an identity
    assert set(payload["device"]) <= DEVICE
    assert (
        set(payload["origin"]) <= {"name", "sw_version", "support_url"}
        and payload["origin"]["name"]
    )
    assert payload["availability_mode"] in ("all", "any", "latest")
    for topic in [a["topic"] for a in payload["availability"]]:
        assert valid(topic)
    if kind == "binary_sensor":
        assert payload["device_class"] == "occupancy" and valid(payload["state_topic"])
    else:
        assert payload["content_type"] == "image/jpeg" and valid(payload["image_topic"])


def valid(topic: str) -> bool:
    return 0 < len(topic.encode()) < 65536 and not re.search(r"[+#\0]", topic) and "//" not in topic


def test_home_assistant_is_told_what_there_is(tmp_path: Path, mosquitto: Mosquitto) -> None:
    with Listener(mosquitto) as listener, house(tmp_path / "watch", mosquitto) as here:
        here.store.put(event(1, label="dog"))  # one that was not named before
        messages = listener.until(
            lambda m: sum(x.topic.startswith("homeassistant/") for x in m) >= 6
        )
        told = {m.topic: m.json for m in messages if m.topic.startswith("homeassistant/")}
        for topic, payload in told.items():
            check_discovery(topic, payload)
        assert len({payload["unique_id"] for payload in told.values()}) == 6
        assert {p["device"]["identifiers"][0] for p in told.values()} == {"onchip_front"}
        sensor = told["homeassistant/binary_sensor/onchip_front/person/config"]
        assert listener.last(sensor["state_topic"]) == b"0"
    with (
        Listener(mosquitto),
        house(tmp_path / "plain", mosquitto, home_assistant=False, topic="a/b") as here,
    ):
        here.until("ok")
        assert not any("homeassistant" in topic for topic in here.broker._retained)


@given(st.lists(st.text(min_size=1), min_size=2, max_size=5, unique=True))
def test_any_names_become_topics_of_their_own(names: list[str]) -> None:
    topics = Topics("onchip")
    found = [t for name in names for t in (topics.count("front", name), topics.status(name))]
    assert len(set(found)) == len(found)
    assert all(valid(topic) and " " not in topic for topic in found)
    for name in names:
        for topic, payload in discovery(topics, "front", name).items():
            check_discovery(topic, json.loads(json.dumps(payload)))
    assert len({slug(name) for name in names}) == len(names)
