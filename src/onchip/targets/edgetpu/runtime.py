"""The Edge TPU within LiteRT: libedgetpu takes over the operator that Coral's compiler left."""

from ctypes import CDLL
from typing import Any

from onchip.errors import DeviceError, ToolError
from onchip.targets.tflite.litert import missing

LIBRARY = "libedgetpu.so.1"
INSTALL = (
    "sudo apt install libedgetpu1-std, from Coral's Debian packages or a build for your system"
)


def library() -> bool:
    """Whether the chip's library is installed, and can be loaded."""
    try:
        CDLL(LIBRARY)
    except OSError:
        return False
    return True


def delegate(device: str) -> Any:
    """Open the chip: any where `device` is "".

    Raises:
        ToolError: LiteRT or the library is not installed.
        DeviceError: no chip answers.
    """
    try:
        from ai_edge_litert.interpreter import load_delegate
    except ImportError as error:
        raise missing(error) from error
    if not library():
        raise ToolError(f"the Edge TPU's library, {LIBRARY}, is not installed here", INSTALL)
    try:
        return load_delegate(LIBRARY, {"device": device} if device else {})
    except ValueError as error:
        raise DeviceError(
            f"no Edge TPU {device or 'anywhere'}: {error}",
            "is it plugged in, and may this user use it? lsusb shows 1a6e:089a or 18d1:9302, and "
            "on PCI there is /dev/apex_0. Another program may hold it",
        ) from error
