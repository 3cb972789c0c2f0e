"""The worker's loop: take a call, run it, answer; whatever the SDK prints goes to the log."""

import os
import traceback
from collections.abc import Callable
from importlib import import_module

from . import wire


def main(module: str) -> None:
    """Serve the calls of one module until the pipe closes.

    The pipes are moved away from the numbers 0 and 1, so that an SDK that prints, or reads, or
    forks, can do no harm to them.
    """
    calls = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)

    def progress(what: str, done: int, total: int) -> None:
        wire.send(answers, wire.Progress(what, done, total))

    handler = import_module(f".{module}", __package__).Calls(progress)
    while True:
        try:
            call = wire.receive(calls)
        except wire.Closed:
            return
        if isinstance(call, wire.Call):
            wire.send(answers, _answer(handler, call))


def _answer(handler: object, call: wire.Call) -> wire.Message:
    try:
        verb: Callable[..., object] = getattr(handler, call.verb)
        return wire.Result(verb(**call.options))
    except SystemExit as error:
        return wire.Failure("exit", f"it called exit({error.code})")
    except BaseException as error:  # noqa: BLE001 - the other side decides what it means
        traceback.print_exc()
        return wire.Failure(type(error).__name__, str(error))
