"""Things that hold a chip, a process or a folder, and give it back at the end of a `with` block."""

from types import TracebackType
from typing import Self


class Closing:
    """Closes at the end of a `with` block."""

    def close(self) -> None:
        """Give back what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
