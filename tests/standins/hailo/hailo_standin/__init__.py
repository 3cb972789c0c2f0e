"""What the stand-ins for Hailo's compiler and runtime share, and how a test steers them.

A test steers them by environment variables, each `HAILO_STANDIN_` and a name below. All are read
at the moment they matter, so that a test may set and clear them as it goes.
"""

import os
import signal
import time

KNOBS = {
    # the compiler
    "GPU": "a GPU is there, and so many percent of its memory are in use (0 to 100); none if unset",
    "DFC": "the compiler's version, where it is to be another than its wheel says",
    "GRAPHVIZ": "missing: the import fails for want of pygraphviz; warning: it only says so",
    "SYSTEM": "127: the check of the system's packages fails at import",
    "HANG": "names of stages (import, translate, optimize, compile) in which it hangs",
    "KILL": "names of stages in which it is killed, as by a machine out of memory",
    "CRASH": "names of stages in which it aborts, as native code does",
    "REDUCE": "always: also a level that the script names is reduced, not only the default",
    "SIGMOID": "auto: nms_postprocess makes class layers sigmoid by itself, as DFC 3.33.1 was seen to",
    "DEMOTE": "log: outputs asked for in 16 bits get 8, and it says so; silent: and it does not",
    "DAMAGE": "boxes, scores: the layers that make them lose nearly all of their range, silently",
    "SNR": "what is said of the outputs' signal to noise ratio (dB), whatever it is",
    "CONTEXTS": "into how many contexts the network is cut; 1 is a single one",
    "MAPPING": "infeasible, partition, crash: how the allocation fails",
    "USER": "needed: compiling fails where the environment has no USER, as was seen in containers",
    # the runtime
    "DEVICES": "the chips there are: id=arch, with commas between; none for no chip at all",
    "BUSY": "the chips that someone else uses",
    "STATE": "a folder in which processes see each other's use of the chips",
    "HAILORT": "the library's version (4.23.0)",
    "NATIVE": "the version of the native part, where it is to differ from the package's",
    "DRIVER": "the driver's version, where it is to differ; ioctl: one so old that it fails",
    "FIRMWARE": "the firmware's version, where it is to differ from the library's",
    "LOST": "a file: while it exists, the chip is gone",
    "LOST_AFTER": "the chip is gone after so many frames, until the process ends",
    "SLOW": "milliseconds that each frame takes",
}


def knob(name: str) -> str:
    """Return what a test set, or nothing.

    >>> knob("SPEED")
    Traceback (most recent call last):
    KeyError: 'SPEED'
    """
    assert KNOBS[name]
    return os.environ.get(f"HAILO_STANDIN_{name}", "")


def stage(name: str) -> None:
    """Enter a stage, in which a test may want it to hang, to be killed or to crash."""
    if name in knob("HANG").split(","):
        time.sleep(3600)
    if name in knob("KILL").split(","):
        os.kill(os.getpid(), signal.SIGKILL)
    if name in knob("CRASH").split(","):
        os.abort()
