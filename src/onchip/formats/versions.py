"""Version numbers, to compare and to shorten."""

Version = tuple[int, ...]


def number(version: str) -> Version:
    """Return a version's leading numbers, to compare by.

    >>> number("4.23.0") > number("4.9"), number("3.33.1+abc")
    (True, (3, 33, 1))
    """
    found: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if digits:
            found.append(int(digits[:9]))
        if digits != part:
            break
    return tuple(found)


def minor(version: str) -> str:
    """Return the first two parts of a version."""
    return ".".join(version.split(".")[:2])
