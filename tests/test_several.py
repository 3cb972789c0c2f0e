"""Several at once, in order, and none too far ahead."""

import threading
import time
from collections.abc import Iterator

import pytest

from onchip.detect.pipeline import ahead as drawn
from onchip.errors import InputError
from onchip.several import each


@pytest.mark.parametrize("ahead", [4, 6])
def test_results_come_in_order_whoever_is_first(ahead: int) -> None:
    def work(item: int) -> int:
        time.sleep(0.02 if item % 3 == 0 else 0)
        return item * item

    assert list(each(work, range(30), 4, ahead)) == [i * i for i in range(30)]


@pytest.mark.parametrize("ahead", [4, 6])
def test_no_more_is_taken_than_is_under_way_and_lies_ready(ahead: int) -> None:
    taken, finished, most = 0, 0, 0

    def items() -> Iterator[int]:
        nonlocal taken, most
        for item in range(20):
            taken += 1
            most = max(most, taken - finished)
            yield item

    for _ in each(lambda item: item, items(), 3, ahead):
        finished += 1
    assert most <= ahead + 1  # and one that was just handed over


def test_what_fails_is_raised_in_its_turn_and_nothing_goes_on() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise InputError("the fourth")
        return item

    results = each(work, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="the fourth"):
        next(results)
    assert list(results) == []


def test_a_reader_that_stops_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    frames = drawn(iter(range(1000)))
    for item in each(lambda item: item, frames):
        if item == 5:
            break
    frames.close()
    until = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < until:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before
