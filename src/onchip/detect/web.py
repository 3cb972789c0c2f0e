"""Cameras that are asked by HTTP: MJPEG, streams and playlists of video, and single pictures."""

import contextlib
import hashlib
import http.client
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from onchip.detect.feed import QUICK, Ask, Due, apart, follow, opened
from onchip.detect.lost import LostError, explained, garbage, lost, missing, no_address, refused
from onchip.detect.picture import Picture, Stream

MOST = 64 << 20  # bytes of one picture
_LISTS = ("mpegurl", "x-mpegurl", "vnd.apple.mpegurl")
_CODECS = {"image/jpeg": "mjpeg", "image/jpg": "mjpeg", "image/png": "png", "image/bmp": "bmp"}


def pictures(ask: Ask) -> Iterator[Picture]:
    """Yield what an address gives, whatever it is."""
    line = _Line(ask)
    ask.heard, ask.on_close = time.monotonic(), line.hang_up
    url = ask.place.bare
    answer = apart(ask, partial(line.get, url), http.client.HTTPResponse.close)
    try:
        kind = answer.headers.get_content_type()
        if kind in _CODECS:
            yield from _polled(ask, line, answer, _CODECS[kind])
            return
        if kind.rpartition("/")[2] in _LISTS or urlsplit(url).path.endswith(".m3u8"):
            answer.close()
            # A reload of the list cannot be broken off and resumed; its own waits are short.
            still = {"http_persistent": "0", "http_multiple": "0"} | QUICK
            source: dict[str, Any] = {"format": "hls", "limit": ask.stall, "options": still}
            container = opened(ask, url, io_open=line.open, **source)
            yield from follow(container, ask, paced=True)
            return
        form = "mpjpeg" if kind == "multipart/x-mixed-replace" else None
        container = opened(ask, line.body(url, answer), format=form, options=QUICK)
        # What has an end is a file, and comes as fast as the network is.
        yield from follow(container, ask, paced=bool(container.duration))
    finally:
        answer.close()
        line.hang_up()


def _polled(
    ask: Ask, line: "_Line", answer: http.client.HTTPResponse, codec: str
) -> Iterator[Picture]:
    """Ask for one picture after another, in the rate that is wanted."""
    due = Due(rate := ask.rate or 1.0)
    number, size = 0, (0, 0)
    while not ask.closed.is_set():
        now = time.monotonic()
        picture = _decoded(ask, answer, codec, number)
        if not number and ask.opened is not None:
            ask.opened(Stream(codec, picture.size, rate))
        if number and picture.size != size:
            text = "changed from {}x{} to {}x{}".format(*size, *picture.size)
            raise lost("changed", ask.place, text)
        number, size = number + 1, picture.size
        due.taken(now)
        yield picture
        while (wait := due.wait(time.monotonic())) > 0:
            if ask.closed.wait(wait):
                return
        answer = apart(ask, partial(line.get, ask.place.bare), http.client.HTTPResponse.close)


def _decoded(ask: Ask, answer: http.client.HTTPResponse, codec: str, number: int) -> Picture:
    import av

    with answer:
        data = apart(ask, partial(answer.read, MOST), lambda data: None)
    now = time.monotonic()
    try:
        frames = av.CodecContext.create(codec, "r").decode(av.Packet(data))
    except av.FFmpegError:
        frames = []
    if not frames:
        raise garbage(ask.place)
    frame = frames[0]
    return Picture(now, time.time(), number, (frame.width, frame.height), True, None, frame)


