"""The tree of failures. Each says what happened, what is allowed, and what to do.

OnchipError
├── GateError         1   the proof failed: the build lost more than the gate allows
├── InputError        2   something you gave is wrong: a file, a folder, an option
├── UnsupportedError  3   the input is sound, but onchip or the target cannot do it
├── ToolError         4   a vendor tool or runtime failed
└── DeviceError       5   a board or an accelerator failed or cannot be reached
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar


class OnchipError(Exception):
    """A failure that the user can act on. `str()` is what happened; `hint` is what to do."""

    exit_code: ClassVar[int] = 70
    code: ClassVar[str] = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class GateError(OnchipError):
    """The proof ran, and the build is past its gate."""

    exit_code = 1
    code = "gate"


class InputError(OnchipError):
    """A file, folder or option that the user gave is wrong."""

    exit_code = 2
    code = "input"


class UnsupportedError(OnchipError):
    """The input is sound, but this model, operation or target is not supported."""

    exit_code = 3
    code = "unsupported"


class ToolError(OnchipError):
    """A runtime or a vendor's tool failed.

    `log` is what it printed, where it was kept; `parts` what it had made until then, to go on from:
    name to (file, bytes).
    """

    log: str = ""
    parts: Mapping[str, tuple[str, bytes]] = MappingProxyType({})
    exit_code = 4
    code = "tool"


class DeviceError(OnchipError):
    """A board or an accelerator failed or cannot be reached."""

    exit_code = 5
    code = "device"
