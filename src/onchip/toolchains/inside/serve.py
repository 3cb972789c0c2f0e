"""The worker's loop: take a call, run it, answer; whatever the SDK prints goes to the log."""

import os
import shutil
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from queue import SimpleQueue
from threading import Thread
from types import ModuleType
from typing import BinaryIO

from . import wire


def main(module: str, folder: str) -> None:
    """Serve the calls of one module, or of one Python file, until the pipe closes.

    `folder` is this worker's own, removed when onchip is gone and cannot do it any more.
    The pipes are moved away from the numbers 0 and 1, so that an SDK that prints, or reads, or
    forks, can do no harm to them.
    """
    # unbuffered: a process that the SDK forks must not find a buffer locked by our thread
    calls = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    waiting: SimpleQueue[wire.Call] = SimpleQueue()
    Thread(target=_listen, args=(calls, waiting, folder), daemon=True).start()

    def progress(what: str, done: int, total: int) -> None:
        wire.write(answers, wire.pack(wire.Progress(what, done, total)))

    try:
        handler = _module(module).Calls(progress)
    except BaseException as error:
        wire.write(answers, _failure("start", "".join(traceback.format_exception_only(error))))
        raise
    while True:
        wire.write(answers, _answer(handler, waiting.get()))


def _listen(calls: BinaryIO, waiting: "SimpleQueue[wire.Call]", folder: str) -> None:
    """Pass calls on. When onchip is gone, nobody wants the result, nor will anybody clean up."""
    with suppress(wire.Closed):
        while True:
            call = wire.receive(calls)
            if isinstance(call, wire.Call):
                waiting.put(call)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpid(), signal.SIGKILL)


def _module(name: str) -> ModuleType:
    if not name.endswith(".py"):
        return import_module(f".{name}", __package__)
    spec = spec_from_file_location("calls", name)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is not a Python file")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _answer(handler: object, call: wire.Call) -> bytes:
    try:
        verb: Callable[..., object] = getattr(handler, call.verb)
        return wire.pack(wire.Result(verb(**call.options)))
    except SystemExit as error:
        return _failure("exit", f"it called exit({error.code})")
    except BaseException as error:  # noqa: BLE001 - the other side decides what it means
        with suppress(OSError):  # the log's disk may be full, which is then the cause itself
            traceback.print_exc()
        return _failure(type(error).__name__, str(error))


def _failure(kind: str, message: str) -> bytes:
    # file names that are not UTF-8 come as half characters, which cannot travel
    whole = message.encode(errors="backslashreplace").decode()
    return wire.pack(wire.Failure(kind, whole))