class _Line:
    """The connections to one camera; `hang_up` ends them from any thread."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        if ask.place.login is not None:  # for this host alone, wherever it redirects to
            root = "{0.scheme}://{0.netloc}/".format(urlsplit(ask.place.bare))
            passwords.add_password(None, root, *ask.place.login)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),  # cameras are near
            _Plain(self),
            _Secure(self),
            _Digest(passwords),
            urllib.request.HTTPBasicAuthHandler(passwords),
        )

    def get(self, url: str, start: int = 0) -> http.client.HTTPResponse:
        """Ask for an address, from a byte on.

        Raises:
            LostError: it cannot be had.
        """
        ask, place = self._ask, self._ask.place
        if urlsplit(url).scheme not in ("http", "https"):  # a list may name anything
            raise garbage(place)
        headers = {"User-Agent": "onchip", "Accept": "*/*"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - looked at above
        try:
            answer: http.client.HTTPResponse = self._opener.open(request, timeout=ask.patience)
        except HTTPError as error:
            error.close()
            problem = _answered(error.code, ask)
        except URLError as error:
            reason = error.reason if isinstance(error.reason, Exception) else OSError()
            problem = _unreached(reason, ask)
        except http.client.HTTPException:
            problem = garbage(place)
        except ValueError:  # a login that this cannot do
            problem = lost("refused", place, "wants a login of a kind that onchip does not know")
        except OSError as error:
            problem = explained(error, place, ask.patience)
        else:
            return answer
        raise problem

    def open(self, url: str, flags: int, options: dict[str, str]) -> "_Body":
        """Open what a playlist names, for FFmpeg."""
        if self._ask.closed.is_set():
            raise lost("ended", self._ask.place, "was closed")
        return self.body(url, self.get(url))

    def body(self, url: str, answer: http.client.HTTPResponse) -> "_Body":
        """Return what an answer holds, for FFmpeg; a file can be read from anywhere."""
        length = answer.headers.get("Content-Length", "")
        if answer.headers.get("Accept-Ranges") == "bytes" and length.isdigit():
            return _File(self._ask, answer, int(length), partial(self.get, url))
        return _Body(self._ask, answer)

    def dial(self, host: str, port: int, timeout: float) -> socket.socket:
        """Connect, so that `hang_up` ends it."""
        line = socket.create_connection((host, port), timeout)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return line

    def hold(self, line: socket.socket) -> None:
        """Keep a connection to end it by."""
        line.settimeout(self._ask.stall)
        with self._lock:
            self._sockets = [held for held in self._sockets if held.fileno() >= 0] + [line]
        if self._ask.closed.is_set():
            self.hang_up()

    def hang_up(self) -> None:
        """End all connections; who reads from one sees its end."""
        with self._lock:
            for line in self._sockets:
                with contextlib.suppress(OSError):  # it may have ended
                    socket.socket.shutdown(line, socket.SHUT_RDWR)
            self._sockets.clear()


class _Body:
    """What an answer holds, as FFmpeg reads it."""

    def __init__(self, ask: Ask, answer: http.client.HTTPResponse) -> None:
        self._ask, self._answer = ask, answer

    def read(self, size: int) -> bytes:
        """Return what is there, at least a byte; nothing at the end."""
        ask = self._ask
        if ask.closed.is_set():
            return b""
        if time.monotonic() - ask.heard > ask.stall:  # much comes, and no packet in it
            raise garbage(ask.place)
        try:
            return self._answer.read1(size)
        except KeyboardInterrupt as error:  # FFmpeg would lose it
            raise InterruptedError from error
        except (http.client.HTTPException, ValueError):
            raise lost("ended", ask.place, "ended the connection") from None

    def close(self) -> None:
        """Give the connection back."""
        self._answer.close()


class _File(_Body):
    """A file on a server that gives parts of files: many have their contents' list at the end."""

    def __init__(
        self,
        ask: Ask,
        answer: http.client.HTTPResponse,
        length: int,
        get: Callable[[int], http.client.HTTPResponse],
    ) -> None:
        super().__init__(ask, answer)
        self._length, self._get = length, get
        self._at = self._wanted = 0

    def read(self, size: int) -> bytes:
        """Return what is at the place that was sought."""
        if self._wanted >= self._length:
            return b""
        if self._wanted != self._at:
            self._answer.close()
            self._answer, self._at = self._get(self._wanted), self._wanted
        data = super().read(size)
        self._at = self._wanted = self._at + len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place; nothing is asked before it is read."""
        self._wanted = offset + (0, self._wanted, self._length)[whence]
        return self._wanted

    def tell(self) -> int:
        """Where the next read begins."""
        return self._wanted


def _answered(code: int, ask: Ask) -> LostError:
    if code in (401, 403):
        return refused(ask.place)
    if code in (404, 410):
        return missing(ask.place)
    return lost("unreachable", ask.place, f"answered with error {code}", "see its own page")


def _unreached(reason: Exception, ask: Ask) -> LostError:
    if isinstance(reason, socket.gaierror):
        return no_address(urlsplit(ask.place.bare).hostname or "", ask.place)
    if isinstance(reason, ssl.SSLError):
        return lost("unreachable", ask.place, "speaks no TLS that is known", "is it http://?")
    return explained(reason, ask.place, ask.patience)


class _PlainConnection(http.client.HTTPConnection):
    def __init__(self, line: _Line, host: str, **how: Any) -> None:
        super().__init__(host, **how)
        self._line = line

    def connect(self) -> None:
        self.sock = self._line.dial(self.host, self.port, self.timeout or 0)
        self._line.hold(self.sock)


class _SecureConnection(http.client.HTTPSConnection):
    def __init__(self, line: _Line, host: str, **how: Any) -> None:
        super().__init__(host, **how)
        self._line = line

    def connect(self) -> None:
        # Cameras make their own certificates, which nobody can check.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        line = self._line.dial(self.host, self.port, self.timeout or 0)
        self.sock = context.wrap_socket(
            line, server_hostname=self.host, do_handshake_on_connect=False
        )
        self._line.hold(self.sock)
        self.sock.do_handshake()


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, line: _Line) -> None:
        super().__init__()
        self._line = line

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(_PlainConnection, self._line), request)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, line: _Line) -> None:
        super().__init__()
        self._line = line

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(_SecureConnection, self._line), request)


class _Digest(urllib.request.HTTPDigestAuthHandler):
    """Python's own knows no letters outside ASCII in passwords, and no SHA-256 before 3.14."""

    def get_algorithm_impls(self, algorithm: str) -> Any:
        name = {"MD5": "md5", "SHA": "sha1", "SHA-256": "sha256"}.get(algorithm.upper())
        if name is None:
            raise ValueError(algorithm)

        def digest(text: str) -> str:
            return hashlib.new(name, text.encode(), usedforsecurity=False).hexdigest()

        return digest, lambda secret, data: digest(f"{secret}:{data}")
