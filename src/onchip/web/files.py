"""A file as an answer, whole or a part of it, so that players can seek and downloads go on."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from onchip.web.answers import failure

PIECE = 256 << 10  # bytes that are read at once


def send_file(request: Request, path: Path, kind: str, name: str, save: bool = False) -> Response:
    """Answer with a file that the browser shows, or saves, under a name.

    It is opened before anything is promised: a file that goes meanwhile is read to its end.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return failure(404, "missing", "this file is not there any more")
    facts = os.fstat(file.fileno())
    tag = f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"'
    how = "attachment" if save else "inline"
    headers = {
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "content-disposition": f"{how}; filename*=UTF-8''{quote(name, safe='')}",
        "etag": tag,
    }
    if request.headers.get("if-none-match") == tag:
        file.close()
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range", "")
    if request.headers.get("if-range", tag) != tag:
        wanted = ""
    found = part(wanted, facts.st_size)
    if found is None:
        file.close()
        headers["content-range"] = f"bytes */{facts.st_size}"
        return Response(status_code=416, headers=headers)
    first, end = found
    status = 200
    if (first, end) != (0, facts.st_size):
        status = 206
        headers["content-range"] = f"bytes {first}-{end - 1}/{facts.st_size}"
    headers["content-length"] = str(end - first)
    return StreamingResponse(_pieces(file, first, end - first), status, headers, kind)


def part(wanted: str, size: int) -> tuple[int, int] | None:
    """Return the first byte and the one after the last that a Range header asks for.

    What is no single range is answered with the whole, as the standard allows; None is a range that
    lies outside.

    >>> part("bytes=2-3", 10), part("bytes=-4", 10), part("bytes=8-", 10), part("", 10)
    ((2, 4), (6, 10), (8, 10), (0, 10))
    """
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", wanted.strip(), re.ASCII)
    if found is None or not (found[1] or found[2]):
        return 0, size
    if not found[1]:
        first, end = max(0, size - int(found[2])), size
    else:
        first, end = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < first:
            return 0, size
    return (first, end) if first < end else None


def _pieces(file: BinaryIO, first: int, left: int) -> Iterator[bytes]:
    with file:
        file.seek(first)
        while left and (data := file.read(min(PIECE, left))):
            left -= len(data)
            yield data
