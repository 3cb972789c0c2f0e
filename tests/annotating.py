"""What the annotator's tests share: a real server on loopback, and a visitor that is no browser."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from onchip.annotate.serve import Server, Wanted


@dataclass
class Running:
    """A server in a thread, and the links that it told."""

    server: Server
    told: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


@contextmanager
def running(source: Path, **wanted: Any) -> Iterator[Running]:
    """Serve a folder for the time of the block."""
    told: list[str] = []
    with Server(Wanted(source, **wanted), told.append) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield Running(server, told)
        finally:
            server.stop()
            thread.join(20)
            assert not thread.is_alive()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


class Visitor:
    """Asks over real HTTP, with exactly the headers that are named and the cookie that it was given."""

    def __init__(self, running: Running, enter: bool = True) -> None:
        self.running, self.cookie = running, ""
        if enter:
            self("GET", "/?" + urlsplit(running.url).query)
            assert self.cookie

    def __call__(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        given = {"Host": f"127.0.0.1:{self.running.server.port}"}
        if self.cookie:
            given["Cookie"] = self.cookie
        if body is not None:
            given |= {"Origin": self.running.origin, "Content-Type": "application/json"}
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        given |= headers or {}
        connection = http.client.HTTPConnection("127.0.0.1", self.running.server.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in given.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            if "set-cookie" in found:
                self.cookie = found["set-cookie"].partition(";")[0]
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def folder(self) -> Any:
        return self("GET", "/api/folder").json

    def id(self, name: str) -> str:
        return next(row[0] for row in self.folder()["photos"] if row[1] == name)

    def labels(self, name: str) -> Any:
        return self("GET", f"/api/labels/{self.id(name)}").json

    def save(self, name: str, rows: list[dict[str, Any]], **other: Any) -> Answer:
        """Save as a page would that has just read the labels; `other` replaces what it says."""
        now = self.labels(name)
        body = {"version": now["labels"]["version"], "classes": now["classes"], "rows": rows}
        return self("PUT", f"/api/labels/{self.id(name)}", {**body, **other})


def photo(path: Path, width: int = 64, height: int = 48, seed: int = 0) -> Path:
    """Write a photo of soft colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    _, data = cv2.imencode(path.suffix, image)
    path.write_bytes(data.tobytes())
    return path
