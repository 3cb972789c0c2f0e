"""A board that is reached through the system's own ssh: its keys, agent, config and jump hosts.

One ssh for everything: it starts `board.py` on the board, which is sent through it and stored
nowhere, and then takes orders until the connection ends. What ssh refuses is said in our words.
"""

import hashlib
import json
import os
import re
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from onchip.closing import Closing
from onchip.device.board import READY
from onchip.errors import DeviceError, InputError, OnchipError, ToolError, UnsupportedError

COMMAND = "ONCHIP_SSH"  # the variable that may hold another ssh, with options: ssh -F my_config
CONNECT = 10  # seconds until a board that does not answer is given up
ALIVE = (5, 4)  # a sign of life every so many seconds; so many missed ones are the end
SIGN = 10.0  # seconds between our own signs of life to what runs on the board
PATIENCE = 5.0  # seconds that ssh may take to leave
MOST_JUNK = 1 << 16  # bytes that a login shell may print first

# What ssh says, what it means, and what to do; {at} is the board as it was named, {said} the line.
REFUSALS: tuple[tuple[str, str, str], ...] = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key .* has changed",
        "{at} has another host key than before",
        "if the board was installed anew: ssh-keygen -R {host}; if not, another machine answers",
    ),
    (
        r"Host key verification failed|No \S+ host key is known|authenticity of host",
        "the host key of {at} is unknown",
        "connect once by hand and compare it: ssh {at}",
    ),
    (
        r"UNPROTECTED PRIVATE KEY|bad permissions",
        "others may read your key, so that ssh does not use it",
        "chmod 600 the key's file",
    ),
    (
        r"Permission denied|Too many authentication failures|No supported authentication",
        "{at} lets you not in: it takes none of your keys for that user",
        "is the user right? if so, give it your key once: ssh-copy-id {at}",
    ),
    (
        r"Could not resolve hostname|Name or service not known",
        "there is no host called {host}",
        "is the name right? its address works too: pi@192.168.1.20",
    ),
    (
        r"Connection refused",
        "{at} refuses the connection: no ssh server answers there",
        "switch it on, on a Raspberry Pi: sudo raspi-config, Interface Options; is the port right?",
    ),
    (
        r"timed out|No route to host|unreachable|Host is down|not responding",
        "{at} does not answer",
        "is the board on, and in this network?",
    ),
    (
        r"Bad configuration option|[Bb]ad owner or permissions|configuration options|no argument",
        "ssh does not accept its settings: {said}",
        f"see ~/.ssh/config, --ssh-option and {COMMAND}",
    ),
)
KINDS: Mapping[str, type[OnchipError]] = {
    "input": InputError,
    "unsupported": UnsupportedError,
    "tool": ToolError,
    "pip": ToolError,
}

# reads so many bytes and runs them: the board's half, which is stored nowhere
_START = """import sys
f, s = open(0, "rb", buffering=0, closefd=False), b""
while len(s) < {size}: s += f.read({size} - len(s)) or sys.exit(1)
exec(compile(s, "board.py", "exec"))"""

Tell = Callable[[str], None]


class FullError(DeviceError):
    """The board's disk is full."""


class PipError(ToolError):
    """pip failed on the board."""


