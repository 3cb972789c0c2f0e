"""A stand-in for libedgetpu in LiteRT: runs the network inside what the stand-in compiler made."""

from pathlib import Path
from typing import Any, ClassVar

from ai_edge_litert import interpreter

MARK = b"EDGETPU STAND-IN"
Real = interpreter.Interpreter


class Delegate:
    """A chip that was opened."""

    opened: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    chips = ("usb:0",)

    def __init__(self, library: str, options: dict[str, Any] | None = None) -> None:
        options = options or {}
        Delegate.opened.append((library, dict(options)))
        if library not in ("libedgetpu.so.1", "libedgetpu.so.1.0"):
            raise OSError(f"{library}: cannot open shared object file: No such file or directory")
        assert set(options) <= {"device"}
        wanted = str(options.get("device", ""))
        if not any(chip.startswith(wanted) for chip in Delegate.chips):
            raise ValueError(f"Failed to load delegate from {library}\n")


class Interpreter:
    """LiteRT's, for files that the chip has taken over; it refuses them without a chip."""

    def __init__(
        self,
        model_path: str | None = None,
        model_content: bytes | None = None,
        experimental_delegates: list[Any] | None = None,
        num_threads: int | None = None,
    ) -> None:
        data = model_content or Path(model_path or "").read_bytes()
        place = data.find(MARK)
        if place >= 0:
            if not any(isinstance(d, Delegate) for d in experimental_delegates or ()):
                raise RuntimeError("Encountered unresolved custom op: edgetpu-custom-op.")
            start = place + len(MARK) + 4
            size = int.from_bytes(data[start - 4 : start], "little")
            data = data[start : start + size]
        self._real = Real(model_content=data, num_threads=num_threads)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def install() -> None:
    """Put a chip into this process."""
    interpreter.load_delegate = Delegate
    interpreter.Interpreter = Interpreter
