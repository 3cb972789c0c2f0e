"""The protocol between onchip and a worker in an SDK's environment: framed msgpack over pipes.

Each message is eight bytes of length (little endian) and a msgpack map whose `type` says which of
the structs below it is. onchip sends `Call`; the worker answers with any number of `Progress` and
one `Result` or `Failure`. Arrays travel as they lie in memory.
"""

import struct
from typing import Annotated, Any, BinaryIO

import msgspec
import numpy as np
from msgspec import Meta, Struct

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
    """What an array is: of numbers or booleans, for nothing else lies in memory as it is."""

    dtype: Annotated[str, Meta(pattern=r"^[<>|][biufc]\d{1,2}$")]
    shape: tuple[Annotated[int, Meta(ge=0)], ...]


def _to_extension(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufc":
        kind = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"cannot send a {kind}")
    head = msgspec.msgpack.encode(Head(value.dtype.str, value.shape))
    data = np.ascontiguousarray(value).tobytes()
    return msgspec.msgpack.Ext(ARRAY, struct.pack("<I", len(head)) + head + data)


def _from_extension(code: int, data: memoryview) -> Any:
    if code != ARRAY or len(data) < 4:
        raise ValueError(f"unknown extension {code}")
    (length,) = struct.unpack("<I", data[:4])
    head = msgspec.msgpack.decode(data[4 : 4 + length], type=Head)
    # a copy that may be written to: SDKs do
    return np.frombuffer(bytearray(data[4 + length :]), head.dtype).reshape(head.shape)


_encoder = msgspec.msgpack.Encoder(enc_hook=_to_extension)
_decoder = msgspec.msgpack.Decoder(Message, ext_hook=_from_extension)


def pack(message: Message) -> bytes:
    """Return a message as it travels.

    Raises:
        TypeError: it holds something that cannot travel; OverflowError and UnicodeEncodeError
            likewise, of a number or a text.
    """
    data = _encoder.encode(message)
    return struct.pack("<Q", len(data)) + data


def write(pipe: BinaryIO, packed: bytes) -> None:
    """Write one packed message.

    Raises:
        Closed: nobody reads.
    """
    try:
        pipe.write(packed)
        pipe.flush()
    except (OSError, ValueError) as error:  # ValueError: our own end is closed
        raise Closed from error


def receive(pipe: BinaryIO) -> Message:
    """Wait for one message.

    Raises:
        Closed: the other side is gone, or does not speak this protocol.
    """
    (length,) = struct.unpack("<Q", _exactly(pipe, 8))
    if length > MOST:
        raise Closed
    data = _exactly(pipe, length)
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Closed from error


def _exactly(pipe: BinaryIO, count: int) -> bytes:
    """Read so many bytes, taking memory only for what really comes."""
    parts = []
    while count:
        part = pipe.read(min(count, 1 << 20))
        if not part:
            raise Closed
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