@dataclass(frozen=True)
class At:
    """Where a board is, as ssh takes it: a name of its config, `user@host`, or `ssh://…`."""

    text: str
    host: str

    @staticmethod
    def read(text: str) -> "At":
        """Read an address.

        Raises:
            InputError: it is none, or has a password in it.
        """
        url = urlsplit(text if text.startswith("ssh://") else f"ssh://{text}")
        try:
            host, port, user = url.hostname, url.port, url.username or ""
        except ValueError:
            host, port, user = None, None, ""
        if url.password is not None:
            raise InputError(
                "there is a password in the board's address, where everyone could read it",
                "ssh asks for it by itself; better: ssh-copy-id USER@HOST",
            )
        plain = re.fullmatch(r"(?!-)[^\s:/?#]+|\[[0-9a-fA-F:]+\]", url.netloc.rpartition("@")[2])
        if not host or user.startswith("-") or url.path.strip("/") or not (plain or port):
            raise InputError(
                f"{text!r} is no address of a board",
                "as in pi@camera, pi@192.168.1.20, ssh://pi@camera:2222 or a name of ~/.ssh/config",
            )
        if host.startswith("-") or re.search(r"\s", text):
            raise InputError(f"{text!r} is no address of a board", "as in pi@camera")
        if port is None:
            return At(text.removeprefix("ssh://").rstrip("/"), host)
        return At(text if text.startswith("ssh://") else f"ssh://{text}", host)


class Board(Closing):
    """One board, for as long as the block runs.

    Args:
        at: where it is.
        options: settings of ssh, as `Port=2222`.
        prompts: whether ssh may ask on the terminal, for a password perhaps.

    Raises:
        InputError: the address or an option is none.
        ToolError: there is no ssh here.
        DeviceError: the board cannot be reached, or has no Python.
    """

    def __init__(self, at: str, options: Sequence[str] = (), *, prompts: bool = False) -> None:
        self.at = At.read(at)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close
        self._turn = threading.Lock()
        self._over = threading.Event()
        command = _command(self.at, options, prompts=prompts)
        try:
            self._ssh = subprocess.Popen(  # noqa: S603 - ssh, with the board's address as a word
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=not prompts,  # Ctrl-C is ours to answer
            )
        except OSError as error:
            self._log.close()
            raise ToolError(
                f"{command[0]} does not run: {error.strerror or error}",
                "install OpenSSH's client: sudo apt install openssh-client",
            ) from error
        self._signs = threading.Thread(target=self._live, name=f"ssh {at}", daemon=True)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        self._signs.start()

    def ask(
        self, do: str, data: bytes = b"", tell: Tell = lambda text: None, **order: object
    ) -> dict[str, Any]:
        """Have an order done on the board and return what comes of it.

        Raises:
            OnchipError: it cannot be done, or the connection ended.
        """
        line = json.dumps({"do": do, "size": len(data), **order}).encode() + b"\n"
        self._send(line + data)
        while True:
            answer = self._line()
            if "tell" in answer:
                tell(str(answer["tell"]))
                continue
            if "failed" in answer:
                raise self._failure(answer["failed"])
            done = answer["done"]
            assert isinstance(done, dict)
            if size := done.pop("size"):
                done["data"] = self._data(size)
            return done

    def send(self, path: str, data: bytes) -> None:
        """Write a file on the board, whole or not at all."""
        self.ask("receive", data, path=path, sha256=hashlib.sha256(data).hexdigest())

    def fetch(self, path: str) -> bytes:
        """Return a file of the board; b"" where there is none.

        Raises:
            DeviceError: it was damaged on its way, or the connection ended.
        """
        found = self.ask("fetch", path=path)
        data: bytes = found.get("data", b"")
        if hashlib.sha256(data).hexdigest() != found["sha256"]:
            raise DeviceError(f"{path} was damaged on its way", "do it again")
        return data

    def close(self) -> None:
        """End the connection, and what still runs on the board for it."""
        self._over.set()
        with suppress(OSError):
            assert self._ssh.stdin is not None
            self._ssh.stdin.close()
        try:
            self._ssh.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._ssh.kill()
            self._ssh.wait()
        assert self._ssh.stdout is not None
        self._ssh.stdout.close()
        if self._signs.is_alive():
            self._signs.join()
        self._log.close()

    def _data(self, size: int) -> bytes:
        assert self._ssh.stdout is not None
        data = self._ssh.stdout.read(size)
        if len(data) < size:
            raise self._ended("in the middle")
        return data

    def _begin(self) -> None:
        self._send(_half())
        assert self._ssh.stdout is not None
        junk = 0
        while line := self._ssh.stdout.readline(MOST_JUNK):
            junk += len(line)
            if line.strip() == READY.encode():
                return
            if junk > MOST_JUNK:
                break
        raise self._ended("before it began")

    def _send(self, data: bytes) -> None:
        assert self._ssh.stdin is not None
        try:
            with self._turn:
                self._ssh.stdin.write(data)
                self._ssh.stdin.flush()
        except (OSError, ValueError) as error:
            raise self._ended("in the middle") from error

    def _line(self) -> dict[str, Any]:
        assert self._ssh.stdout is not None
        line = self._ssh.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._ended("in the middle")
        try:
            found = json.loads(line)
        except ValueError as error:
            text = line.decode(errors="replace").strip()[:100]
            raise DeviceError(f"{self.at.text} answers what makes no sense: {text}") from error
        assert isinstance(found, dict)
        return found

    def _live(self) -> None:
        """Show that we are there, so that a board can tell a slow deploy from a lost one."""
        while not self._over.wait(SIGN):
            try:
                self._send(b"\n")
            except OnchipError:
                return

    def _ended(self, when: str) -> OnchipError:
        """Say why the connection ended, from what ssh said of it."""
        with suppress(subprocess.TimeoutExpired):
            self._ssh.wait(PATIENCE)
        self._log.seek(0)
        return refusal(self.at, self._log.read().decode(errors="replace"), self._ssh.poll(), when)

    def _failure(self, failed: Mapping[str, str]) -> OnchipError:
        kind, message, hint = failed["kind"], failed["message"], failed["hint"]
        if kind == "full":
            return FullError(message, hint)
        if kind == "pip":
            return PipError(message, hint)
        return KINDS.get(kind, DeviceError)(message, hint)


