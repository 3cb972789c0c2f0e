"""Plays the compiler's optimization, whose import chooses a GPU, or none.

It takes one only if less than 5 % of its memory is in use, and else makes all of them invisible for
the whole process, so that everything runs on the CPU at level 0. A choice made before the import,
in `CUDA_VISIBLE_DEVICES`, is kept.
"""

import os

from hailo_standin import knob
from hailo_standin.said import info

MOST_USED = 5  # % of the memory


def _choose() -> None:
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        if os.environ["CUDA_VISIBLE_DEVICES"] not in ("", "-1", "99") and knob("GPU"):
            info(f"Selected GPU {os.environ['CUDA_VISIBLE_DEVICES']}")
    elif knob("GPU") and float(knob("GPU")) < MOST_USED:
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"
        info("No GPU chosen, Selected GPU 0")
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = "99"
        info("No GPU chosen and no suitable GPU found, falling back to CPU.")


def gpu() -> bool:
    """Whether this process sees a GPU."""
    return bool(knob("GPU")) and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1", "99")


_choose()
