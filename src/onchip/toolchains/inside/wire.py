"""The protocol between onchip and a worker in an SDK's environment: framed msgpack over pipes.

Each message is eight bytes of length (little endian) and a msgpack map whose `type` says which of
the structs below it is. onchip sends `Call`; the worker answers with any number of `Progress` and
one `Result` or `Failure`. Arrays travel as they lie in memory.
"""

import struct
from typing import Any, BinaryIO

import msgspec
import numpy as np
from msgspec import Struct

ARRAY = 1  # msgpack's extension type
MOST = 4 << 30  # bytes of one message


class Call(Struct, frozen=True, tag=True):
    """Run one verb with its options."""

    verb: str
    options: dict[str, Any] = {}


class Progress(Struct, frozen=True, tag=True):
    """How far the running call is; `total` 0 is unknown."""

    what: str
    done: int
    total: int


class Result(Struct, frozen=True, tag=True):
    """The call worked."""

    value: Any = None


class Failure(Struct, frozen=True, tag=True):
    """The call failed. `kind` is the exception's name, or "exit"."""

    kind: str
    message: str


Message = Call | Progress | Result | Failure


class Closed(Exception):  # noqa: N818 - not an error: the other side is gone
    """The other side closed the pipe."""


class Head(Struct, frozen=True, array_like=True):
    """What an array is."""

    dtype: str
    shape: tuple[int, ...]


def _to_extension(value: Any) -> msgspec.msgpack.Ext:
    if not isinstance(value, np.ndarray):
        raise NotImplementedError(f"cannot send a {type(value).__name__}")
    head = msgspec.msgpack.encode(Head(value.dtype.str, value.shape))
    data = np.ascontiguousarray(value).tobytes()
    return msgspec.msgpack.Ext(ARRAY, struct.pack("<I", len(head)) + head + data)


def _from_extension(code: int, data: memoryview) -> Any:
    if code != ARRAY:
        raise ValueError(f"unknown extension {code}")
    (length,) = struct.unpack("<I", data[:4])
    head = msgspec.msgpack.decode(data[4 : 4 + length], type=Head)
    return np.frombuffer(bytes(data[4 + length :]), np.dtype(head.dtype)).reshape(head.shape)


_encoder = msgspec.msgpack.Encoder(enc_hook=_to_extension)
_decoder = msgspec.msgpack.Decoder(Message, ext_hook=_from_extension)


def send(pipe: BinaryIO, message: Message) -> None:
    """Write one message.

    Raises:
        Closed: nobody reads.
    """
    data = _encoder.encode(message)
    try:
        pipe.write(struct.pack("<Q", len(data)))
        pipe.write(data)
        pipe.flush()
    except (BrokenPipeError, ValueError) as error:
        raise Closed from error


def receive(pipe: BinaryIO) -> Message:
    """Wait for one message.

    Raises:
        Closed: the other side is gone, or does not speak this protocol.
    """
    (length,) = struct.unpack("<Q", _exactly(pipe, 8))
    if length > MOST:
        raise Closed
    try:
        return _decoder.decode(_exactly(pipe, length))
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise Closed from error


def _exactly(pipe: BinaryIO, count: int) -> bytes:
    parts = []
    while count:
        part = pipe.read(min(count, 1 << 20))
        if not part:
            raise Closed
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
