"""A real mosquitto on a free port of loopback, that can be killed and started again, and a listener."""

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from onchip.closing import Closing


def need() -> str:
    """Skip the test where mosquitto is not installed; fail it where all must be."""
    found = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        text = "mosquitto is not here: apt install mosquitto"
        if os.environ.get("ONCHIP_REQUIRE_DATA"):
            pytest.fail(text)
        pytest.skip(text)
    return found


class Mosquitto(Closing):
    """Runs until the end of the `with` block. It keeps nothing: what it was told dies with it."""

    def __init__(
        self,
        folder: Path,
        *,
        user: str = "",
        password: str = "",
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self.program, self.folder = need(), folder
        self.user, self.password, self.tls = user, password, tls
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self._write()

    def __enter__(self) -> Self:
        self.start()
        return self

    def close(self) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [self.program, "-c", str(self.folder / "mosquitto.conf")]
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, self.log()
                assert time.monotonic() < until, self.log()
                time.sleep(0.02)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text(errors="replace")

    def _write(self) -> None:
        lines = [
            f"listener {self.port} 127.0.0.1",
            "persistence false",
            "log_type all",
            "user root",
        ]
        lines.append(f"allow_anonymous {'false' if self.user else 'true'}")
        if self.user:
            passwords = self.folder / "passwords"
            passwords.write_text(f"{self.user}:{self.password}\n")
            subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
            passwords.chmod(0o644)
            lines.append(f"password_file {passwords}")
        if self.tls:
            lines += [f"certfile {self.tls[0]}", f"keyfile {self.tls[1]}"]
        (self.folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")


@dataclass(frozen=True)
class Message:
    topic: str
    data: bytes
    retained: bool

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class Listener(Closing):
    """Hears everything that a broker is told, over its restarts, until the end of the `with` block."""

    def __init__(self, broker: Mosquitto) -> None:
        from paho.mqtt.client import CallbackAPIVersion, Client

        self.messages: list[Message] = []
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._client = client = Client(CallbackAPIVersion.VERSION2)
        if broker.user:
            client.username_pw_set(broker.user, broker.password)
        client.reconnect_delay_set(0.05, 0.1)  # type: ignore[arg-type]
        client.on_connect = lambda *_: client.subscribe("#", 1)
        client.on_subscribe = lambda *_: self._ready.set()
        client.on_disconnect = lambda *_: self._ready.clear()
        client.on_message = self._heard
        client.connect("127.0.0.1", broker.port)

    def _heard(self, client: Any, data: Any, message: Any) -> None:
        with self._changed:
            self.messages.append(Message(message.topic, message.payload, message.retain))
            self._changed.notify_all()

    def __enter__(self) -> Self:
        self._client.loop_start()
        self.listening()
        return self

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def listening(self) -> None:
        """Wait until it hears."""
        assert self._ready.wait(20)

    def until(self, what: Callable[[list[Message]], bool], timeout: float = 20) -> list[Message]:
        """Wait for messages; fails with those that came."""
        with self._changed:
            came = self._changed.wait_for(lambda: what(self.messages), timeout)
            assert came, [(m.topic, m.data[:80]) for m in self.messages[-40:]]
            return list(self.messages)

    def last(self, topic: str) -> bytes | None:
        """Return what a topic says now."""
        with self._changed:
            return next((m.data for m in reversed(self.messages) if m.topic == topic), None)
