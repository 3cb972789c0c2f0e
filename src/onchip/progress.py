"""How work tells how far it is: what is done, how much of it, of how much (0 where unknown)."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Show no progress."""
