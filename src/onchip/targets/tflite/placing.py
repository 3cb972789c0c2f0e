"""What an NPU would run of a .tflite file that is yet to be compiled for it."""

from dataclasses import replace

from onchip.formats import tflite
from onchip.formats.tflite_npus import placed
from onchip.targets.target import Foresight


def foreseen(begun: Foresight, given: bytes, family: str) -> Foresight:
    """Say of each operator of a file that a family of NPUs leaves why it does."""
    found = placed(tflite.parse(given, "the file for the compiler"), family)
    left = tuple(f"{x.name} ({x.op}): {x.why}" for x in found.left)
    return replace(begun, unsupported=left, forecast=(found.describe(),))
