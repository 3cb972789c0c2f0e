"""A few of many."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def some(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` of `items`, spread evenly; 0 is all.

    >>> some("abcdefgh", 3)
    ['a', 'c', 'f']
    """
    if not count or len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
