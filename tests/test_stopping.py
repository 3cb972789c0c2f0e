"""Ctrl-C, answered between two pieces of work."""

import os
import resource
import signal
import threading
import time

import pytest

from onchip.cli import stopping
from onchip.cli.stopping import stopping as stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_lock_held(number: signal.Signals) -> None:
    """As an exception it would come inside the lock's own code, and other threads wait for ever."""
    handler = signal.getsignal(number)
    lock = threading.Condition()
    with stop_on_signals() as stop:
        assert not stop()
        with lock:
            signal.raise_signal(number)
        assert stop()
        stop.wait()  # at once
    assert lock.acquire(blocking=False)
    assert signal.getsignal(number) is handler


def test_a_process_with_many_open_files_waits_too() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip(f"no more than {hard} files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with stop_on_signals() as stop:
            stop.wait(0.01)
            assert not stop()
            stop.set()
            stop.wait(60)
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_waiting_ends_as_soon_as_it_is_asked_for() -> None:
    with stop_on_signals() as stop:
        stop.wait(0.01)
        assert not stop()
        timer = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        stop.wait(60)
        timer.join()
        assert stop()


def test_a_signal_that_interrupts_no_waiting_ends_it() -> None:
    """The kernel gave it to another thread, or a moment before the waiting began."""
    with stop_on_signals() as stop:

        def late() -> None:
            time.sleep(0.1)
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)

        thread = threading.Thread(target=late)
        began = time.monotonic()
        thread.start()
        stop.wait(20)
        assert stop() and time.monotonic() - began < 20
        thread.join()
    assert signal.set_wakeup_fd(-1) == -1


def test_the_next_one_interrupts_but_not_one_that_came_with_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        later = time.monotonic() + stopping.IMPATIENT + 1
        monkeypatch.setattr(stopping.time, "monotonic", lambda: later)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
