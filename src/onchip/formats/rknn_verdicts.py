"""What is worth telling about a compiled `.rknn` file before it goes to a board."""

import re
from collections.abc import Iterator

from onchip.formats.one_scale import STRIDES, one_scale, stacked
from onchip.formats.rknn import MINI, RknnFile
from onchip.spec import Verdict

# The runtime that loads a format, and its first version that does, where it is known: older ones
# say "Invalid RKNN model version 6".
RUNTIMES = {
    **dict.fromkeys(range(1, 6), ("librknnrt", "")),
    6: ("librknnrt", "1.5.2"),
    MINI: ("librknnmrt", ""),
}
OLD_CHIPS = frozenset({"rk1806", "rk1808", "rk3399pro", "rv1109", "rv1126"})
OLD_RUNTIME = ("librknn_runtime", "")  # of rknn-toolkit, whose format is 1 as well

# Chips for which Rockchip ships one and the same compiled file.
SIBLINGS = (
    frozenset({"rk1806", "rk1808"}),
    frozenset({"rk3566", "rk3568"}),
    frozenset({"rk3588", "rk3588s"}),
    frozenset({"rv1103", "rv1106"}),
    frozenset({"rv1103b", "rv1106b"}),
    frozenset({"rv1109", "rv1126"}),
)

DFL = 64  # channels of four distributions of 16 bins


def verdicts(file: RknnFile, chip: str | None = None) -> tuple[Verdict, ...]:
    """Judge a compiled file, for a chip such as "rk3588" where one is given."""
    return (
        *_incomplete(file),
        *_wrong_chip(file, chip),
        *_runtime(file),
        *_mean_std(file),
        *_one_scale(file),
        *_float(file),
    )


def _incomplete(file: RknnFile) -> Iterator[Verdict]:
    if not file.complete:
        yield Verdict(
            code="incomplete",
            message="the file is cut short or damaged: its closing description is missing; do "
            "not put it on a board, copy or export it again",
            level="warning",
        )


def _wrong_chip(file: RknnFile, chip: str | None) -> Iterator[Verdict]:
    if chip is None or not file.platforms:
        return
    runs = _chips(file)
    runs = runs.union(*(siblings for siblings in SIBLINGS if siblings & runs))
    if chip.lower() not in runs:
        yield Verdict(
            code="wrong_chip",
            message=f"compiled for {', '.join(file.platforms)}, not for {chip}: "
            "compile the network again for that chip",
            level="error",
        )


def _runtime(file: RknnFile) -> Iterator[Verdict]:
    """Which runtime the board needs; "1.5.2+b642f30c" is told as 1.5.2."""
    name, least = runtime(file)
    text = f"needs {name} >= {least}" if least else f"needs {name}"
    if plain := re.match(r"\d+(\.\d+)*", file.toolkit):
        text += f"; the same version as the toolkit, {plain.group()}, is best"
    yield Verdict(code="runtime_needed", message=text)


def runtime(file: RknnFile) -> tuple[str, str]:
    """Return the library that loads a file, and its first version that does, where it is known."""
    old = _chips(file) & OLD_CHIPS
    return OLD_RUNTIME if old else RUNTIMES.get(file.version, ("librknnrt", ""))


def _chips(file: RknnFile) -> frozenset[str]:
    return frozenset(p.lower() for p in file.platforms)


def _mean_std(file: RknnFile) -> Iterator[Verdict]:
    if not (stacked(_pixels(file), file.outputs) or _is_grids(file)):
        return
    for tensor in file.inputs:
        figures = (*tensor.mean, *tensor.std)
        if tensor.mean and tensor.std and all(127 <= x <= 128.5 for x in figures):
            yield Verdict(
                code="mean_std",
                message=f"mean {tensor.mean[0]:g} and std {tensor.std[0]:g} give the network -1 "
                "to 1, but its outputs look like YOLO, which wants 0 to 1: mean 0 and std 255",
                level="warning",
            )


def _one_scale(file: RknnFile) -> Iterator[Verdict]:
    yield from one_scale(_pixels(file), file.outputs)


def _float(file: RknnFile) -> Iterator[Verdict]:
    tensors = (*file.inputs, *file.outputs)
    if tensors and all(t.dtype == "float16" for t in tensors):
        yield Verdict(
            code="float_model",
            message="inputs and outputs are float16: nothing is quantized, but perhaps weights",
        )


def _is_grids(file: RknnFile) -> bool:
    """Whether every grid has box distributions beside scores, or one tensor of three anchors."""
    size = _pixels(file)
    if size is None:
        return False
    for stride in STRIDES:
        grid = (size[0] // stride, size[1] // stride)
        here = [t.shape[1] for t in file.outputs if len(t.shape) == 4 and t.shape[2:] == grid]
        distributions = len(here) > 1 and DFL in here
        anchors = len(here) == 1 and here[0] % 3 == 0 and here[0] // 3 > 5
        if not (distributions or anchors):
            return False
    return True


def _pixels(file: RknnFile) -> tuple[int, int] | None:
    """Height and width of the only image that the network takes."""
    images = [t for t in file.inputs if t.layout in ("nchw", "nhwc")]
    if len(images) != 1 or min(images[0].shape) < 1:
        return None
    top = images[0].layout.index("h")
    return images[0].shape[top], images[0].shape[top + 1]