def refusal(at: At, said: str, code: int | None, when: str) -> OnchipError:
    """Turn what ssh said, and its exit code, into an error with a cure."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if code == 127 or ("not found" in said and "python3" in said):
        return DeviceError(
            f"{at.text} has no python3",
            "install Python 3.11 or newer there: sudo apt install python3",
        )
    for pattern, message, hint in REFUSALS:
        match = re.search(pattern, said)
        if match is None:
            continue
        line = next((text for text in lines if re.search(pattern, text)), "")
        words = {"at": at.text, "host": at.host, "said": line[:200]}
        kind = InputError if "settings" in message else DeviceError
        return kind(message.format(**words), hint.format(**words))
    last = f": {lines[-1][:200]}" if lines else ""
    return DeviceError(
        f"the connection to {at.text} was cut {when}{last}",
        "what ran there before still runs; do the same again",
    )


def _command(at: At, options: Sequence[str], *, prompts: bool) -> list[str]:
    """Return how ssh is called. Host keys are looked at as the user's own settings say."""
    for option in options:
        if not re.fullmatch(r"[A-Za-z]+=.+", option):
            raise InputError(f"--ssh-option {option!r} is none", "as in --ssh-option Port=2222")
    ours = [
        f"ConnectTimeout={CONNECT}",
        f"ServerAliveInterval={ALIVE[0]}",
        f"ServerAliveCountMax={ALIVE[1]}",
        "LogLevel=ERROR" if prompts else "BatchMode=yes",
        "RequestTTY=no",
        "ClearAllForwardings=yes",
        "PermitLocalCommand=no",
        "RemoteCommand=none",
    ]
    words = shlex.split(os.environ.get(COMMAND) or "ssh")
    words += [w for option in (*options, *ours) for w in ("-o", option)]
    start = _START.format(size=len(_half()))
    return [*words, "-T", "--", at.text, shlex.join(["exec", "python3", "-u", "-c", start])]


@cache
def _half() -> bytes:
    """Return the program that runs on the board."""
    return (files("onchip.device") / "board.py").read_bytes()
