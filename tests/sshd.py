"""A real OpenSSH server on loopback as a board: its own keys, its own port, its own home.

    with sshd.Server(folder) as server:
        Board(server.name, ...)       # with ONCHIP_SSH=server.ssh

What a board would have else (its Python, systemctl) comes from a folder that is first on its PATH.
"""

import getpass
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from onchip.closing import Closing

from rtsp import free_port

DAEMON = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""
PATIENCE = 20.0


def need() -> None:
    """Skip the test where OpenSSH's server is not installed; fail it where all must be."""
    missing = [p for p in ("ssh", "ssh-keygen") if not shutil.which(p)] + ["sshd"] * (not DAEMON)
    if missing:
        text = f"{missing[0]} is not here: apt install openssh-server openssh-client"
        if os.environ.get("ONCHIP_REQUIRE_DATA"):
            pytest.fail(text)
        pytest.skip(text)


def key(path: Path) -> Path:
    """Make a key without a passphrase."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


class Server(Closing):
    """One board. `home` and `bin` are its own; `config` is the client's, in which it is `board`.

    `more` are variables of its environment.
    """

    name = "board"

    def __init__(self, folder: Path, **more: str) -> None:
        need()
        self.more = more
        self.folder, self.port = folder, free_port()
        self.home, self.bin = folder / "home", folder / "bin"
        self.config, self.known = folder / "client_config", folder / "known_hosts"
        self._process: subprocess.Popen[bytes] | None = None
        for made in (self.home, self.bin):
            made.mkdir(parents=True)
        self.host_key, self.user_key = key(folder / "host_key"), key(folder / "user_key")
        self.keys = folder / "authorized_keys"
        shutil.copy(folder / "user_key.pub", self.keys)
        self.keys.chmod(0o600)
        self.trust()
        self.client()
        self.python()
        if os.geteuid() == 0:  # where the daemon hides what it separates
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)

    @property
    def ssh(self) -> str:
        """What to call for this board: a value for ONCHIP_SSH."""
        return f"ssh -F {self.config}"

    def trust(self, public: str | None = None) -> None:
        """Let the client know the board's host key, or another one."""
        public = public or (self.folder / "host_key.pub").read_text()
        self.known.write_text(f"[127.0.0.1]:{self.port} {public}")

    def client(self, **more: str) -> None:
        """Write the client's settings."""
        settings = {
            "HostName": "127.0.0.1", "Port": str(self.port), "User": getpass.getuser(),
            "IdentityFile": str(self.user_key), "IdentitiesOnly": "yes", "IdentityAgent": "none",
            "UserKnownHostsFile": str(self.known), "GlobalKnownHostsFile": "/dev/null",
        } | more  # fmt: skip
        lines = [f"  {name} {value}\n" for name, value in settings.items()]
        self.config.write_text(f"Host {self.name}\n" + "".join(lines))

    def python(self, script: str = "") -> None:
        """Give the board a `python3`: the one that the tests run with, or what a script plays."""
        base = getattr(sys, "_base_executable", sys.executable)
        self.program("python3", script or f'exec {base} "$@"')

    def program(self, name: str, script: str) -> Path:
        """Put a program first on the board's PATH."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def start(self) -> None:
        """Switch it on, on the same port each time."""
        path = f"{self.bin}:/usr/local/bin:/usr/bin:/bin"
        variables = {"HOME": str(self.home), "PATH": path} | self.more
        settings = {
            "Port": self.port, "ListenAddress": "127.0.0.1", "HostKey": self.host_key,
            "AuthorizedKeysFile": self.keys, "PidFile": "none", "StrictModes": "no",
            "PasswordAuthentication": "no", "KbdInteractiveAuthentication": "no", "UsePAM": "no",
            "PermitRootLogin": "prohibit-password", "LogLevel": "ERROR",
            "SetEnv": " ".join(f"{name}={value}" for name, value in variables.items()),
        }  # fmt: skip
        config = self.folder / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        with (self.folder / "sshd.log").open("wb") as log:
            self._process = subprocess.Popen(
                [DAEMON, "-D", "-e", "-f", str(config)], stderr=log, start_new_session=True
            )
        end = time.monotonic() + PATIENCE
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > end:
                self.close()
                pytest.fail(f"sshd does not start: {(self.folder / 'sshd.log').read_text()}")
            time.sleep(0.02)

    def _listens(self) -> bool:
        import socket

        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def cut(self) -> None:
        """End every connection and all that runs on the board, at once, as without power."""
        assert self._process is not None
        for pid in sorted(_below(self._process.pid), reverse=True):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Switch it off."""
        if self._process is None:
            return
        self.cut()
        self._process.kill()
        self._process.wait()
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self


def _below(pid: int) -> set[int]:
    """Return all that a process has started, and what these have."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found |= {child} | _below(child)
    return found
